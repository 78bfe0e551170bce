"""A backbone and a growing head, one module, so that Avalanche sees an ordinary model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from strategies.networks.heads import GrowingHead
from strategies.networks.passes import Compute
from strategies.networks.precision import full_precision


class IncrementalNetwork(nn.Module):
    """logits = head(backbone(x)).

    The head always runs in full precision, whatever autocast the backbone runs under: 1/100-scale logit gradients of
    rare classes vanish in bfloat16. `last_features` holds the features (B, d) of the latest forward pass, with their
    graph, for the losses that work on features; after `keep_maps()`, `last_maps` holds the backbone's stage maps too.
    `compute` counts the images that passed, through this network and the teachers copied from it.
    """

    def __init__(self, backbone: nn.Module, head: GrowingHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.last_features: Tensor | None = None
        self.last_maps: list[Tensor] | None = None
        self.compute = Compute()
        self._is_copy = False
        self._keeps_maps = False
        self._compiled: Callable[[Tensor], Any] | None = None
        self._compiled_batch = 0
        self._initial_backbone = {key: value.clone() for key, value in backbone.state_dict().items()}

    def features(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> features (B, d), at least float32."""
        if not self._keeps_maps:
            return self._counted(self._run_backbone(x))
        maps, features = self.maps_and_features(x)
        if self.backbone.training:
            self.last_maps = maps
        return features

    def keep_maps(self) -> None:
        """From now on every forward pass in training leaves the backbone's stage maps in `last_maps`.

        Raises
        ------
        ValueError : the backbone has no `forward_maps(x)`.
        """
        if self._keeps_maps:
            return
        if not hasattr(self.backbone, "forward_maps"):
            raise ValueError(
                f"the backbone {type(self.backbone).__name__} has no forward_maps(x) -> (stage maps, features), which "
                "this method distils"
            )
        self._keeps_maps = True
        if self._compiled is not None:
            self.compile_backbone(self._compiled_batch)

    def maps_and_features(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Images (B, 3, H, W) -> the pre-ReLU maps (B, c, h, w) of every stage, and the features (B, d)."""
        backbone: Any = self.backbone
        maps, features = self._run_backbone(x) if self._keeps_maps else backbone.forward_maps(x)
        return maps, self._counted(features)

    def _counted(self, features: Tensor) -> Tensor:
        self.compute.count(len(features), backward=features.requires_grad, teacher=self._is_copy)
        return full_precision(features)

    def compile_backbone(self, batch_size: int) -> None:
        """Compile the backbone for full training batches. The head grows and last batches vary: they run eagerly."""
        method = self._eager() if self._keeps_maps else self.backbone.forward
        self._compiled = torch.compile(method, dynamic=False)  # a method: a compiled module would become a submodule
        self._compiled_batch = batch_size

    def _eager(self) -> Any:
        return self.backbone.forward_maps if self._keeps_maps else self.backbone

    def _run_backbone(self, x: Tensor) -> Any:
        """The backbone's features; once maps are kept, (maps, features)."""
        if self._compiled is None or not self.backbone.training or len(x) != self._compiled_batch:
            return self._eager()(x)
        try:
            return self._compiled(x)
        except Exception as error:  # no compiler on this machine, or a backbone it cannot handle
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"the backbone runs uncompiled: {reason}", stacklevel=2)
            self._compiled = None
            return self._eager()(x)

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
        clone.last_features = clone.last_maps = None
        clone.compute, clone._is_copy = self.compute, True
        clone._keeps_maps = self._keeps_maps
        clone._compiled, clone._compiled_batch = None, 0
        clone._initial_backbone = self._initial_backbone
        return clone
