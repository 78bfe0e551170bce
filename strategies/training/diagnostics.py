"""What happens inside the classifier while a method trains: for the paper's figures on gradients and head norms.

Reads only: attaching it changes no number of the run.
"""

from __future__ import annotations

from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from strategies.networks.heads import CosineHead, LinearHead, SplitHead, SplitLinearHead
from strategies.networks.precision import full_precision


class DiagnosticsPlugin(SupervisedPlugin):
    """Records per class, in column order, over one experience.

    `record()` after an experience gives:

    - ce_gradient_norm : norm of the gradient of the classification loss with respect to the head's weight row, averaged
      over steps (GR, Fig. 2); of frozen rows, what they would have received; None for heads of a kind not known here.
    - weight_norm, bias : of the head's rows afterwards (GR, Fig. 6); bias None without one.
    - Of a class with several proxies both norms are means over its proxies.
    - scale : eta of a cosine head, else None.
    - plugins : the `diagnostics()` of every plugin that has one (Phi, A, r_old, r_new, beta, gamma, lost counts).
    """

    def __init__(self) -> None:
        super().__init__()
        self._norms: Tensor | None = None
        self._steps = 0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        head = strategy.model.head
        known = isinstance(head, LinearHead | SplitHead)
        self._norms = torch.zeros(head.num_classes, device=strategy.device) if known else None
        self._steps = 0

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if self._norms is None:
            return
        logits = full_precision(strategy.mb_output.detach()).requires_grad_()
        (at_logits,) = torch.autograd.grad(strategy._criterion(logits, strategy.mb_y), logits)
        features = full_precision(strategy.model.last_features.detach())
        self._norms += _norms(_row_gradients(strategy.model.head, features, at_logits))
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
        weight, bias = _rows(head)
        return {
            "ce_gradient_norm": None if self._norms is None else (self._norms / max(self._steps, 1)).tolist(),
            "weight_norm": _norms(weight).tolist(),
            "bias": None if bias is None else bias.tolist(),
            "scale": float(head.eta.detach()) if isinstance(head, CosineHead) else None,
            "plugins": {
                type(plugin).__name__: plugin.diagnostics()
                for plugin in strategy.plugins
                if hasattr(plugin, "diagnostics")
            },
        }


def _rows(head: Any) -> tuple[Tensor, Tensor | None]:
    """The weight rows (C, d) or (C, proxies, d) of any head, and its biases (C,)."""
    if isinstance(head, LinearHead):
        return head.linear.weight.detach(), head.linear.bias.detach()
    rows = head.weight.detach()
    return (rows[:, :-1], rows[:, -1]) if isinstance(head, SplitLinearHead) else (rows, None)


def _norms(rows: Tensor) -> Tensor:
    """(C,) norm of a class's row, mean over its proxies if it has several."""
    return rows.norm(dim=-1).reshape(len(rows), -1).mean(dim=1)


def _row_gradients(head: LinearHead | SplitHead, features: Tensor, at_logits: Tensor) -> Tensor:
    """Gradient with respect to the weight rows, shaped as those, from the loss's gradient at the logits (B, C)."""
    if isinstance(head, LinearHead):
        return at_logits.T @ features
    blocks = {"old": head.old.detach().requires_grad_(), "new": head.new.detach().requires_grad_()}
    logits = torch.func.functional_call(head, blocks, (features,))
    rows = torch.cat(torch.autograd.grad(logits, tuple(blocks.values()), at_logits.to(logits)))
    rows = rows if head.row_of_column is None else rows[head.row_of_column]
    return rows[:, :-1] if isinstance(head, SplitLinearHead) else rows
