"""What happens inside the classifier while a method trains: for the paper's figures on gradients and head norms.

Reads only: attaching it changes no number of the run.
"""

from __future__ import annotations

from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from strategies.heads import CosineHead, LinearHead
from strategies.losses import full_precision


class DiagnosticsPlugin(SupervisedPlugin):
    """Records per class, in column order, over one experience.

    `record()` after an experience gives:

    - ce_gradient_norm : norm of the head's weight row's gradient of the classification loss, averaged over steps (GR,
      Fig. 2), from closed form: D^T F with D the loss's gradient at the logits; None for heads that are not linear.
    - weight_norm, bias : of the head's rows afterwards (GR, Fig. 6); bias None without one.
    - scale : eta of a cosine head, else None.
    - plugins : the `diagnostics()` of every plugin that has one (Phi, A, r_old, r_new, beta, gamma, lost counts).
    """

    def __init__(self) -> None:
        super().__init__()
        self._norms: Tensor | None = None
        self._steps = 0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        head = strategy.model.head
        self._norms = torch.zeros(head.num_classes, device=strategy.device) if isinstance(head, LinearHead) else None
        self._steps = 0

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if self._norms is None:
            return
        logits = full_precision(strategy.mb_output.detach()).requires_grad_()
        (at_logits,) = torch.autograd.grad(strategy._criterion(logits, strategy.mb_y), logits)
        features = full_precision(strategy.model.last_features.detach())
        self._norms += (at_logits.T @ features).norm(dim=1)
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self._norms, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Within an experience, load after `before_training_exp`, which starts the sums anew."""
        if self._norms is not None and state["norms"] is not None:
            self._norms = state["norms"].to(self._norms.device)
        self._steps = state["steps"]

    def record(self, strategy: Any) -> dict[str, Any]:
        """The experience just trained, as JSON values; reading waits for the device."""
        head = strategy.model.head
        linear = isinstance(head, LinearHead)
        weight = head.linear.weight if linear else head.weight
        return {
            "ce_gradient_norm": None if self._norms is None else (self._norms / max(self._steps, 1)).tolist(),
            "weight_norm": weight.detach().norm(dim=1).tolist(),
            "bias": head.linear.bias.detach().tolist() if linear else None,
            "scale": float(head.eta.detach()) if isinstance(head, CosineHead) else None,
            "plugins": {
                type(plugin).__name__: plugin.diagnostics()
                for plugin in strategy.plugins
                if hasattr(plugin, "diagnostics")
            },
        }
