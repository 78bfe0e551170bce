"""LUCIR step by step, the ablation of Hou et al., CVPR 2019: cn, cn_lc, (lucir = + inter-class separation), + cbf.

- `lucir_cn`: cosine head, imprinting and the score-mimic loss L_dis^C = C_o * mean (s - s*)^2 on unscaled cosines of
  old classes; old rows are trained. Eq. 5 is printed with a minus sign and a norm that is not squared; the released
  code has this form.
- `lucir_cn_lc`: the less-forget constraint in its place, old rows frozen.
- `lucir_constant`: lucir with lambda = lambda_base throughout ("w/o AW").
- `lucir_cbf`: lucir, and from the second experience on a class-balance finetuning of old and new rows on the exemplars
  of all classes, just chosen, with LUCIR's losses and the backbone frozen (`ft_flag=2` of the released code; eta is in
  none of its parameter groups and stays). The next experience goes on from the finetuned model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from strategies.lucir import LUCIR, ImprintingPlugin, LessForgetPlugin
from strategies.networks.heads import CosineHead
from strategies.networks.precision import full_precision
from strategies.training.classifiers import HeadClassifier, NearestMeanClassifier
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.memory import ExemplarMemoryPlugin
from strategies.training.recipe import Context, Parts, Recipe
from strategies.training.schedule import Schedule
from strategies.training.stages import FreshFeatures, Stage

REFERENCE = LUCIR.reference


def score_mimic_loss(cosines: Tensor, teacher_cosines: Tensor) -> Tensor:
    """L_dis^C: C_o times the mean squared difference of the old classes' cosines (B, C_o)."""
    return cosines.shape[1] * (cosines - teacher_cosines).square().mean()


class ScoreMimicPlugin(ImprintingPlugin):
    """Imprinting and L_dis^C, weighted."""

    def __init__(self, weight: float, imprint: bool) -> None:
        super().__init__(imprint)
        self.weight = weight

    def combine(self, strategy: Any, loss: Tensor) -> Tensor:
        teacher_features, _ = self.teacher_outputs(strategy)
        teacher_head: Any = self.teacher.model.head  # type: ignore[union-attr]
        with torch.no_grad():
            teacher_cosines = self.seen.old_logits(full_precision(teacher_head.cosines(teacher_features)))
        cosines = strategy.model.head.cosines(strategy.model.last_features)
        return loss + self.weight * score_mimic_loss(self.seen.old_logits(full_precision(cosines)), teacher_cosines)


@dataclass(frozen=True, kw_only=True)
class LUCIRCosineNormalisation(Recipe):
    """Cosine normalisation and score mimicking."""

    name: ClassVar[str] = "lucir_cn"
    reference: ClassVar[str] = REFERENCE
    requires_memory: ClassVar[bool] = True
    last_relu: ClassVar[bool] = False
    weight: Annotated[float, Ge(0)] = 1.0
    imprint: bool = True

    def build(self, context: Context) -> Parts:
        memory = context.exemplars()
        return Parts(
            head=CosineHead(context.num_features),
            criterion=SeenCrossEntropy(),
            plugins=[memory, ScoreMimicPlugin(self.weight, self.imprint)],
            classifiers=[HeadClassifier(), NearestMeanClassifier(memory)],
        )


@dataclass(frozen=True, kw_only=True)
class LUCIRLessForget(LUCIR):
    """LUCIR without inter-class separation."""

    name: ClassVar[str] = "lucir_cn_lc"
    margin: float | None = None


@dataclass(frozen=True, kw_only=True)
class LUCIRConstant(LUCIR):
    """LUCIR with a constant lambda."""

    name: ClassVar[str] = "lucir_constant"
    adaptive: bool = False


@dataclass(frozen=True, kw_only=True)
class LUCIRBalanced(LUCIR):
    """LUCIR with class-balance finetuning of its head: `cbf_epochs` at `cbf_lr`, a tenth of it in the second half."""

    name: ClassVar[str] = "lucir_cbf"
    cbf_epochs: Annotated[int, Ge(0)] = 20
    cbf_lr: Annotated[float, Ge(0)] = 0.01

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        memory, constraint = parts.plugins
        assert isinstance(memory, ExemplarMemoryPlugin) and isinstance(constraint, LessForgetPlugin)

        def loss(strategy: Any, features: Tensor, targets: Tensor) -> Tensor:
            """CE and L_mr; the less-forget term has no gradient where the backbone is frozen."""
            loss = strategy._criterion(strategy.model.head(features), targets)
            return loss if constraint.margin is None else loss + constraint.separation(strategy, features, targets)

        parts.stages = [
            Stage(
                name="class_balance_finetuning",
                epochs=self.cbf_epochs,
                batch_size=context.batch_size,
                lr=self.cbf_lr,
                momentum=context.momentum,
                weight_decay=context.weight_decay,
                schedule=Schedule("multistep", (0.5,)),
                data=lambda strategy: memory.dataset() if constraint.seen.num_old else None,
                parameters=lambda strategy: [strategy.model.head.old, strategy.model.head.new],
                loss=loss,
                batches=FreshFeatures,
            )
        ]
        return parts
