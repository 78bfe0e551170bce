"""AdaPrior: Bayesian-inspired adaptive prior correction for long-tailed continual learning, CVPR 2026; on LUCIR.

The prior of balanced softmax follows the model: P_m starts each experience at the class frequencies of its training
data and moves with every batch, P_m <- (1 - g) P_m + g mean_b softmax(z), without gradient. Training: cross-entropy of
z + log P_m - log P_t with P_t uniform, whose constant falls out of the softmax. Prediction: z - a log P_m, with P_m as
training left it. Everything else is LUCIR.

g = `update_rate` 0.05 is the paper's. The paper chooses a between 0.6 and 0.7 on held-out data; `adjustment` 0.65 is
the middle, the same in every run, since a value chosen per run would need images that other methods train on. With
g = 0 and a = 0 this is `lucir_bsce`. We worked from a description of the paper; no code was released with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from strategies.lucir import LUCIR
from strategies.networks.heads import CosineHead
from strategies.networks.precision import full_precision
from strategies.training.criteria import BalancedSoftmax
from strategies.training.recipe import Context, Parts


class PriorAdjustedHead(CosineHead):
    """A cosine head that subtracts `adjustment` times the log prior from its logits in eval mode.

    Attributes
    ----------
    log_prior : (C,), 0 until an experience ends.
    """

    log_prior: Tensor

    def __init__(self, num_features: int, freeze_old: bool = False, adjustment: float = 1.0) -> None:
        super().__init__(num_features, freeze_old)
        self.adjustment = adjustment
        self.register_buffer("log_prior", torch.zeros(0))

    def adaptation(self, experience: object) -> None:
        super().adaptation(experience)
        if self.training:
            self.log_prior = torch.zeros(self.num_classes).to(self.eta.detach())

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits if self.training else logits - self.adjustment * self.log_prior

    def become_teacher(self) -> None:
        self.log_prior.zero_()

    def reset(self) -> None:
        self.__init__(self.num_features, self.freeze_old, self.adjustment)  # type: ignore[misc]


class AdaptivePrior(BalancedSoftmax):
    """Balanced softmax with the moving average of the model's own predictions as prior."""

    def __init__(self, update_rate: float) -> None:
        super().__init__()
        self.update_rate = update_rate

    @torch.no_grad()
    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        if not self.update_rate:
            return
        predicted = full_precision(self.seen.logits(strategy.mb_output)).softmax(dim=1).mean(dim=0)
        prior = self._log_prior.to(predicted.device).exp()
        self._log_prior = torch.lerp(prior, predicted.to(prior), self.update_rate).log()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        head = strategy.model.head
        known = self._log_prior[self._log_prior.isfinite()]  # with g = 0 a class without images has none: the rarest's
        log_prior = self._log_prior.clamp_min(float(known.min()))
        head.log_prior[self.seen.columns_on(head.log_prior.device)] = log_prior.to(head.log_prior)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "log_prior": self._log_prior.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._log_prior = state["log_prior"].to(self._log_prior.device)


@dataclass(frozen=True, kw_only=True)
class LUCIRAdaPrior(LUCIR):
    """LUCIR with an adaptive prior in training and prediction."""

    name: ClassVar[str] = "lucir_adaprior"
    reference: ClassVar[str] = (
        "AdaPrior: Bayesian-inspired adaptive prior correction for long-tailed continual learning, CVPR 2026"
    )
    update_rate: Annotated[float, Ge(0), Le(1)] = 0.05
    adjustment: Annotated[float, Ge(0)] = 0.65

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        parts.head = PriorAdjustedHead(context.num_features, freeze_old=True, adjustment=self.adjustment)
        parts.criterion = AdaptivePrior(self.update_rate)
        return parts
