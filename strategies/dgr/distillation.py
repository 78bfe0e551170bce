"""Distribution-aware knowledge distillation of gradient reweighting (GR, CVPR 2024), and the forms it is compared with.

    L_kd = kd_ratio * T^2 * L(student's old logits, teacher's old logits),    kd_ratio = weight * sqrt(n_seen / n_new)

with n_seen the images all old classes ever had and n_new those of the new classes. As in the released code T is 2.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from avalanche.core import SupervisedPlugin
from torch import Tensor

from strategies.networks.precision import full_precision
from strategies.training.losses import (
    distillation_loss,
    less_forget_loss,
    lost_class_weights,
    mixed_distillation_loss,
    normalised_entropy,
)
from strategies.training.seen_classes import ClassCounts, SeenClasses, replays_from_loader
from strategies.training.teacher import InputTap, Teacher, autocast_of, last_linear

Kind = Literal["dakd", "vanilla", "feature", "none"]


class DistributionAwareDistillationPlugin(SupervisedPlugin):
    """Adds the distillation loss to `strategy.loss` before the backward pass; from the second experience on.

    Works on any Avalanche supervised strategy whose model ends in a linear classifier with one column per class id.
    `GradientReweightingPlugin` asks it for the loss's gradient with respect to the old logits.

    Parameters
    ----------
    kind : "dakd"; "vanilla" (plain distillation of old logits); "feature" (1 - cosine of the features, the form of
        LUCIR, weighted by kd_ratio: the paper's exact form is not known); "none".
    weight : lambda_b.
    temperature : T.
    entropy : R in [0, 1] in place of the entropy of the lost images: 1 is vanilla, 0 the mixed logits alone. Where no
        class lost an image it is vanilla whatever R: there the mixed logits are the teacher's, which teach nothing.
    class_weight : w in [0, 1] for all classes in place of the lost images' share: 1 is vanilla.
    seen : class map shared with other plugins; own if None.

    Attributes
    ----------
    teacher : the model as it was before this experience.
    kd_ratio : coefficient of this experience; the loss is multiplied by kd_ratio * T^2.
    last_loss : the term last added, a scalar on the device (None when none was).
    """

    def __init__(
        self,
        kind: Kind = "dakd",
        weight: float = 0.7,
        temperature: float = 2.0,
        *,
        entropy: float | None = None,
        class_weight: float | None = None,
        seen: SeenClasses | None = None,
    ) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f'distillation kind "{kind}" is unknown. Valid choices: {", ".join(get_args(Kind))}.')
        if weight < 0 or temperature <= 0:
            raise ValueError(f"weight must be 0 or more and temperature positive, got {weight} and {temperature}.")
        for name, value in (("entropy", entropy), ("class_weight", class_weight)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; expected a number from 0 to 1.")
        self.kind, self.weight, self.temperature = kind, weight, temperature
        self.fixed_entropy, self.fixed_class_weight = entropy, class_weight
        self.counts = ClassCounts(seen)
        self.teacher = Teacher()
        self.kd_ratio = 0.0
        self.last_loss: Tensor | None = None
        self._entropy = torch.ones(())
        self._class_weights = torch.zeros(0)
        self._pair: tuple[Tensor, Tensor] | None = None
        self._features = InputTap()

    @property
    def gradient_scale(self) -> float:
        """kd_ratio * T, the order of magnitude of B times the logit gradient: the yardstick for rounding noise."""
        return self.kd_ratio * self.temperature

    def old_logit_gradient(self) -> Tensor | None:
        """Gradient of the last added term with respect to the old logits (B, C_old), arrival order; None without one.

        Closed form: kd_ratio T / B [R (U - P) + (1 - R) w (V - P)], P, U, V the softmaxes of teacher, student and mixed
        logits. Feature distillation has none.
        """
        if self._pair is None:
            return None
        student, teacher = self._pair
        p = F.softmax(teacher / self.temperature, dim=1)
        u = F.softmax(student / self.temperature, dim=1)
        scale = self.kd_ratio * self.temperature / len(student)
        if self.kind == "vanilla":
            return scale * (u - p)
        w, r = self._class_weights.to(student), self._entropy.to(student)
        v = F.softmax((w * student + (1 - w) * teacher) / self.temperature, dim=1)
        return scale * (r * (u - p) + (1 - r) * w * (v - p))

    def diagnostics(self) -> dict[str, Any]:
        """kd_ratio, R, w and the lost images of this experience, as plain values; None for what no loss used."""
        distilled = self.kind != "none" and self.counts.seen.num_old > 0
        mixed = distilled and self.kind == "dakd"
        return {
            "kd_ratio": self.kd_ratio if distilled else None,
            "entropy": float(self._entropy) if mixed else None,
            "class_weights": self._class_weights.tolist() if mixed else None,
            "lost": self.counts.lost.tolist(),
        }

    # --- hooks ----------------------------------------------------------------------------------------------------

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        # The head has not grown yet, and every calibration of the last experience is done.
        if self.kind != "none" and self.counts.seen.num_seen > 0:
            self.teacher.snapshot(strategy.model)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._pair = self.last_loss = None
        self._prepare(strategy)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if replays_from_loader(strategy):
            self._prepare(strategy)
        if self.kind == "feature" and self._distils:
            self._features.attach(last_linear(strategy.model))

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if not self._distils:
            return
        term = self._feature_term(strategy) if self.kind == "feature" else self._logit_term(strategy)
        strategy.loss = strategy.loss + term
        self.last_loss = term.detach()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._features.detach()
        self._pair = None

    def state_dict(self) -> dict[str, Any]:
        return self.counts.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts.load_state_dict(state)

    # --- parts ----------------------------------------------------------------------------------------------------

    @property
    def _distils(self) -> bool:
        return self.teacher.model is not None and self.counts.seen.num_old > 0

    def _prepare(self, strategy: Any) -> None:
        self.counts.update(strategy)
        lost = self.counts.lost
        if not len(lost):
            return
        # An experience without images of new classes keeps the ratio finite.
        self.kd_ratio = self.weight * math.sqrt(self.counts.num_seen_images / max(self.counts.num_new_images, 1))
        fixed = self.fixed_entropy is not None and bool(lost.any())  # without a lost image w = 0: R must be 1
        entropy = torch.tensor(self.fixed_entropy) if fixed else normalised_entropy(lost)
        weights = lost_class_weights(lost)
        if self.fixed_class_weight is not None:
            weights = torch.full_like(weights, self.fixed_class_weight)
        self._entropy, self._class_weights = (
            value.to(strategy.device, torch.float32 if strategy.device.type == "mps" else torch.float64)
            for value in (entropy, weights)
        )

    def _logit_term(self, strategy: Any) -> Tensor:
        with autocast_of(strategy):
            teacher_output = self.teacher.logits(strategy.mb_x)
        student = full_precision(self.counts.seen.old_logits(strategy.mb_output))
        teacher = full_precision(self.counts.seen.old_logits(teacher_output))
        self._pair = student.detach(), teacher
        if self.kind == "vanilla":
            loss = distillation_loss(student, teacher, self.temperature)
        else:
            r, w = self._entropy.to(student), self._class_weights.to(student)
            loss = mixed_distillation_loss(student, teacher, w, r, self.temperature)
        return self.kd_ratio * self.temperature**2 * loss

    def _feature_term(self, strategy: Any) -> Tensor:
        with autocast_of(strategy):
            teacher = self.teacher.features(strategy.mb_x)
        return self.kd_ratio * less_forget_loss(full_precision(self._features.take()), full_precision(teacher))
