"""Finetune: train on the new data and nothing else. The lower bound of every table.

`masked` trains the new columns only (softmax over them alone), as FACIL does without exemplars: old rows then get no
gradient from the loss, though weight decay still reaches them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.networks.heads import LinearHead
from strategies.training.criteria import NewCrossEntropy, SeenCrossEntropy
from strategies.training.recipe import Context, Parts, Recipe


@dataclass(frozen=True, kw_only=True)
class Finetune(Recipe):
    """Cross-entropy over all seen classes (or the new ones, `masked`) on the new data."""

    name: ClassVar[str] = "finetune"
    reference: ClassVar[str] = "the naive baseline"
    masked: bool = False

    def build(self, context: Context) -> Parts:
        return Parts(
            head=LinearHead(context.num_features),
            criterion=NewCrossEntropy() if self.masked else SeenCrossEntropy(),
        )
