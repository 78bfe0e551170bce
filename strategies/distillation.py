"""Knowledge distillation from the model of the previous experience, on the old classes' logits.

L_KD = -mean_b sum_{i < C_o} q_i log p_i with q, p softmaxes at temperature 2 of teacher and student (LwF, Eq. 2). Not
multiplied by the squared temperature: FACIL, PyCIL and Avalanche do not; SS-IL and GR do.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from strategies.losses import distillation_loss, full_precision
from strategies.seen import SeenClassesPlugin
from strategies.teacher import Teacher, autocast_of


class TeacherPlugin(SeenClassesPlugin):
    """Keeps a frozen copy of the previous model and the map of seen classes; base of all distillation plugins.

    The copy is taken when the next experience begins, before the head grows: it holds everything that was done to the
    model until then (weight aligning, bias correction), and nothing needs saving in between.
    """

    def __init__(self) -> None:
        super().__init__()
        self.teacher = Teacher()

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        if self.seen.num_seen:
            self.teacher.snapshot(strategy.model)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if self.seen.num_old:
            strategy.loss = self.combine(strategy, strategy.loss)

    def combine(self, strategy: Any, loss: Tensor) -> Tensor:
        """The loss with distillation, from the classification loss; called from the second experience on."""
        raise TypeError(f"{type(self).__name__} must define combine(strategy, loss)")

    def teacher_outputs(self, strategy: Any) -> tuple[Tensor, Tensor]:
        """The teacher's features (B, d) and logits of old classes (B, C_old) on the current batch."""
        with autocast_of(strategy):
            features, logits = self.teacher.features_and_logits(strategy.mb_x)
        return features, full_precision(self.seen.old_logits(logits))


class DistillationPlugin(TeacherPlugin):
    """CE + weight * KD (LwF, iCaRL with softmax)."""

    def __init__(self, weight: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature

    def distillation(self, strategy: Any) -> Tensor:
        """L_KD on the current batch."""
        student = full_precision(self.seen.old_logits(strategy.mb_output))
        return distillation_loss(student, self.teacher_outputs(strategy)[1], self.temperature)

    def combine(self, strategy: Any, loss: Tensor) -> Tensor:
        return loss + self.weight * self.distillation(strategy)


class ClassShareDistillationPlugin(DistillationPlugin):
    """(1 - lambda) CE + lambda KD with lambda = C_o / C, the old classes' share of all classes (BiC, WA)."""

    def combine(self, strategy: Any, loss: Tensor) -> Tensor:
        share = self.seen.num_old / self.seen.num_seen
        return (1 - share) * loss + share * self.distillation(strategy)
