"""What a method is: a recipe (its hyper-parameters) that builds parts (head, criterion, plugins, classifiers, stages).

Adding a method means writing one `Recipe` subclass in one file; README, "Add your method".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.core import BasePlugin
from torch import Tensor, nn
from torch.utils.data import Sampler

from strategies.networks.heads import GrowingHead
from strategies.networks.incremental import IncrementalNetwork
from strategies.training.classifiers import Classifier, HeadClassifier
from strategies.training.memory import ExemplarMemoryPlugin
from strategies.training.stages import StageRunner, Unit


class LoaderFactory(Protocol):
    """Makes batches: `loader(dataset, batch_size, train=True, generator=g)` iterates over `[x, y, t]`."""

    def __call__(
        self,
        dataset: AvalancheDataset,
        batch_size: int,
        train: bool,
        generator: torch.Generator | None = None,
        sampler: Sequence[int] | Sampler[int] | None = None,
    ) -> Iterable[list[Tensor]]: ...


@dataclass(frozen=True)
class MemoryPolicy:
    """How many exemplars a run may keep; the same for every method compared."""

    budget: int = 20
    mode: str = "per_class"
    selection: str = "herding"


@dataclass(frozen=True)
class Context:
    """What a recipe may know when it builds its parts: never a dataset or a path.

    Attributes
    ----------
    num_features : width d of the backbone's features.
    backbone : the backbone itself, for methods that read its stage maps.
    memory : the exemplar policy of the run.
    seed : the training seed.
    epochs, batch_size, lr, momentum, weight_decay : the run's optimiser settings, for second stages.
    """

    num_features: int
    backbone: nn.Module
    memory: MemoryPolicy = field(default_factory=MemoryPolicy)
    seed: int = 0
    epochs: int = 160
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def exemplars(self) -> ExemplarMemoryPlugin:
        """An exemplar memory with the run's policy."""
        return ExemplarMemoryPlugin(self.memory.budget, self.memory.mode, self.memory.selection, self.seed)


@dataclass
class Parts:
    """What a recipe builds.

    `plugins` run in the order given, at every hook. `classifiers` turn features and logits into scores; the first is
    the method's own way to predict. `stages` run after each experience, once every plugin saw `after_training_exp`.
    """

    head: GrowingHead
    criterion: Callable[[Tensor, Tensor], Tensor]
    plugins: list[BasePlugin] = field(default_factory=list)
    classifiers: list[Classifier] = field(default_factory=lambda: [HeadClassifier()])
    stages: list[Unit] = field(default_factory=list)

    def all_plugins(self) -> list[BasePlugin]:
        """The plugins a template must run: stages come last."""
        return [*self.plugins, StageRunner(self.stages)] if self.stages else list(self.plugins)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Base of all methods. Fields of a subclass are its hyper-parameters: typed, with defaults, set from a config.

    Class attributes
    ----------------
    name : the method's name in tables.
    reference : the paper, with venue and year.
    requires_memory : True when the method means nothing without exemplars; checked before a run starts.
    task_kind : "single" (one label an image) or "multi".
    last_relu : False when the method needs signed features (cosine heads, sec. 3.2 of LUCIR).
    stock_note : what a stock `SupervisedTemplate` does not show of the method, one clause; empty when it shows all.
    """

    name: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    requires_memory: ClassVar[bool] = False
    task_kind: ClassVar[str] = "single"
    last_relu: ClassVar[bool] = True
    stock_note: ClassVar[str] = ""

    def build(self, context: Context) -> Parts:
        """Make fresh parts for one run."""
        raise TypeError(f"{type(self).__name__} must define build(context)")

    def attach(
        self, backbone: nn.Module, num_features: int, memory: MemoryPolicy | None = None, seed: int = 0, **settings: Any
    ) -> tuple[IncrementalNetwork, Callable[[Tensor, Tensor], Tensor], list[BasePlugin]]:
        """Parts for a stock Avalanche `SupervisedTemplate(model=..., criterion=..., plugins=...)`.

        Parameters
        ----------
        backbone : module from images to features (B, num_features).
        memory : exemplar policy, default 20 per class by herding.
        settings : further `Context` fields (epochs, lr, …), used by second stages.

        Returns
        -------
        (network, criterion, plugins), to be passed on as they are. Train with `reset_optimizer_state=True`: imcil's
        learner has a fresh optimiser in every experience.
        """
        context = Context(num_features, backbone, memory or MemoryPolicy(), seed, **settings)
        parts = self.build(context)
        return IncrementalNetwork(backbone, parts.head), parts.criterion, parts.all_plugins()


def batch_sizes(n: int, batch_size: int, last_batch: str) -> list[int]:
    """Sizes of the batches of n images.

    keep : full batches, then what is left, as the papers' loaders have it. A few images left are a step like any
        other, and accuracy suffers from it (results/README.md, "A small last batch").
    even : the last two batches share their images evenly: as many steps, none of fewer images than half a batch.

    A last batch of one image joins the one before: batch norm cannot use a single value.
    """
    full, left = divmod(n, batch_size)
    sizes = [batch_size] * full + [left] * (left > 0)
    if full and left and last_batch == "even":
        last_two = batch_size + left
        sizes[-2:] = [last_two - last_two // 2, last_two // 2]
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


def last_batch_of(strategy: Any) -> str:
    """What becomes of the last batch of the batches that a strategy trains on; a stock Avalanche one keeps it."""
    return str(getattr(getattr(strategy, "loader", None), "last_batch", "keep"))
