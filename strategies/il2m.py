"""IL2M, dual memory: Belouadah and Popescu, IL2M: Class incremental learning with dual memory, ICCV 2019.

Replay, and a second memory of one number per class: mu^N(c), the mean score of class c on its own images when it was
learned, and M(s), the mean top score on the new images of experience s. When a new class wins, the score of every old
class is multiplied by mu^N(c) / mu^P(c) * M(t) / M(s_c), with mu^P(c) its mean score on its exemplars by the present
network, and the best score wins. Images are looked at without augmentation.

`scores` "softmax" (default) rectifies probabilities, "raw" logits as the released code and FACIL do; a ratio of raw
scores means little where one is negative. Deviation: the learning rate is the run's, not divided by the number of
experiences. A class without exemplars is not rectified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from strategies.networks.heads import LinearHead
from strategies.networks.precision import full_precision
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.features import class_means, extract_features
from strategies.training.memory import ExemplarMemoryPlugin
from strategies.training.recipe import Context, Parts, Recipe
from strategies.training.seen_classes import SeenClassesPlugin

SMALLEST = 1e-12  # mean probabilities below it count as this much


def rectify(logits: Tensor, ratios: Tensor, newest: Tensor, raw: bool) -> Tensor:
    """Multiply the scores of each image (B, C) that a new class wins by `ratios` (C,).

    newest : (C,) bool, the new classes; their ratio is 1.
    raw : scores are the logits themselves; else their softmax, whose product with a ratio is a sum of logarithms.
    """
    corrected = logits * ratios if raw else logits + ratios.log()
    return torch.where(newest[logits.argmax(dim=1)][:, None], corrected, logits)


class RectifiedHead(LinearHead):
    """A linear head whose scores are rectified in eval mode.

    Attributes
    ----------
    ratios : (C,) factor of each class, 1 until the statistics of the experience are taken.
    newest : (C,) bool, classes that the last experience brought.
    """

    ratios: Tensor
    newest: Tensor

    def __init__(self, num_features: int, raw: bool = False) -> None:
        super().__init__(num_features)
        self.raw = raw
        self.register_buffer("ratios", torch.ones(0))
        self.register_buffer("newest", torch.zeros(0, dtype=torch.bool))

    def adaptation(self, experience: object) -> None:
        super().adaptation(experience)
        if self.training:
            self.ratios = torch.ones_like(self.linear.bias.detach())
            self.newest = torch.zeros_like(self.ratios, dtype=torch.bool)

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits if self.training else rectify(logits, self.ratios, self.newest, self.raw)

    def reset(self) -> None:
        self.__init__(self.num_features, self.raw)  # type: ignore[misc]


class RectificationPlugin(SeenClassesPlugin):
    """Takes the statistics after each experience; put it behind the exemplar memory.

    Attributes
    ----------
    initial : (C_seen,) mu^N in arrival order.
    confidence : (C_seen,) M of the experience that brought each class.
    """

    def __init__(self, memory: ExemplarMemoryPlugin, raw: bool) -> None:
        super().__init__()
        self.memory, self.raw = memory, raw
        self.initial = torch.zeros(0)
        self.confidence = torch.zeros(0)

    @torch.no_grad()
    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        num_old = self.seen.num_old
        fresh, _, top = self._statistics(strategy, strategy.experience.dataset)
        self.initial = torch.cat([self.initial.to(fresh), fresh[num_old:]])
        self.confidence = torch.cat([self.confidence.to(fresh), top.expand(len(fresh) - num_old)])
        exemplars = self.memory.dataset(self.seen.class_ids[:num_old])
        if exemplars is None:
            return
        present, counts, _ = self._statistics(strategy, exemplars)
        present = present[:num_old] if self.raw else present[:num_old].clamp_min(SMALLEST)
        ratios = self.initial[:num_old] / present * top / self.confidence[:num_old]
        usable = (counts[:num_old] > 0) & ratios.isfinite() & (self.raw | (ratios > 0))
        head, columns = strategy.model.head, self.seen.columns_on(strategy.device)
        head.ratios[columns[:num_old]] = torch.where(usable, ratios, 1.0)
        head.newest[columns[num_old:]] = True

    def _statistics(self, strategy: Any, dataset: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Mean score of each seen class on its own images (C_seen,), their numbers (C_seen,), mean top score ()."""
        extracted = extract_features(strategy, dataset)
        logits = self.seen.logits(full_precision(strategy.model.head.linear(extracted.features)))
        scores = logits if self.raw else logits.softmax(dim=1)
        targets = self.seen.targets(extracted.targets)
        means, counts = class_means(scores.gather(1, targets[:, None]), targets, self.seen.num_seen)
        return means[:, 0], counts, scores.amax(dim=1).mean()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "initial": self.initial, "confidence": self.confidence}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.initial, self.confidence = state["initial"], state["confidence"]


@dataclass(frozen=True, kw_only=True)
class IL2M(Recipe):
    """Replay with scores rectified by stored statistics."""

    name: ClassVar[str] = "il2m"
    reference: ClassVar[str] = "Belouadah and Popescu, IL2M: Class incremental learning with dual memory, ICCV 2019"
    requires_memory: ClassVar[bool] = True
    scores: Literal["softmax", "raw"] = "softmax"

    def build(self, context: Context) -> Parts:
        memory, raw = context.exemplars(), self.scores == "raw"
        return Parts(
            head=RectifiedHead(context.num_features, raw),
            criterion=SeenCrossEntropy(),
            plugins=[memory, RectificationPlugin(memory, raw)],
        )
