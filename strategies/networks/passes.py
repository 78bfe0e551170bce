"""What training costs, counted in images through the backbone: the same on every machine, unlike seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass
class Compute:
    """Counts of one experience. A network and the teachers copied from it count into the same object.

    Attributes
    ----------
    trained : images that went forward and backward.
    teacher : images that went forward through a copy of the network.
    frozen : images that went only forward: herding, class means, features for a second stage, evaluation.
    stage_steps : optimiser steps of second stages.
    """

    trained: int = 0
    teacher: int = 0
    frozen: int = 0
    stage_steps: int = 0

    @property
    def forward(self) -> int:
        """All forward passes."""
        return self.trained + self.teacher + self.frozen

    def count(self, images: int, backward: bool, teacher: bool) -> None:
        """Count a batch; `backward` says whether its pass left a graph to go back through."""
        if teacher:
            self.teacher += images
        elif backward:
            self.trained += images
        else:
            self.frozen += images

    def reset(self) -> None:
        self.load_state_dict(asdict(Compute()))

    def state_dict(self) -> dict[str, int]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, int]) -> None:
        for field in fields(self):
            setattr(self, field.name, state[field.name])
