"""GDumb: Prabhu et al., GDumb: A simple approach that questions our progress in continual learning, ECCV 2020.

A control: fill a class-balanced memory as classes arrive, forget the network, train a new one on the memory alone. A
method that does not beat it makes nothing of the data beyond its exemplars, nor of the weights it inherits.

The memory keeps the run's quota of every class, chosen at random as in the paper whatever `memory.selection` says:
there is no trained network to herd with when it is filled. Deviations: no cutmix, and epochs and schedule are the
run's, so that on a short schedule it is trained on few batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from strategies.joint import FromScratchPlugin
from strategies.networks.heads import LinearHead
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.memory import ExemplarMemoryPlugin
from strategies.training.recipe import Context, Parts, Recipe


class MemoryOnlyPlugin(ExemplarMemoryPlugin):
    """Chooses exemplars of the new classes before training, not after it, and trains on exemplars only."""

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        self.update(strategy, strategy.experience.dataset)
        exemplars = self.dataset()
        assert exemplars is not None  # requires_memory: the budget is positive
        strategy.adapted_dataset = exemplars.train()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class GDumb(Recipe):
    """A new network on a balanced memory, in every experience."""

    name: ClassVar[str] = "gdumb"
    reference: ClassVar[str] = (
        "Prabhu et al., GDumb: A simple approach that questions our progress in continual learning, ECCV 2020"
    )
    requires_memory: ClassVar[bool] = True

    def build(self, context: Context) -> Parts:
        policy = context.memory
        return Parts(
            head=LinearHead(context.num_features),
            criterion=SeenCrossEntropy(),
            plugins=[FromScratchPlugin(), MemoryOnlyPlugin(policy.budget, policy.mode, "random", context.seed)],
        )
