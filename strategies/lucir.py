"""LUCIR: Hou et al., Learning a unified classifier incrementally via rebalancing, CVPR 2019.

Cosine head with a learnable scale, less-forget constraint on features, margin ranking between old images and new
classes, adaptive lambda. Old rows are frozen; new rows are imprinted. No ReLU behind the last block. Where paper and
released code differ, the code is the default:

- lambda = lambda_base sqrt(C_o / C_n), growing along the stream (Eq. 7 is printed upside down);
- the margin term is a mean over the K hardest pairs (`mr_reduction="sum"`: the paper's sum over K);
- new rows are imprinted with the normalised class mean times the mean norm of old rows (not in the paper).

lambda_base is 5, the value for CIFAR-100; both use 10 on ImageNet, and so do the configs of large images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import normalize

from strategies.networks.heads import CosineHead
from strategies.networks.precision import full_precision
from strategies.training.classifiers import HeadClassifier, NearestMeanClassifier
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.distillation import TeacherPlugin
from strategies.training.features import extract_features
from strategies.training.labels import class_positions
from strategies.training.losses import less_forget_loss, margin_ranking_loss
from strategies.training.recipe import Context, Parts, Recipe


def imprinted_weight(features: Tensor, mean_old_norm: Tensor) -> Tensor:
    """A new class's row (d,): normalised mean of its normalised features (n, d), times the mean norm of old rows."""
    return normalize(normalize(features, dim=1).mean(dim=0), dim=0) * mean_old_norm


class ImprintingPlugin(TeacherPlugin):
    """Starts the rows of new classes at their class means if `imprint`; base of LUCIR's distillation losses."""

    def __init__(self, imprint: bool) -> None:
        super().__init__()
        self.imprint = imprint

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy)
        if self.imprint and self.seen.num_old:
            self._imprint(strategy)

    @torch.no_grad()
    def _imprint(self, strategy: Any) -> None:
        head, dataset = strategy.model.head, strategy.experience.dataset
        features = extract_features(strategy, dataset).features
        mean_old_norm = head.old.norm(dim=1).mean()
        for label, positions in class_positions(dataset).items():
            head.new[head.new_columns.index(label)] = imprinted_weight(features[positions], mean_old_norm)


class LessForgetPlugin(ImprintingPlugin):
    """Imprinting, L_dis^G and L_mr of LUCIR.

    Parameters
    ----------
    lambda_base : weight of the less-forget constraint, times sqrt(C_o / C_n) if `adaptive`.
    margin, k : margin and number of hardest new classes of the ranking loss; margin None leaves that loss out.
    imprint : start new rows at their class means.
    reduction : of the ranking loss, "pairs" or "sum" (`margin_ranking_loss`).
    """

    def __init__(
        self,
        lambda_base: float,
        adaptive: bool,
        margin: float | None,
        k: int,
        imprint: bool,
        reduction: str = "pairs",
    ) -> None:
        super().__init__(imprint)
        self.lambda_base, self.adaptive, self.margin, self.k = lambda_base, adaptive, margin, k
        self.reduction = reduction

    @property
    def weight(self) -> float:
        """lambda of the current experience."""
        num_old, num_new = self.seen.num_old, self.seen.num_seen - self.seen.num_old
        return self.lambda_base * (math.sqrt(num_old / num_new) if self.adaptive else 1.0)

    def combine(self, strategy: Any, loss: Tensor) -> Tensor:
        features = strategy.model.last_features
        teacher_features, _ = self.teacher_outputs(strategy)
        loss = loss + self.weight * less_forget_loss(features, teacher_features)
        return loss if self.margin is None else loss + self.separation(strategy, features, strategy.mb_y)

    def separation(self, strategy: Any, features: Tensor, labels: Tensor) -> Tensor:
        """L_mr of features (B, d) and class ids (B,), on unscaled cosines; for a margin that is not None."""
        assert self.margin is not None
        cosines = self.seen.logits(full_precision(strategy.model.head.cosines(features)))
        targets = self.seen.targets(labels)
        return margin_ranking_loss(cosines, targets, self.seen.num_old, self.k, self.margin, self.reduction)


@dataclass(frozen=True, kw_only=True)
class LUCIR(Recipe):
    """Cosine normalisation, less-forget constraint, inter-class separation."""

    name: ClassVar[str] = "lucir"
    reference: ClassVar[str] = "Hou et al., Learning a unified classifier incrementally via rebalancing, CVPR 2019"
    requires_memory: ClassVar[bool] = True
    last_relu: ClassVar[bool] = False
    lambda_base: Annotated[float, Ge(0)] = 5.0
    adaptive: bool = True
    margin: float | None = 0.5
    k: Annotated[int, Ge(1)] = 2
    mr_reduction: Literal["pairs", "sum"] = "pairs"
    imprint: bool = True

    def build(self, context: Context) -> Parts:
        memory = context.exemplars()
        constraint = LessForgetPlugin(
            self.lambda_base, self.adaptive, self.margin, self.k, self.imprint, self.mr_reduction
        )
        return Parts(
            head=CosineHead(context.num_features, freeze_old=True),
            criterion=SeenCrossEntropy(),
            plugins=[memory, constraint],
            classifiers=[HeadClassifier(), NearestMeanClassifier(memory)],
        )
