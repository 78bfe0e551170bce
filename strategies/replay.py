"""Replay: cross-entropy on the union of new data and exemplars, one shuffled loader without rebalancing.

Avalanche's own `Replay` draws half of every batch from memory; the published class-incremental baselines use the union.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.criterion import SeenCrossEntropy
from strategies.heads import LinearHead
from strategies.recipe import Context, Parts, Recipe


@dataclass(frozen=True, kw_only=True)
class Replay(Recipe):
    """Finetuning with exemplars."""

    name: ClassVar[str] = "replay"
    reference: ClassVar[str] = "Chaudhry et al., On tiny episodic memories in continual learning, 2019"
    requires_memory: ClassVar[bool] = True

    def build(self, context: Context) -> Parts:
        return Parts(head=LinearHead(context.num_features), criterion=SeenCrossEntropy(), plugins=[context.exemplars()])
