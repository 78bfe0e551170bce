"""Multi-label finetuning, alone and with exemplars: binary cross-entropy on the entries that are annotated.

An image is annotated for the classes of its own experience only, and so are its entries in memory. `missing` says what
becomes of all others: "masked" leaves them out of the loss; "negative" takes every image for completely annotated, new
images (on old classes) as well as exemplars, which is what code written for complete labels does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.multilabel.base import AnnotatedLoss, Missing, MultiLabelRecipe
from strategies.networks.heads import LinearHead
from strategies.training.recipe import Context, Parts, Recipe


@dataclass(frozen=True, kw_only=True)
class MultiLabelFinetune(Recipe):
    """New data alone."""

    name: ClassVar[str] = "ml_finetune"
    reference: ClassVar[str] = "the naive baseline"
    task_kind: ClassVar[str] = "multi"

    def build(self, context: Context) -> Parts:
        return Parts(head=LinearHead(context.num_features), criterion=AnnotatedLoss())


@dataclass(frozen=True, kw_only=True)
class MultiLabelReplay(MultiLabelRecipe):
    """New data and exemplars."""

    name: ClassVar[str] = "ml_replay"
    reference: ClassVar[str] = "Chaudhry et al., On tiny episodic memories in continual learning, 2019"
    requires_memory: ClassVar[bool] = True
    missing: Missing = "masked"

    def build(self, context: Context) -> Parts:
        return Parts(
            head=LinearHead(context.num_features),
            criterion=AnnotatedLoss(missing=self.missing),
            plugins=self.replay(context),
        )
