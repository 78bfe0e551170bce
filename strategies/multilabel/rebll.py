"""RebLL: Du et al., Rebalancing multi-label class-incremental learning, AAAI 2025 (arXiv 2408.12161).

Asymmetric knowledge distillation (AKD) and online relabeling of the memory (OR). No official code existed when this was
written ("The code is coming soon"), so the parts follow what is verified, and say what is an interpretation:

- Verified (abstract): the classification loss emphasises negative labels and the distillation loss down-weights
  over-confident predictions; the memory's missing labels are relabeled online.
- Interpretation: L_cls is the asymmetric loss with its direction turned around, gamma_pos 1 and gamma_neg 0, without
  clip, over every annotated entry, exemplars' old columns included. L_kd multiplies the positive part of the sigmoid
  distillation by exp(-eta q), eta 0.5 (`variant: both` decays confident negatives as well), on the old columns of
  every image. L = L_cls + weight * L_kd, weight 1. Labels above tau = 0.5, filled when an experience ends
  (`strategies.multilabel.relabeling`).

gamma_pos = gamma_neg = eta = 0 is `ml_lwf`; gamma_pos 0, gamma_neg 4, clip 0.05 and eta 0 is `ml_asl`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from strategies.multilabel.base import AnnotatedLoss, AsymmetricDistillationPlugin, MultiLabelRecipe
from strategies.multilabel.relabeling import OnlineRelabelingPlugin, OracleRelabelingPlugin, RelabelingPlugin
from strategies.networks.heads import LinearHead
from strategies.training.memory import ExemplarMemoryPlugin
from strategies.training.recipe import Context, Parts

REFERENCE = "Du et al., Rebalancing multi-label class-incremental learning, AAAI 2025"


@dataclass(frozen=True, kw_only=True)
class MultiLabelAKD(MultiLabelRecipe):
    """Asymmetric distillation alone: exemplars keep the annotations they came with."""

    name: ClassVar[str] = "ml_akd"
    reference: ClassVar[str] = REFERENCE
    weight: Annotated[float, Ge(0)] = 1.0
    eta: Annotated[float, Ge(0)] = 0.5
    variant: Literal["positive", "both"] = "positive"
    gamma_pos: Annotated[float, Ge(0)] = 1.0
    gamma_neg: Annotated[float, Ge(0)] = 0.0
    clip: Annotated[float, Ge(0), Lt(1)] = 0.0

    def build(self, context: Context) -> Parts:
        return Parts(
            head=LinearHead(context.num_features),
            criterion=AnnotatedLoss(self.gamma_pos, self.gamma_neg, self.clip),
            plugins=[*self.replay(context), AsymmetricDistillationPlugin(self.weight, self.eta, self.variant)],
        )


@dataclass(frozen=True, kw_only=True)
class RebLL(MultiLabelAKD):
    """Asymmetric distillation and online relabeling."""

    name: ClassVar[str] = "rebll"
    requires_memory: ClassVar[bool] = True
    threshold: Annotated[float, Gt(0), Lt(1)] = 0.5

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        memory, distillation = parts.plugins[0], parts.plugins[-1]
        assert isinstance(memory, ExemplarMemoryPlugin) and isinstance(distillation, AsymmetricDistillationPlugin)
        parts.plugins.append(self.relabeling(memory, distillation))
        return parts

    def relabeling(self, memory: ExemplarMemoryPlugin, distillation: AsymmetricDistillationPlugin) -> RelabelingPlugin:
        """What fills the missing labels."""
        return OnlineRelabelingPlugin(memory, distillation, self.threshold)


@dataclass(frozen=True, kw_only=True)
class MultiLabelOracle(RebLL):
    """`rebll` with true labels in memory: the bound of its relabeling (`threshold` plays no part)."""

    name: ClassVar[str] = "ml_oracle"
    reference: ClassVar[str] = "upper bound of relabeling"

    def relabeling(self, memory: ExemplarMemoryPlugin, distillation: AsymmetricDistillationPlugin) -> RelabelingPlugin:
        return OracleRelabelingPlugin(memory)
