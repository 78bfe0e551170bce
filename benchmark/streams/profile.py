"""Long-tail profiles: how many training images each class keeps, head first."""

from __future__ import annotations

import math

from benchmark.errors import UserError, did_you_mean

PROFILES = ("exponential", "step", "pareto", "few_shot", "conventional")

FEW_SHOT_BASE = 0.6  # share of classes that stay complete in "few_shot", as in few-shot CIL (60 of 100 CIFAR classes)


def class_counts(num_classes: int, max_count: int, rho: float, profile: str = "exponential") -> list[int]:
    """Training images per class, head first.

    With C classes, largest count n and imbalance factor rho = n / smallest count:

    - ``exponential``: ``n * rho ** (-i / (C - 1))``, rounded down (Cui et al. 2019; Liu et al. 2022, long-tailed CIL);
    - ``step``: the first ceil(C / 2) classes keep n, the others ``n / rho``, rounded down (Buda et al. 2018);
    - ``pareto``: the power law ``n * (i + 1) ** -a`` with ``a = ln(rho) / ln(C)``, so the last class has ``n / rho``;
    - ``few_shot``: the first ceil(0.6 C) classes keep n, all others get exactly ``max(1, round(n / rho))`` shots
      (the base / novel split of few-shot CIL; unlike ``step`` it never fails for a large rho);
    - ``conventional``: every class keeps n; rho plays no part.

    Raises
    ------
    UserError (a ValueError)
        On an unknown profile, rho below 1, or a class that would get no image.
    """
    if profile not in PROFILES:
        raise UserError(f'There is no profile "{profile}".{did_you_mean(profile, PROFILES)}')
    if num_classes < 1:
        raise UserError(f"A profile needs at least one class, got {num_classes}.")
    if max_count < 1:
        raise UserError(f"max_count must be at least 1, got {max_count}.")
    if not (math.isfinite(rho) and rho >= 1):
        raise UserError(f"rho, the ratio of the largest to the smallest class, must be at least 1, got {rho}.")
    counts = [_count(rank, num_classes, max_count, rho, profile) for rank in range(num_classes)]
    if 0 in counts:
        raise UserError(
            f"With max_count {max_count} and rho {rho:g} the class of rank {counts.index(0)} (head 0, tail "
            f"{num_classes - 1}) would get no image: use a max_count of at least {math.ceil(rho)} or a rho of at most "
            f"{max_count}."
        )
    return counts


def _count(rank: int, num_classes: int, max_count: int, rho: float, profile: str) -> int:
    """One class's count; the 1e-9 keeps exact values (500 / 100 = 5) from falling to the integer below."""
    if profile == "exponential":
        return int(max_count * rho ** (-rank / max(num_classes - 1, 1)) + 1e-9)
    if profile == "step":
        return int(max_count) if rank < (num_classes + 1) // 2 else int(max_count / rho + 1e-9)
    if profile == "pareto":
        power = math.log(rho) / math.log(num_classes) if num_classes > 1 else 0.0
        return int(max_count * (rank + 1) ** -power + 1e-9)
    if profile == "few_shot":
        base = math.ceil(FEW_SHOT_BASE * num_classes - 1e-9)
        return int(max_count) if rank < base else max(1, round(max_count / rho))
    return int(max_count)
