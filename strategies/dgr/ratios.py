"""The factors of gradient reweighting as functions of accumulated gradient norms, CVPR 2024, arXiv 2402.18528.

A_j = r_group alpha_j: alpha within a group of classes, r between the groups of old and new ones, gamma the attenuation
of the new. Deviations, where the released code divides by zero: a class without images is left out of the minimum and
the mean of its group and keeps ratio 1; r is 1 while a group is empty or has received nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Rule = Literal["official", "symmetric"]


def class_balance_ratios(phi: Tensor | Sequence[float]) -> Tensor:
    """alpha_j = min_k Phi_k / Phi_j in (0, 1]: (C,) accumulated row norms -> (C,) factors.

    A class with Phi_j = 0 has received nothing (it has no image): it is left out of the minimum and gets 1.
    """
    phi = _as_floating(phi)
    if not phi.numel():
        return phi
    received = phi > 0
    smallest = torch.where(received, phi, torch.inf).min()
    return torch.where(received, smallest / torch.where(received, phi, 1.0), 1.0)


def group_ratios(
    phi: Tensor | Sequence[float], num_old: int, attenuation: float, rule: Rule = "official"
) -> tuple[Tensor, Tensor]:
    """(r_old, r_new), scalars in (0, 1] from the mean accumulated norms of old and new classes, rho = mu_new / mu_old.

    rule "official" (released code): r_old = min(1, rho), r_new = min(1, rho * attenuation), so r_new <= r_old always.
    rule "symmetric" (our reading of the paper's aim): r_new = min(1, 1 / (rho * attenuation)).
    Both are 1 when a group is empty or has received nothing.
    """
    if rule not in get_args(Rule):
        raise ValueError(f'rule "{rule}" is unknown. Valid choices: {", ".join(get_args(Rule))}.')
    phi = _as_floating(phi)
    if not 0 <= num_old <= phi.numel():
        raise ValueError(f"num_old is {num_old}; expected 0 to {phi.numel()}, the number of classes in phi")
    old, new = phi[:num_old], phi[num_old:]
    mean_old, mean_new = (group.sum() / (group > 0).sum().clamp_min(1) for group in (old, new))
    comparable = (mean_old > 0) & (mean_new > 0)
    rho = torch.where(comparable, mean_new, 1.0) / torch.where(comparable, mean_old, 1.0)
    attenuated = rho * attenuation if rule == "official" else 1 / (rho * attenuation)
    r_old, r_new = rho.clamp(max=1), attenuated.clamp(max=1)
    return torch.where(comparable, r_old, 1.0), torch.where(comparable, r_new, 1.0)


def decoupled_ratios(
    phi: Tensor | Sequence[float], num_old: int, attenuation: float, rule: Rule = "official"
) -> Tensor:
    """A_j = r_group * alpha_j of DGR: (C,) accumulated row norms, old classes first -> (C,) row factors.

    alpha is taken within the old and within the new classes. A class with Phi_j = 0 is left out of minimum and mean and
    gets 1. With one group empty this is `class_balance_ratios`.

    Parameters
    ----------
    phi : accumulated norms of the classifier's row gradients.
    num_old : old classes, [0, num_old).
    attenuation : gamma, see `attenuation_factor`.
    rule : how r_old and r_new follow from the group means, see `group_ratios`.

    Raises
    ------
    ValueError: unknown rule, or num_old outside [0, C].
    """
    phi = _as_floating(phi)
    r_old, r_new = group_ratios(phi, num_old, attenuation, rule)
    return scaled_within_groups(phi, num_old, r_old, r_new)


def attenuation_factor(n_seen: float, n_new: float, strength: float = 1.0) -> float:
    """gamma = exp(-strength * n_seen / (n_seen + n_new)), in [e^-strength, 1] (Eq. 7).

    Parameters
    ----------
    n_seen : images all old classes ever had. n_new : images of the new classes.

    Raises
    ------
    ValueError: a negative count, or no image at all.
    """
    if n_seen < 0 or n_new < 0 or n_seen + n_new == 0:
        raise ValueError(f"n_seen is {n_seen} and n_new is {n_new}; expected counts of 0 or more, not both 0")
    return math.exp(-strength * n_seen / (n_seen + n_new))


def scaled_within_groups(phi: Tensor, num_old: int, r_old: Tensor, r_new: Tensor) -> Tensor:
    """A_j = r_group * alpha_j from given r: (C,) norms, old classes first -> (C,) factors, 1 where Phi_j = 0."""
    old, new = class_balance_ratios(phi[:num_old]), class_balance_ratios(phi[num_old:])
    return torch.where(phi > 0, torch.cat([r_old * old, r_new * new]), 1.0)


def _as_floating(phi: Tensor | Sequence[float]) -> Tensor:
    if isinstance(phi, Tensor) and phi.is_floating_point():
        return phi
    return torch.as_tensor(phi, dtype=torch.float64)
