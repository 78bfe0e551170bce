"""NCM, nearest class mean on frozen features: Mensink et al., Distance-based image classification, TPAMI 2013.

A control: the network is trained in the first experience (cross-entropy, linear head) and never again. Every class is
represented by the mean of the normalised features of all its images, taken when it arrives, and an image belongs to
the nearest mean. What a method gains over it comes from training on. It stores one vector a class and no exemplar.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from strategies.networks.heads import LinearHead
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.features import extract_features
from strategies.training.recipe import Context, Parts, Recipe
from strategies.training.seen_classes import SeenClassesPlugin


class NearestClassMeanHead(LinearHead):
    """A linear head in training mode, cosines to class means in eval mode.

    Attributes
    ----------
    sums : (C, d) sum of the normalised features of each class, in the direction of its mean.
    """

    sums: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.register_buffer("sums", torch.zeros(0, num_features))

    def extend(self, num_new: int) -> None:
        super().extend(num_new)
        self.sums = torch.cat([self.sums, self.sums.new_zeros(num_new, self.num_features)])

    def scores(self, features: Tensor) -> Tensor:
        if self.training:
            return super().scores(features)
        return normalize(features, dim=1) @ normalize(self.sums, dim=1).T


class ClassMeansPlugin(SeenClassesPlugin):
    """Trains the first experience only; adds the features of every experience to its classes' means."""

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy)
        if self.seen.num_old:
            strategy.train_epochs = 0

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        extracted = extract_features(strategy, strategy.experience.dataset)
        strategy.model.head.sums.index_add_(0, extracted.targets, normalize(extracted.features, dim=1))


@dataclass(frozen=True, kw_only=True)
class NCM(Recipe):
    """Nearest class mean on the features learned in the first experience."""

    name: ClassVar[str] = "ncm"
    reference: ClassVar[str] = "Mensink et al., Distance-based image classification, TPAMI 2013"

    def build(self, context: Context) -> Parts:
        return Parts(
            head=NearestClassMeanHead(context.num_features),
            criterion=SeenCrossEntropy(),
            plugins=[ClassMeansPlugin()],
        )
