"""A backbone and a growing head, one module, so that Avalanche sees an ordinary model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from strategies.heads import GrowingHead


class IncrementalNetwork(nn.Module):
    """logits = head(backbone(x)).

    The head always runs in full precision, whatever autocast the backbone runs under: 1/100-scale logit gradients of
    rare classes vanish in bfloat16. `last_features` holds the features (B, d) of the latest forward pass, with their
    graph, for the losses that work on features.
    """

    def __init__(self, backbone: nn.Module, head: GrowingHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.last_features: Tensor | None = None
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._compiled_batch = 0
        self._initial_backbone = {key: value.clone() for key, value in backbone.state_dict().items()}

    def features(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> features (B, d), at least float32."""
        features = self._run_backbone(x)
        return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features

    def compile_backbone(self, batch_size: int) -> None:
        """Compile the backbone for full training batches. The head grows and last batches vary: they run eagerly."""
        self._compiled = torch.compile(self.backbone, dynamic=False)
        self._compiled_batch = batch_size

    def _run_backbone(self, x: Tensor) -> Tensor:
        if self._compiled is None or not self.backbone.training or len(x) != self._compiled_batch:
            return self.backbone(x)
        try:
            return self._compiled(x)
        except Exception as error:  # no compiler on this machine, or a backbone it cannot handle
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"the backbone runs uncompiled: {reason}", stacklevel=2)
            self._compiled = None
            return self.backbone(x)

    def classify(self, features: Tensor) -> Tensor:
        """Features (B, d) -> logits (B, C)."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        self.last_features = self.features(x)
        return self.classify(self.last_features)

    def reset(self) -> None:
        """Back to the weights it was built with, and to a head without classes."""
        self.backbone.load_state_dict(self._initial_backbone)
        self.head.reset()

    def __deepcopy__(self, memo: dict[int, object]) -> IncrementalNetwork:
        """A copy for a teacher: the latest features belong to a graph and cannot be copied, nor are they wanted."""
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        nn.Module.__init__(clone)
        clone.backbone = copy.deepcopy(self.backbone, memo)
        clone.head = copy.deepcopy(self.head, memo)
        clone.last_features = None
        clone._compiled, clone._compiled_batch = None, 0
        clone._initial_backbone = self._initial_backbone
        return clone
