"""DGR and its ablations as recipes: He, Gradient reweighting: towards imbalanced class-incremental learning, CVPR 2024.

DGR = replay + balanced softmax ("regularised softmax") + decoupled gradient reweighting + distribution-aware
distillation. The parts are the plugins of `gradient_reweighting` and `dakd`; an ablation is a subclass that changes one
of them, under a name of its own. The released code's rules are the defaults; `gradient_reweighting`
lists the deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from strategies.dgr.distillation import DistributionAwareDistillationPlugin
from strategies.dgr.reweighting import GradientReweightingPlugin, StaticReweightingPlugin
from strategies.networks.heads import LinearHead
from strategies.training.criteria import BalancedSoftmax, SeenCrossEntropy
from strategies.training.recipe import Context, Parts, Recipe

REFERENCE = "He, Gradient reweighting: towards imbalanced class-incremental learning, CVPR 2024"


@dataclass(frozen=True, kw_only=True)
class DGR(Recipe):
    """The paper's method.

    Fields
    ------
    groups, rule, attenuation, attenuation_counts, balance : see `GradientReweightingPlugin`.
    distillation, weight, entropy : kind, lambda_b and R of `DistributionAwareDistillationPlugin`.
    reweight_distillation : multiply the distillation rows by A as well.
    """

    name: ClassVar[str] = "dgr"
    reference: ClassVar[str] = REFERENCE
    requires_memory: ClassVar[bool] = True
    offset: ClassVar[bool] = True  # logits + log prior in training
    plugin: ClassVar[type[GradientReweightingPlugin]] = GradientReweightingPlugin
    groups: Literal["decoupled", "unified", "intra", "none"] = "decoupled"
    rule: Literal["official", "symmetric"] = "official"
    attenuation: Annotated[float, Ge(0)] = 1.0
    attenuation_counts: Literal["samples", "classes"] = "samples"
    balance: Literal["norm"] | float = "norm"
    distillation: Literal["dakd", "vanilla", "feature", "none"] = "dakd"
    weight: Annotated[float, Ge(0)] = 0.7
    entropy: Annotated[float, Ge(0), Le(1)] | None = None
    reweight_distillation: bool = False

    def build(self, context: Context) -> Parts:
        distillation = DistributionAwareDistillationPlugin(self.distillation, self.weight, entropy=self.entropy)
        reweighting = self.plugin(
            distillation,
            groups=self.groups,
            rule=self.rule,
            attenuation=self.attenuation,
            attenuation_counts=self.attenuation_counts,
            balance=self.balance,
            reweight_distillation=self.reweight_distillation,
        )
        return Parts(
            head=LinearHead(context.num_features),
            criterion=BalancedSoftmax() if self.offset else SeenCrossEntropy(),
            plugins=[context.exemplars(), distillation, reweighting],
        )


@dataclass(frozen=True, kw_only=True)
class DGRSymmetric(DGR):
    """r_new may boost the new group as well: the rule that the paper's text describes."""

    name: ClassVar[str] = "dgr_symmetric"
    rule: Literal["official", "symmetric"] = "symmetric"


@dataclass(frozen=True, kw_only=True)
class UnifiedGR(DGR):
    """GR: one group over all classes (our definition for later experiences; the released code has none)."""

    name: ClassVar[str] = "gr"
    groups: Literal["decoupled", "unified", "intra", "none"] = "unified"


@dataclass(frozen=True, kw_only=True)
class IntraGR(DGR):
    """alpha within old and within new classes, no ratio between them; distillation rows as they come, beta = 1."""

    name: ClassVar[str] = "gr_intra"
    groups: Literal["decoupled", "unified", "intra", "none"] = "intra"
    balance: Literal["norm"] | float = 1.0


@dataclass(frozen=True, kw_only=True)
class CrossEntropyKD(DGR):
    """The ablation's baseline: cross-entropy and plain distillation, no row reweighted."""

    name: ClassVar[str] = "ce_kd"
    offset: ClassVar[bool] = False
    groups: Literal["decoupled", "unified", "intra", "none"] = "none"
    balance: Literal["norm"] | float = 1.0
    distillation: Literal["dakd", "vanilla", "feature", "none"] = "vanilla"


@dataclass(frozen=True, kw_only=True)
class BalancedSoftmaxKD(CrossEntropyKD):
    """The baseline with the regularised softmax."""

    name: ClassVar[str] = "bsce_kd"
    offset: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class DGRStatic(DGR):
    """The rule of DGR on image counts, known beforehand, in place of accumulated gradients."""

    name: ClassVar[str] = "dgr_static"
    plugin: ClassVar[type[GradientReweightingPlugin]] = StaticReweightingPlugin


@dataclass(frozen=True, kw_only=True)
class DGRNoAttenuation(DGR):
    """gamma = 1."""

    name: ClassVar[str] = "dgr_no_attenuation"
    attenuation: Annotated[float, Ge(0)] = 0.0


@dataclass(frozen=True, kw_only=True)
class DGRNoBeta(DGR):
    """Distillation rows as they come, beta = 1."""

    name: ClassVar[str] = "dgr_no_beta"
    balance: Literal["norm"] | float = 1.0


@dataclass(frozen=True, kw_only=True)
class DGRNoOffset(DGR):
    """Plain softmax in training."""

    name: ClassVar[str] = "dgr_no_offset"
    offset: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class DGRVanillaKD(DGR):
    """Plain distillation of old logits: DAKD with R = 1 or w = 1, which are the same loss."""

    name: ClassVar[str] = "dgr_vanilla_kd"
    distillation: Literal["dakd", "vanilla", "feature", "none"] = "vanilla"


@dataclass(frozen=True, kw_only=True)
class DGRMixedKD(DGR):
    """DAKD with R = 0: the mixed logits alone; plain distillation as long as no class has lost an image."""

    name: ClassVar[str] = "dgr_mixed_kd"
    entropy: Annotated[float, Ge(0), Le(1)] | None = 0.0


@dataclass(frozen=True, kw_only=True)
class DGRReweightedKD(DGR):
    """A on the distillation rows as well: the negative control."""

    name: ClassVar[str] = "dgr_reweighted_kd"
    reweight_distillation: bool = True


@dataclass(frozen=True, kw_only=True)
class DGRFeatureKD(DGR):
    """1 - cos of the features."""

    name: ClassVar[str] = "dgr_feature_kd"
    distillation: Literal["dakd", "vanilla", "feature", "none"] = "feature"


@dataclass(frozen=True, kw_only=True)
class DGRNoKD(DGR):
    """Reweighting alone."""

    name: ClassVar[str] = "dgr_no_kd"
    distillation: Literal["dakd", "vanilla", "feature", "none"] = "none"
