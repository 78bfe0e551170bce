"""Learning without forgetting: Li and Hoiem, ECCV 2016 / TPAMI 2018.

CE + weight * KD on the old logits at temperature 2. With exemplars, the cross-entropy runs over all classes and all
parameters are trained, which is what LUCIR calls iCaRL-CNN-like; `masked` restricts it to the new columns, as PyCIL and
FACIL do without exemplars. Deviation from FACIL: there the heads of old experiences leave the optimiser; here, as in
PyCIL, distillation and weight decay go on changing old rows. FACIL's weight of 1 is far from tuned for ten experiences
of balanced CIFAR-100; PyCIL has 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from strategies.networks.heads import LinearHead
from strategies.training.criteria import NewCrossEntropy, SeenCrossEntropy
from strategies.training.distillation import DistillationPlugin
from strategies.training.recipe import Context, Parts, Recipe


@dataclass(frozen=True, kw_only=True)
class LearningWithoutForgetting(Recipe):
    """Distillation from the previous model, and exemplars where the run has a memory."""

    name: ClassVar[str] = "lwf"
    reference: ClassVar[str] = "Li and Hoiem, Learning without forgetting, TPAMI 2018"
    weight: Annotated[float, Ge(0)] = 1.0
    temperature: Annotated[float, Gt(0)] = 2.0
    masked: bool = False

    def build(self, context: Context) -> Parts:
        return Parts(
            head=LinearHead(context.num_features),
            criterion=NewCrossEntropy() if self.masked else SeenCrossEntropy(),
            plugins=[context.exemplars(), DistillationPlugin(self.weight, self.temperature)],
        )
