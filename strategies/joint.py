"""Joint training on all data of all experiences so far: the upper bounds, with plain and balanced softmax.

On a balanced test set plain joint training is not an upper bound of long-tailed streams: it inherits the tail. The
bound to compare with is `joint_bsce`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.plugins import SupervisedPlugin

from strategies.networks.heads import LinearHead
from strategies.training.criteria import BalancedSoftmax, SeenCrossEntropy
from strategies.training.memory import concatenate
from strategies.training.recipe import Context, Parts, Recipe


class FromScratchPlugin(SupervisedPlugin):
    """Starts the network anew in every experience, its head wide enough for all classes seen."""

    def __init__(self) -> None:
        super().__init__()
        self.earlier: list[Any] = []

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        if not self.earlier:
            return
        strategy.model.reset()
        for experience in self.earlier:
            strategy.model.head.adaptation(experience)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.earlier.append(strategy.experience)

    def restore(self, experiences: Any) -> None:
        self.earlier = list(experiences)


class AllSeenDataPlugin(FromScratchPlugin):
    """Joins the data of all earlier experiences to the current one; with `from_scratch` the network starts anew."""

    def __init__(self, from_scratch: bool) -> None:
        super().__init__()
        self.from_scratch = from_scratch

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        if self.from_scratch:
            super().before_train_dataset_adaptation(strategy)

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        datasets: list[AvalancheDataset] = [experience.dataset.train() for experience in self.earlier]
        strategy.adapted_dataset = concatenate([*datasets, strategy.adapted_dataset])


@dataclass(frozen=True, kw_only=True)
class Joint(Recipe):
    """Cross-entropy on all data seen; `mode` "scratch" (definition of the bound) or "continue"."""

    name: ClassVar[str] = "joint"
    reference: ClassVar[str] = "upper bound"
    mode: Literal["scratch", "continue"] = "scratch"

    def build(self, context: Context) -> Parts:
        return Parts(
            head=LinearHead(context.num_features),
            criterion=SeenCrossEntropy(),
            plugins=[AllSeenDataPlugin(self.mode == "scratch")],
        )


@dataclass(frozen=True, kw_only=True)
class JointBalancedSoftmax(Joint):
    """Joint training with balanced softmax (Ren et al., 2020), the bound on a balanced test set."""

    name: ClassVar[str] = "joint_bsce"
    reference: ClassVar[str] = "Ren et al., Balanced meta-softmax for long-tailed recognition, NeurIPS 2020"

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        parts.criterion = BalancedSoftmax()
        return parts
