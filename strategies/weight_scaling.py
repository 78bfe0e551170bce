"""Learnable weight scaling, the two-stage methods of LT-CIL: Liu et al., Long-tailed class incremental learning, ECCV
2022 ("LUCIR+", "EEIL+", "PODNET+").

Stage 1 is the host. Stage 2, after every experience: with the backbone frozen, learn one scale g_c per class, z' = g z,
and go on training the head of the current experience (a cosine head's eta too), by cross-entropy over all seen classes
on the experience's data with class-aware sampling: classes in turn, four images each. 30 epochs, cosine from 0.1; a
tenth of that for the scales. Predictions use g z. The next teacher does not, but it has the head as stage 2 left it.

The released code multiplies signed logits: a class with a negative logit is lowered by g > 1. Deviations from it:

- the rate of the scales is a tenth throughout; there both groups share one rate in the first epoch;
- 30 epochs for every host; its EEIL stops after one;
- LUCIR is trained in every experience; there stage 1 is skipped where an experience has at most ten images per class;
- it has LUCIR without imprinting (`imprint=False`) and PODNet with plain cross-entropy (`loss=cross_entropy`).

PODNet's balanced finetuning falls away, as there; EEIL's stays. Its host is our `eeil`, noise, loss and finetuning
included (30 epochs at 0.01); theirs has no noise, distils with a mean of binary cross-entropies and finetunes 40 epochs
at 0.001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from strategies.eeil import EEIL
from strategies.lucir import LUCIR
from strategies.networks.heads import CosineHead, GrowingHead, SplitHead, SplitLinearHead
from strategies.podnet import PODNetWithoutFinetuning, ProxyHead
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.recipe import Context, Parts
from strategies.training.schedule import Schedule
from strategies.training.stages import FreshFeatures, Stage

REFERENCE = "Liu et al., Long-tailed class incremental learning, ECCV 2022"
IN_A_ROW = 4  # images of a class before the next one's turn
SCALES_RATE = 0.1  # learning rate of the scales, as a share of the head's


def class_aware_order(targets: np.ndarray, generator: torch.Generator) -> list[int]:
    """Positions (N,) that visit every class equally often, whatever its number of images.

    Classes take turns in an order that is drawn anew in every round; a turn is the next four images of the class, which
    are shuffled whenever all of them were visited.

    Parameters
    ----------
    targets : (N,) class ids.
    """
    classes = np.unique(targets)
    turns = -(-len(targets) // IN_A_ROW)
    rounds = -(-turns // len(classes))
    order = torch.cat([torch.randperm(len(classes), generator=generator) for _ in range(rounds)])[:turns]
    visits = torch.empty(turns, IN_A_ROW, dtype=torch.long)
    for k, label in enumerate(classes):
        images = torch.from_numpy(np.flatnonzero(targets == label))
        turn = (order == k).nonzero().flatten()
        passes = -(-len(turn) * IN_A_ROW // len(images))
        shuffled = torch.rand(passes, len(images), generator=generator).argsort(dim=1).flatten()
        visits[turn] = images[shuffled[: len(turn) * IN_A_ROW]].reshape(len(turn), IN_A_ROW)
    return visits.flatten()[: len(targets)].tolist()


class LearnableScales(GrowingHead):
    """Mixin, in front of a head: logits g * z in eval mode, plain z in training and in a teacher.

    `scales` (C,) holds g; a class starts at 1 when it arrives. Only stage 2 trains them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scales = nn.Parameter(torch.ones(0), requires_grad=False)

    def adaptation(self, experience: object) -> None:
        known = ~self.unseen
        super().adaptation(experience)
        if len(self.unseen) > len(known) or not torch.equal(~self.unseen, known):
            kept = torch.ones(len(self.unseen)).to(self.scales)
            kept[: len(known)] = torch.where(known, self.scales.detach(), kept[: len(known)])
            self.scales = nn.Parameter(kept, requires_grad=False)

    def scaled(self, logits: Tensor) -> Tensor:
        """g * z."""
        return self.scales * logits

    def scores(self, features: Tensor) -> Tensor:
        logits = super().scores(features)
        return logits if self.training else self.scaled(logits)

    def become_teacher(self) -> None:
        with torch.no_grad():
            self.scales.fill_(1.0)


class ScaledCosineHead(LearnableScales, CosineHead):
    """A cosine head with learnable scales."""


class ScaledLinearHead(LearnableScales, SplitLinearHead):
    """A linear head with learnable scales."""


class ScaledProxyHead(LearnableScales, ProxyHead):
    """PODNet's head with learnable scales."""


def add_weight_scaling(parts: Parts, head: SplitHead, context: Context, epochs: int, lr: float) -> Parts:
    """Put `head`, which has learnable scales, in place of a host's, and stage 2 behind the host's stages."""
    cross_entropy = SeenCrossEntropy()  # also where the host has another criterion; as a plugin it knows the classes

    def loss(strategy: Any, features: Tensor, targets: Tensor) -> Tensor:
        head = strategy.model.head
        return cross_entropy(head.scaled(head(features)), targets)

    def newest_head_and_scales(strategy: Any) -> Sequence[dict[str, Any]]:
        head = strategy.model.head
        newest = [head.new, *([head.eta] if isinstance(head, CosineHead) else [])]
        return [{"params": newest}, {"params": [head.scales], "lr": SCALES_RATE * lr}]

    parts.head = head
    parts.plugins.append(cross_entropy)
    parts.stages.append(
        Stage(
            name="weight_scaling",
            epochs=epochs,
            batch_size=context.batch_size,
            lr=lr,
            momentum=context.momentum,
            weight_decay=context.weight_decay,
            schedule=Schedule("cosine"),
            data=lambda strategy: strategy.adapted_dataset,
            parameters=newest_head_and_scales,
            loss=loss,
            batches=partial(FreshFeatures, order=class_aware_order),
        )
    )
    return parts


@dataclass(frozen=True, kw_only=True)
class LUCIRWeightScaling(LUCIR):
    """LUCIR, then `lws_epochs` of weight scaling from the rate `lws_lr`."""

    name: ClassVar[str] = "lucir_lws"
    reference: ClassVar[str] = REFERENCE
    lws_epochs: Annotated[int, Ge(0)] = 30
    lws_lr: Annotated[float, Ge(0)] = 0.1

    def build(self, context: Context) -> Parts:
        head = ScaledCosineHead(context.num_features, freeze_old=True)
        return add_weight_scaling(super().build(context), head, context, self.lws_epochs, self.lws_lr)


@dataclass(frozen=True, kw_only=True)
class EEILWeightScaling(EEIL):
    """EEIL with its balanced finetuning, then weight scaling."""

    name: ClassVar[str] = "eeil_lws"
    reference: ClassVar[str] = REFERENCE
    lws_epochs: Annotated[int, Ge(0)] = 30
    lws_lr: Annotated[float, Ge(0)] = 0.1

    def build(self, context: Context) -> Parts:
        head = ScaledLinearHead(context.num_features)
        return add_weight_scaling(super().build(context), head, context, self.lws_epochs, self.lws_lr)


@dataclass(frozen=True, kw_only=True)
class PODNetWeightScaling(PODNetWithoutFinetuning):
    """PODNet without balanced finetuning, then weight scaling of eta times its class similarities."""

    name: ClassVar[str] = "podnet_lws"
    reference: ClassVar[str] = REFERENCE
    lws_epochs: Annotated[int, Ge(0)] = 30
    lws_lr: Annotated[float, Ge(0)] = 0.1

    def head(self, context: Context) -> ProxyHead:
        return ScaledProxyHead(context.num_features, self.proxies)

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        return add_weight_scaling(parts, parts.head, context, self.lws_epochs, self.lws_lr)
