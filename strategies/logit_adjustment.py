"""Adjusting logits by log counts of a long tail, in the loss or after training: the two controls of AdaPrior's ablation
(CVPR 2026; Menon et al., Long-tail learning via logit adjustment, ICLR 2021), on LUCIR.

- `lucir_logn`, our reading of the table row "LUCIR + log-N adjustment": cross-entropy of z + log N, N_c the images
  class c had in the experience that brought it, exemplars or not: the long tail of the stream. Balanced softmax
  (`lucir_bsce`) takes the images in the current training data instead, of an old class its exemplars alone, so that
  it corrects replay's imbalance as well. The two are the same in the first experience. This is an interpretation:
  the paper's text was not at hand; its table has both rows with different results, and with the counts of balanced
  softmax they would be one computation.
- `lucir_posthoc`: LUCIR as it is, and z - strength * log n at prediction, n the images of each class in the data that
  the model was last trained on: the prior that plain cross-entropy absorbed. `LogPriorClassifier` is a part that any
  host can take. Strength 1 is the derivation's; AdaPrior tunes 0.6 to 0.7 on a held-out split for its own prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from strategies.lucir import LUCIR
from strategies.training.criteria import BalancedSoftmax
from strategies.training.recipe import Context, Parts
from strategies.training.seen_classes import ClassCounts, SeenClassesPlugin, replays_from_loader

REFERENCE = "Menon et al., Long-tail learning via logit adjustment, ICLR 2021; rows of AdaPrior's ablation, CVPR 2026"


class LogCountAdjustment(BalancedSoftmax):
    """Cross-entropy of `logits + log N`, N the images of each class in the experience that brought it."""

    def counted(self) -> Tensor:
        return self.counts.original


class LogPriorClassifier(SeenClassesPlugin):
    """Scores z - strength * log n by the head's logits z; put it among a recipe's plugins and its classifiers.

    n are the images per class that the current experience was trained on, exemplars included; at least 1.
    """

    name = "posthoc"

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength
        self.counts = ClassCounts(self.seen)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.counts.update(strategy)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if replays_from_loader(strategy):
            self.counts.update(strategy)

    def prepare(self, strategy: Any) -> bool:
        return True

    def scores(self, features: Tensor, logits: Tensor) -> Tensor:
        log_counts = self.counts.available.clamp_min(1).log().to(logits)
        offset = torch.zeros_like(logits[0]).index_copy(0, self.seen.columns_on(logits.device), log_counts)
        return logits - self.strength * offset

    def state_dict(self) -> dict[str, Any]:
        return self.counts.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts.load_state_dict(state)


@dataclass(frozen=True, kw_only=True)
class LUCIRLogN(LUCIR):
    """LUCIR with log N in its loss."""

    name: ClassVar[str] = "lucir_logn"
    reference: ClassVar[str] = REFERENCE

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        parts.criterion = LogCountAdjustment()
        return parts


@dataclass(frozen=True, kw_only=True)
class LUCIRPostHoc(LUCIR):
    """LUCIR predicting with z - strength * log n."""

    name: ClassVar[str] = "lucir_posthoc"
    reference: ClassVar[str] = REFERENCE
    stock_note: ClassVar[str] = "`eval(stream)` shows the head before the adjustment"
    strength: Annotated[float, Ge(0)] = 1.0

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        adjusted = LogPriorClassifier(self.strength)
        parts.plugins.append(adjusted)
        parts.classifiers = [adjusted]
        return parts
