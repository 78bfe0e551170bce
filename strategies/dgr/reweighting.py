"""Gradient reweighting (GR) and decoupled gradient reweighting (DGR), CVPR 2024, arXiv 2402.18528.

Every row of the linear classifier gets its own step size. Phi_j sums the norms of row j's cross-entropy gradient since
the experience began; rows that received much are scaled down, within a group (alpha) and between the groups of old and
new classes (r). Distillation gradients keep their directions and are matched in total size (beta):

    grad W_j = A_j G_ce[j] + beta G_kd[j] (old j),    grad W_j = A_j G_ce[j] (new j),    A_j = r_group alpha_j

The backbone keeps the gradient of the plain loss, so one backward pass suffices: both head gradients follow in closed
form from the gradients at the logits, G = D^T F, with F the features that entered the classifier.

Deviations, all where the released code divides by zero or by noise: a class without images is left out of the minimum
of its group and keeps ratio 1; r is 1 while a group is empty or has received nothing; beta is 0 where the distillation
gradient is rounding noise; see `strategies.training.losses` for old classes that lost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn

from strategies.dgr.distillation import DistributionAwareDistillationPlugin
from strategies.dgr.ratios import (
    Rule,
    attenuation_factor,
    class_balance_ratios,
    decoupled_ratios,
    group_ratios,
    scaled_within_groups,
)
from strategies.networks.precision import full_precision
from strategies.training.seen_classes import ClassCounts, SeenClasses, replays_from_loader
from strategies.training.teacher import InputTap, last_linear

__all__ = [
    "DistributionAwareDistillationPlugin",
    "GradientReweightingPlugin",
    "StaticReweightingPlugin",
    "attenuation_factor",
    "class_balance_ratios",
    "decoupled_ratios",
    "group_ratios",
]

Groups = Literal["decoupled", "unified", "intra", "none"]

_NOISE = 1e-6  # relative size under which a distillation gradient is rounding noise, not signal


class GradientReweightingPlugin(SupervisedPlugin):
    """Overwrites the gradient of the model's linear classifier after each backward pass.

    Works on any Avalanche supervised strategy whose criterion is a function of (output, labels) and whose model ends in
    an `nn.Linear` with one row per class id, as wide as the benchmark or growing; rows of classes not seen yet keep
    their plain gradient. The classifier sees the criterion and `distillation` only: losses that other plugins add reach
    the backbone, not the classifier. Put it behind `distillation`. No gradient accumulation over several batches.

    Parameters
    ----------
    distillation : the plugin that adds the distillation loss; None without distillation.
    groups : "decoupled" (DGR); "unified" (GR: one group over all classes); "intra" (alpha within old and within new
        classes, r = 1); "none" (A = 1, norms are only recorded). In the first experience all but "none" are the same.
    rule : direction of r_new, see `group_ratios`.
    attenuation : strength g of gamma; 0 turns it off.
    attenuation_counts : gamma from images ("samples", released code) or from numbers of classes ("classes", the
        authors' port to pre-trained models).
    balance : "norm" (beta matches the sizes of both gradients) or a constant beta. With "norm" any factor in front of
        the distillation loss cancels in the classifier and acts on the backbone only.
    reweight_distillation : multiply the distillation rows by A as well; a negative control, beta is taken afterwards.
    max_grad_norm : clip the norm of all gradients, the reweighted ones included; None does not. The released code's
        value never bites in practice.
    seen : class map shared with other plugins; own if None.
    find_head : model -> its classifier.
    """

    def __init__(
        self,
        distillation: DistributionAwareDistillationPlugin | None = None,
        *,
        groups: Groups = "decoupled",
        rule: Rule = "official",
        attenuation: float = 1.0,
        attenuation_counts: Literal["samples", "classes"] = "samples",
        balance: Literal["norm"] | float = "norm",
        reweight_distillation: bool = False,
        max_grad_norm: float | None = 10_000.0,
        seen: SeenClasses | None = None,
        find_head: Callable[[nn.Module], nn.Linear] = last_linear,
    ) -> None:
        super().__init__()
        for name, value, valid in (
            ("groups", groups, get_args(Groups)),
            ("rule", rule, get_args(Rule)),
            ("attenuation_counts", attenuation_counts, ("samples", "classes")),
        ):
            if value not in valid:
                raise ValueError(f'{name} "{value}" is unknown. Valid choices: {", ".join(valid)}.')
        if isinstance(balance, str) and balance != "norm":
            raise ValueError(f'balance "{balance}" is unknown. Valid choices: "norm" or a number.')
        self.distillation = distillation
        self.groups, self.rule, self.balance = groups, rule, balance
        self.attenuation, self.attenuation_counts = attenuation, attenuation_counts
        self.reweight_distillation = reweight_distillation
        self.max_grad_norm = max_grad_norm
        self.find_head = find_head
        self.counts = ClassCounts(seen)
        self.gamma = 1.0
        self.steps = 0
        self.phi = self.row_factors = torch.zeros(0)
        self.r_old = self.r_new = self.beta = torch.ones(())
        self._beta_sum, self._beta_steps = torch.zeros(()), 0
        self._has_images = torch.zeros(0, dtype=torch.bool)
        self._head: nn.Linear | None = None
        self._features = InputTap()

    def diagnostics(self) -> dict[str, Any]:
        """State after the latest step, as plain values: reading it waits for the device.

        "beta" is the mean over the experience's steps, "beta_last" that of the latest step; both are None where nothing
        was distilled into the classifier.
        """
        balanced = self._beta_steps > 0
        return {
            "phi": self.phi.tolist(),
            "row_factors": self.row_factors.tolist(),
            "r_old": float(self.r_old),
            "r_new": float(self.r_new),
            "beta": float(self._beta_sum) / self._beta_steps if balanced else None,
            "beta_last": float(self.beta) if balanced else None,
            "gamma": self.gamma,
            "steps": self.steps,
            "available": self.counts.available.tolist(),
            "lost": self.counts.lost.tolist(),
        }

    # --- hooks ----------------------------------------------------------------------------------------------------

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._count(strategy)
        dtype = torch.float32 if strategy.device.type == "mps" else torch.float64  # mps has no float64
        self.phi = torch.zeros(self.counts.seen.num_seen, dtype=dtype, device=strategy.device)
        self.row_factors = torch.ones_like(self.phi)
        self.r_old = self.r_new = self.beta = torch.ones((), dtype=dtype, device=strategy.device)
        self._beta_sum = torch.zeros_like(self.beta)
        self.steps = self._beta_steps = 0

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if replays_from_loader(strategy):
            self._count(strategy)
        # An evaluation between two epochs may have replaced the layer of Avalanche's growing classifier.
        self._head = self.find_head(strategy.model)
        self._features.attach(self._head)

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        with torch.no_grad(), torch.autocast(strategy.device.type, enabled=False):
            self._reweight(strategy)
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(strategy.model.parameters(), self.max_grad_norm)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._features.detach()
        self._head = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "counts": self.counts.state_dict(),
            "phi": self.phi,
            "steps": self.steps,
            "latest": [self.row_factors, self.r_old, self.r_new, self.beta],
            "beta_sum": self._beta_sum,
            "beta_steps": self._beta_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Within an experience, load after `before_training_exp`, which sets Phi to 0."""
        self.counts.load_state_dict(state["counts"])
        self.phi, self.steps = state["phi"].to(self.phi.device), state["steps"]
        self.row_factors, self.r_old, self.r_new, self.beta = (value.to(self.phi.device) for value in state["latest"])
        if "beta_sum" in state:  # an older checkpoint has none: the mean is then that of the steps still to come
            self._beta_sum, self._beta_steps = state["beta_sum"].to(self.phi.device), state["beta_steps"]

    # --- parts ----------------------------------------------------------------------------------------------------

    def _count(self, strategy: Any) -> None:
        self.counts.update(strategy)
        self._has_images = (self.counts.available > 0).to(strategy.device)
        if self.attenuation_counts == "samples":
            n_seen, n_new = self.counts.num_seen_images, self.counts.num_new_images
        else:
            n_seen = self.counts.seen.num_old
            n_new = self.counts.seen.num_seen - n_seen
        self.gamma = attenuation_factor(n_seen, n_new, self.attenuation)

    def _reweight(self, strategy: Any) -> None:
        features = full_precision(self._features.take().detach())
        head = self._checked_head(strategy.mb_output)
        ce_logits = self._criterion_gradient(strategy).to(features)  # (B, C_seen)
        ce_rows = ce_logits.T @ features  # (C_seen, d)
        self.phi += ce_rows.norm(dim=1)
        self.steps += 1
        self.row_factors = self._row_factors()
        a = self.row_factors.to(features)
        weight_gradient, bias_gradient = a[:, None] * ce_rows, a * ce_logits.sum(0)

        kd_logits = None if self.distillation is None else self.distillation.old_logit_gradient()
        if self.distillation is not None and kd_logits is not None:
            kd_logits = kd_logits.to(features)
            num_old = kd_logits.shape[1]
            if self.reweight_distillation:
                kd_logits = kd_logits * a[:num_old]
            kd_rows = kd_logits.T @ features
            noise = _NOISE * self.distillation.gradient_scale / math.sqrt(len(features)) * features.norm()
            self.beta = self._balance(weight_gradient, kd_rows, noise)
            self._beta_sum += self.beta  # stays on the device
            self._beta_steps += 1
            weight_gradient[:num_old] += self.beta * kd_rows
            bias_gradient[:num_old] += self.beta * kd_logits.sum(0)
        self._write(head, weight_gradient, bias_gradient)

    @torch.enable_grad()
    def _criterion_gradient(self, strategy: Any) -> Tensor:
        """Gradient of the criterion alone with respect to the logits of seen classes, whatever the criterion."""
        logits = full_precision(strategy.mb_output.detach()).requires_grad_()
        (gradient,) = torch.autograd.grad(strategy._criterion(logits, strategy.mb_y), logits)
        return self.counts.seen.logits(gradient)

    def _received(self) -> Tensor:
        """(C,) how much each row is taken to have learned."""
        return self.phi

    def _row_factors(self) -> Tensor:
        # Without the logit offset a class without images still collects gradient; it must not set a group's minimum.
        phi = torch.where(self._has_images, self._received(), 0.0)
        num_old = self.counts.seen.num_old
        if self.groups == "none":
            return torch.ones_like(phi)
        if self.groups == "unified":
            return class_balance_ratios(phi)
        if self.groups == "decoupled":
            self.r_old, self.r_new = group_ratios(phi, num_old, self.gamma, self.rule)
        return scaled_within_groups(phi, num_old, self.r_old, self.r_new)

    def _balance(self, ce_rows: Tensor, kd_rows: Tensor, noise: Tensor) -> Tensor:
        """beta. A student equal to its teacher has a distillation gradient of rounding noise, which is dropped.

        The threshold is that of float32 rounding: gradients computed in a coarser type have louder noise.
        """
        if not isinstance(self.balance, str):
            return torch.full_like(noise, self.balance)
        size = kd_rows.norm()
        return torch.where(size > noise, ce_rows.norm() / torch.where(size > noise, size, 1.0), 0.0)

    def _checked_head(self, output: Tensor) -> nn.Linear:
        if self._head is None or self._head.out_features != output.shape[1]:
            raise ValueError(
                f"the classifier found is {self._head}, but the model's output has {output.shape[1]} columns; "
                "pass find_head=model -> its final nn.Linear"
            )
        return self._head

    def _write(self, head: nn.Linear, weight_gradient: Tensor, bias_gradient: Tensor) -> None:
        rows = self.counts.seen.columns_on(weight_gradient.device)
        for parameter, gradient in ((head.weight, weight_gradient), (head.bias, bias_gradient)):
            if parameter is None or parameter.grad is None:  # no bias, or frozen by another plugin
                continue
            parameter.grad.index_copy_(0, rows, gradient.to(parameter.grad))


class StaticReweightingPlugin(GradientReweightingPlugin):
    """The same rule on the classes' available images n_j in place of Phi_j, as static 1 / n weights.

    A control for what the accumulated norms know beyond counts; Phi is still recorded.
    """

    def _count(self, strategy: Any) -> None:
        super()._count(strategy)
        self._images = self.counts.available.to(strategy.device)

    def _received(self) -> Tensor:
        return self._images.to(self.phi.dtype)
