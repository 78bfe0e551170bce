"""Learning-rate schedules as pure functions of the epoch: nothing to save, nothing to reset between experiences."""

from __future__ import annotations

import math
from dataclasses import dataclass

SCHEDULES = ("multistep", "cosine", "constant")


@dataclass(frozen=True)
class Schedule:
    """Factor on the base learning rate, constant within an epoch, started anew in every experience.

    Attributes
    ----------
    name : "multistep" (times `gamma` once each milestone epoch is complete), "cosine" (to 0) or "constant".
    milestones : fractions of the epochs; the literature's 80 and 120 of 160 are 0.5 and 0.75. One above 0 comes after
        the first epoch at the earliest, however few there are.
    gamma : factor at a milestone.
    warmup_epochs : linear rise to the base rate over the first epochs.
    """

    name: str = "multistep"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ValueError(f'training.schedule "{self.name}" is unknown. Valid choices: {", ".join(SCHEDULES)}.')

    def factor(self, epoch: int, epochs: int) -> float:
        """Factor in epoch `epoch` (from 0) of `epochs`."""
        if epoch < self.warmup_epochs:
            return (epoch + 1) / self.warmup_epochs
        if self.name == "cosine":
            done = (epoch - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1)
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.name == "multistep":
            reached = (epoch >= max(round(milestone * epochs), milestone > 0) for milestone in self.milestones)
            return self.gamma ** sum(reached)
        return 1.0
