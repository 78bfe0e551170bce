"""iCaRL: Rebuffi et al., Incremental classifier and representation learning, CVPR 2017.

Predicts by the nearest mean of exemplars; the head's arg-max ("hybrid1") is recorded beside it. Two losses:

- `ce_kd` (default): softmax cross-entropy plus distillation at temperature 2, the form that LUCIR, PyCIL and AANets
  compare with ("more effective" than the original in LUCIR's words).
- `bce`: one-vs-all sigmoid loss of the paper; for old columns the target is the teacher's sigmoid, exemplars included.
  Mean over batch and classes.

Deviations of `bce`, where the released code has 100 outputs from the start: its mean is over the C seen classes, so
that at the same learning rate a class weighs 100 / C times as much, and the paper's rate of 2.0 belongs to 100 seen
classes; no output of an unseen class is trained. Its ResNet has no ReLU behind the last block; with either loss this
one keeps it (as FACIL and LT-CIL do), so features of exemplars and their means are not negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt
from torch import Tensor

from strategies.networks.heads import LinearHead
from strategies.training.classifiers import HeadClassifier, NearestMeanClassifier
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.distillation import DistillationPlugin, TeacherPlugin
from strategies.training.losses import icarl_loss
from strategies.training.recipe import Context, Parts, Recipe


class SigmoidDistillationPlugin(TeacherPlugin):
    """Replaces the classification loss by iCaRL's sigmoid loss with the teacher's targets for old columns."""

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.loss = self.combine(strategy, strategy.loss)

    def combine(self, strategy: Any, loss: Tensor) -> Tensor:
        teacher_logits = self.teacher_outputs(strategy)[1] if self.seen.num_old else None
        return icarl_loss(self.seen.logits(strategy.mb_output), teacher_logits, self.seen.targets(strategy.mb_y))


@dataclass(frozen=True, kw_only=True)
class ICaRL(Recipe):
    """Exemplars by herding, distillation, nearest-mean-of-exemplars classifier."""

    name: ClassVar[str] = "icarl"
    reference: ClassVar[str] = "Rebuffi et al., iCaRL: incremental classifier and representation learning, CVPR 2017"
    requires_memory: ClassVar[bool] = True
    stock_note: ClassVar[str] = "`eval(stream)` shows its head; it predicts by nearest means"
    loss: Literal["ce_kd", "bce"] = "ce_kd"
    weight: Annotated[float, Ge(0)] = 1.0
    temperature: Annotated[float, Gt(0)] = 2.0

    def build(self, context: Context) -> Parts:
        memory = context.exemplars()
        distillation = (
            DistillationPlugin(self.weight, self.temperature) if self.loss == "ce_kd" else SigmoidDistillationPlugin()
        )
        return Parts(
            head=LinearHead(context.num_features),
            criterion=SeenCrossEntropy(),
            plugins=[memory, distillation],
            classifiers=[NearestMeanClassifier(memory), HeadClassifier()],
        )
