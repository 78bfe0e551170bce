"""Sigmoid distillation on old columns with binary cross-entropy (ml_lwf) or the asymmetric loss (ml_asl).

Learning without forgetting in its multi-label form: `L = L_cls + weight * sum_old BCE(p, q)`, q the previous model's
sigmoids (Li and Hoiem, TPAMI 2018, as multi-label incremental papers carry it; KRT and CSC weigh both by 0.5). With a
memory, exemplars keep the annotations they came with.

The asymmetric loss is Ben-Baruch et al., ICCV 2021, exactly; gamma_pos = 0, gamma_neg = 4, clip = 0.05 are those of
KRT's released code. It suppresses negatives, the direction that RebLL argues against under partial labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Lt

from strategies.multilabel.base import AnnotatedLoss, AsymmetricDistillationPlugin, MultiLabelRecipe
from strategies.networks.heads import LinearHead
from strategies.training.recipe import Context, Parts


@dataclass(frozen=True, kw_only=True)
class MultiLabelLwF(MultiLabelRecipe):
    """Binary cross-entropy and sigmoid distillation, exemplars where the run has a memory."""

    name: ClassVar[str] = "ml_lwf"
    reference: ClassVar[str] = "Li and Hoiem, Learning without forgetting, TPAMI 2018"
    weight: Annotated[float, Ge(0)] = 1.0

    def build(self, context: Context) -> Parts:
        return Parts(
            head=LinearHead(context.num_features),
            criterion=AnnotatedLoss(),
            plugins=[*self.replay(context), AsymmetricDistillationPlugin(self.weight)],
        )


@dataclass(frozen=True, kw_only=True)
class MultiLabelASL(MultiLabelLwF):
    """The asymmetric loss and sigmoid distillation."""

    name: ClassVar[str] = "ml_asl"
    reference: ClassVar[str] = "Ben-Baruch et al., Asymmetric loss for multi-label classification, ICCV 2021"
    gamma_pos: Annotated[float, Ge(0)] = 0.0
    gamma_neg: Annotated[float, Ge(0)] = 4.0
    clip: Annotated[float, Ge(0), Lt(1)] = 0.05

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        parts.criterion = AnnotatedLoss(self.gamma_pos, self.gamma_neg, self.clip)
        return parts
