"""Honest clocks: turns, ratios of neighbours, and what other processes did meanwhile. Imports no torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any


def interleave(functions: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of each function per round, in rotating order after one warm-up, so that a busy machine slows all alike.

    A number that a function returns divides its time.
    """
    times: list[list[float]] = [[] for _ in functions]
    for r in range(rounds + 1):
        for k in range(len(functions)):
            i = (k + r) % len(functions)
            started = time.perf_counter()
            count = functions[i]()
            elapsed = (time.perf_counter() - started) / (count or 1.0)
            if r:
                times[i].append(elapsed)
    return times


def interval(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """Median of the ratios of rounds that ran side by side, and its 95 % confidence interval (order statistics)."""
    from scipy.stats import binom

    ratios = sorted(a / b for a, b in zip(numerators, denominators, strict=True))
    low = max(int(binom.ppf(0.025, len(ratios), 0.5)) - 1, 0)
    return {"ratio": median(ratios), "interval": [ratios[low], ratios[-1 - low]], "pairs": len(ratios)}


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """Median and range of the ratios of rounds that ran side by side."""
    ratios = sorted(a / b for a, b in zip(numerators, denominators, strict=True))
    return {"ratio": median(ratios), "ratio_range": [ratios[0], ratios[-1]]}


class ForeignLoad:
    """Cores that other processes kept busy while a measurement ran; None where /proc/stat cannot be read."""

    def __init__(self) -> None:
        self.start = self._read()

    def cores(self) -> float | None:
        if self.start is None:
            return None
        now = self._read()
        assert now is not None
        wall = max(now[0] - self.start[0], 1e-9)
        return round(max((now[1] - self.start[1]) - (now[2] - self.start[2]), 0.0) / wall, 2)

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """(wall, seconds all processes were busy, seconds this one and its children were)."""
        try:
            fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        except OSError:
            return None
        user, nice, system, _, _, irq, soft = fields[:7]
        busy = (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return time.perf_counter(), busy, own.user + own.system + own.children_user + own.children_system
