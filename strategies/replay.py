"""Replay: cross-entropy on the union of new data and exemplars, one shuffled loader without rebalancing.

The published class-incremental baselines use the union; Avalanche's own `Replay` draws half of every batch from memory.
`replay_mode` "balanced_batch" does that: behind every batch of new images comes one as large of exemplars, which start
again when they run out. An epoch is one pass over the new data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from strategies.networks.heads import LinearHead
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.paired_batches import PairedBatchesPlugin
from strategies.training.recipe import Context, Parts, Recipe


@dataclass(frozen=True, kw_only=True)
class Replay(Recipe):
    """Finetuning with exemplars, which batches hold as they come (`concat`) or as many as new images."""

    name: ClassVar[str] = "replay"
    reference: ClassVar[str] = "Chaudhry et al., On tiny episodic memories in continual learning, 2019"
    requires_memory: ClassVar[bool] = True
    replay_mode: Literal["concat", "balanced_batch"] = "concat"

    def build(self, context: Context) -> Parts:
        memory = context.exemplars()
        parts = Parts(head=LinearHead(context.num_features), criterion=SeenCrossEntropy(), plugins=[memory])
        if self.replay_mode == "balanced_batch":
            parts.plugins.append(PairedBatchesPlugin(memory, share=1.0))
        return parts
