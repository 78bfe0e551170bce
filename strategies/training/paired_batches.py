"""Batches of new images, each with a batch of exemplars behind it, from two loaders: how SS-IL trains, and replay with
half of every batch from memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from strategies.training.criteria import BalancedSoftmax
from strategies.training.features import training_batches
from strategies.training.labels import targets_array
from strategies.training.memory import ExemplarMemoryPlugin


class PairedBatches:
    """Iterates over batches `[x, y, …]` of new images, each with a batch of exemplars behind it; one epoch of `new`."""

    def __init__(self, new: Iterable[list[Tensor]], old: Iterable[list[Tensor]]) -> None:
        self.new, self.old = new, old

    def __len__(self) -> int:
        return len(self.new)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[Tensor]]:
        exemplars = self._endless()
        for batch in self.new:
            yield [torch.cat(pair) for pair in zip(batch, next(exemplars), strict=True)]

    def _endless(self) -> Iterator[list[Tensor]]:
        while True:
            yield from self.old


class PairedBatchesPlugin(SupervisedPlugin):
    """Draws new images and exemplars apart: `train_mb_size` of the former and `share` times as many of the latter.

    Attributes
    ----------
    drawn : images of each class id that one epoch draws, on average, (classes,); None without exemplars.
    """

    def __init__(self, memory: ExemplarMemoryPlugin, share: float) -> None:
        super().__init__()
        self.memory, self.share = memory, share
        self.drawn: np.ndarray | None = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        exemplars, fresh = self.memory.dataset(), strategy.experience.dataset
        self.drawn = None
        if exemplars is None:
            return
        generator = getattr(strategy, "generator", None)
        replayed = max(1, round(self.share * strategy.train_mb_size))
        new = training_batches(strategy, fresh, strategy.train_mb_size, generator)
        old = training_batches(strategy, exemplars, replayed, generator)
        strategy.dataloader = PairedBatches(new, old)
        passes, rest = divmod(len(new), len(old))  # type: ignore[arg-type]
        share = passes + min(rest * replayed / len(exemplars), 1.0)  # of all exemplars, by the batches of one epoch
        targets = targets_array(fresh), targets_array(exemplars)
        counts = [np.bincount(t, minlength=max(map(max, targets)) + 1) for t in targets]
        self.drawn = counts[0] + share * counts[1]


class PairedBalancedSoftmax(BalancedSoftmax):
    """Balanced softmax with the prior of what paired batches draw: they show a class more often than it has images."""

    def __init__(self, batches: PairedBatchesPlugin) -> None:
        super().__init__()
        self.batches = batches

    def counted(self) -> Tensor:
        """(C_seen,) images of each class that one epoch draws."""
        drawn = self.batches.drawn
        return super().counted() if drawn is None else torch.from_numpy(drawn[self.seen.class_ids])
