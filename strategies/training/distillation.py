"""Knowledge distillation from the model of the previous experience, on the old classes' logits.

L_KD = -mean_b sum_{i < C_o} q_i log p_i with q, p softmaxes at temperature 2 of teacher and student (LwF, Eq. 2). Not
multiplied by the squared temperature: FACIL, PyCIL and Avalanche do not; SS-IL and GR do. SS-IL and EEIL take a softmax
of its own for the columns of each earlier experience.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from strategies.networks.precision import full_precision
from strategies.training.losses import distillation_loss, task_wise_distillation_loss
from strategies.training.seen_classes import SeenClassesPlugin
from strategies.training.teacher import Teacher, autocast_of


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


class TaskWiseDistillationPlugin(TeacherPlugin):
    """CE + weight * the sum over earlier experiences of T^2 KL within that experience's columns (SS-IL, EEIL)."""

    def __init__(self, weight: float, temperature: float) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature
        self.sizes: list[int] = []  # classes each earlier experience brought
        self._groups = torch.zeros(0, 0, dtype=torch.long)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy)
        if self.seen.num_old > sum(self.sizes):
            self.sizes.append(self.seen.num_old - sum(self.sizes))
        if self.sizes:
            self._groups = column_groups(self.sizes).to(strategy.device)

    def combine(self, strategy: Any, loss: Tensor) -> Tensor:
        student = full_precision(self.seen.old_logits(strategy.mb_output))
        return loss + self.task_wise(student, self.teacher_outputs(strategy)[1], self._groups)

    def task_wise(self, student: Tensor, teacher: Tensor, groups: Tensor) -> Tensor:
        """weight * the sum over `groups` of columns (G, m), for logits (B, C) in arrival order."""
        return self.weight * task_wise_distillation_loss(student, teacher, groups, self.temperature)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "sizes": list(self.sizes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.sizes = list(state["sizes"])


def column_groups(sizes: Sequence[int]) -> Tensor:
    """Columns of consecutive groups of classes, (G, m) int64, -1 behind shorter groups: sizes (2, 1) -> 0 1 | 2 -1."""
    return pad_sequence(list(torch.arange(sum(sizes)).split(list(sizes))), batch_first=True, padding_value=-1)
