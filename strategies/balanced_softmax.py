"""Balanced softmax for class-incremental learning: Jodelet et al., Balanced softmax cross-entropy for incremental
learning, ICANN 2021 (loss: Ren et al., NeurIPS 2020).

Cross-entropy of z + log n, with n the images of each class really in the training data, exemplars included; recounted
in every experience. Training only: predictions use the raw logits. Replay with this loss is the paper's baseline; it
replaces the balanced finetuning of other methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.criterion import BalancedSoftmax
from strategies.heads import LinearHead
from strategies.recipe import Context, Parts, Recipe


@dataclass(frozen=True, kw_only=True)
class BalancedSoftmaxReplay(Recipe):
    """Replay with balanced softmax."""

    name: ClassVar[str] = "balanced_softmax"
    reference: ClassVar[str] = "Jodelet et al., Balanced softmax cross-entropy for incremental learning, ICANN 2021"
    requires_memory: ClassVar[bool] = True

    def build(self, context: Context) -> Parts:
        return Parts(head=LinearHead(context.num_features), criterion=BalancedSoftmax(), plugins=[context.exemplars()])
