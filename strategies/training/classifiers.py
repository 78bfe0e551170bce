"""How a trained network predicts: by its head, or by the nearest mean of the exemplars."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from strategies.training.features import extract_features
from strategies.training.memory import ExemplarMemoryPlugin


class Classifier(Protocol):
    """Scores test features; `prepare` runs once per evaluation, before any score, and says whether it applies."""

    name: str

    def prepare(self, strategy: Any) -> bool: ...

    def scores(self, features: Tensor, logits: Tensor) -> Tensor:
        """Features (N, d), logits (N, C) -> scores (N, C), larger is likelier."""
        ...


class HeadClassifier:
    """arg-max of the head's logits ("CNN" in the papers)."""

    name = "head"

    def prepare(self, strategy: Any) -> bool:
        return True

    def scores(self, features: Tensor, logits: Tensor) -> Tensor:
        return logits


class NearestMeanClassifier:
    """Nearest mean of exemplars (iCaRL, Eq. 2): normalise features, average per class, normalise again.

    Means use stored exemplars only, recomputed with the current network at every evaluation; classes without any are
    never predicted. Deviation: no horizontally flipped copies in the mean (as in PyCIL and FACIL), since not every
    dataset may be flipped.
    """

    name = "nme"

    def __init__(self, memory: ExemplarMemoryPlugin) -> None:
        self.memory = memory
        self.means = torch.empty(0)
        self.empty = torch.empty(0, dtype=torch.bool)

    def prepare(self, strategy: Any) -> bool:
        exemplars = self.memory.dataset()
        if exemplars is None:
            return False
        extracted = extract_features(strategy, exemplars)
        width = extracted.logits.shape[1]
        sums = extracted.features.new_zeros(width, extracted.features.shape[1])
        sums.index_add_(0, extracted.targets, normalize(extracted.features, dim=1))
        self.means = normalize(sums, dim=1)
        self.empty = torch.bincount(extracted.targets, minlength=width) == 0
        return True

    def scores(self, features: Tensor, logits: Tensor) -> Tensor:
        # Both are unit vectors, so the largest inner product is the smallest distance.
        return (normalize(features, dim=1) @ self.means.T).masked_fill(self.empty, -torch.inf)
