"""A second training stage after an experience: bias correction, balanced finetuning, learnable scales.

A stage trains some parameters, on batches of its own, with a loss of its own. Its batches are one of

- `CachedFeatures`: the frozen backbone's features of un-augmented images, computed once for all epochs;
- `FreshFeatures`: its features of augmented images, computed anew in every epoch where there is augmentation;
- `Images`: augmented images, for a stage that trains the backbone as well.

A stage starts from the state at its beginning and draws every random number from the generator it is given, so that
running it again from there gives the same end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from strategies.features import Extracted, augments, extract_features, targets_array, training_batches
from strategies.schedule import Schedule
from strategies.seeding import derive_seed
from strategies.teacher import autocast_of


class Batches(Protocol):
    """What a stage trains on; iterating over it is one epoch. Made by `(strategy, dataset, batch_size, generator)`."""

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]: ...


class CachedFeatures:
    """Shuffled (features (B, d), logits (B, C), targets (B,)) of un-augmented images, from one pass over the data.

    `logits` are those of the network before the stage, in eval mode and without graph; a stage that trains the head
    computes its own from `features`.
    """

    def __init__(self, strategy: Any, dataset: AvalancheDataset, batch_size: int, generator: torch.Generator) -> None:
        self.extracted = extract_features(strategy, dataset)
        self.batch_size, self.generator = batch_size, generator

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        features, logits, targets = self.extracted.features, self.extracted.logits, self.extracted.targets
        order = torch.randperm(len(targets), generator=self.generator).to(targets.device)
        for batch in order.split(self.batch_size):
            yield features[batch], logits[batch], targets[batch]


class Images:
    """Shuffled (images (B, 3, H, W), targets (B,)), augmented as in training; the network is in training mode.

    order : (class ids (N,), generator) -> positions to visit in one epoch; None visits every image once.
    """

    def __init__(
        self,
        strategy: Any,
        dataset: AvalancheDataset,
        batch_size: int,
        generator: torch.Generator,
        order: Callable[[np.ndarray, torch.Generator], Sequence[int]] | None = None,
    ) -> None:
        self.strategy, self.dataset, self.batch_size, self.generator = strategy, dataset, batch_size, generator
        self.order = order
        self.targets = targets_array(dataset)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        loader = training_batches(self.strategy, self.dataset, self.batch_size, self.generator, self._sampler())
        for x, y, *_ in loader:
            yield x.to(self.strategy.device), y.to(self.strategy.device)

    def _sampler(self) -> Sequence[int] | None:
        return self.order(self.targets, self.generator) if self.order else None


class FreshFeatures(Images):
    """Like `Images`, but the frozen backbone's (features (B, d), targets (B,)) of them, in eval mode, without graph.

    Without augmentation every epoch would see the same features: they are computed once.
    """

    def __init__(self, strategy: Any, dataset: AvalancheDataset, *args: Any, **kwargs: Any) -> None:
        super().__init__(strategy, dataset, *args, **kwargs)
        self.cached = None if augments(strategy, dataset) else extract_features(strategy, dataset)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self._cached(self.cached) if self.cached else self._fresh()

    def _cached(self, extracted: Extracted) -> Iterator[tuple[Tensor, ...]]:
        sampled = self._sampler()
        order = torch.randperm(len(self.targets), generator=self.generator) if sampled is None else sampled
        for batch in torch.as_tensor(order).to(extracted.targets.device).split(self.batch_size):
            yield extracted.features[batch], extracted.targets[batch]

    def _fresh(self) -> Iterator[tuple[Tensor, ...]]:
        model = self.strategy.model
        model.backbone.eval()
        try:
            for x, targets in super().__iter__():
                with torch.no_grad(), autocast_of(self.strategy):
                    features = model.features(x)
                yield features, targets
        finally:
            model.backbone.train(model.training)


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes
    ----------
    name : for logs and cost tables.
    epochs, batch_size, lr, momentum, weight_decay, schedule : its own optimiser.
    data : strategy -> the dataset it trains on, or None to skip it after this experience.
    parameters : strategy -> the parameters it trains, or SGD's groups of them with rates of their own; all others stay
        as they are.
    loss : (strategy, *batch) -> scalar.
    batches : what a batch is.
    after_backward : (parameters, epoch, images in the batch, generator) -> changes their gradients before the step.
    """

    name: str
    epochs: int
    batch_size: int
    lr: float
    data: Callable[[Any], AvalancheDataset | None]
    parameters: Callable[[Any], Sequence[nn.Parameter | dict[str, Any]]]
    loss: Callable[..., Tensor]
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = field(default_factory=lambda: Schedule("constant"))
    batches: Callable[[Any, AvalancheDataset, int, torch.Generator], Batches] = CachedFeatures
    after_backward: Callable[[Sequence[nn.Parameter], int, int, torch.Generator], None] | None = None

    def run(self, strategy: Any, generator: torch.Generator) -> None:
        """Train the stage."""
        dataset = self.data(strategy)
        if dataset is None:
            return
        groups: Any = list(self.parameters(strategy))
        optimizer = torch.optim.SGD(groups, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        rates = [group["lr"] for group in optimizer.param_groups]
        batches = self.batches(strategy, dataset, self.batch_size, generator)
        strategy.model.train()
        with only(parameters, strategy.model):
            for epoch in range(self.epochs):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * self.schedule.factor(epoch, self.epochs)
                for batch in batches:
                    optimizer.zero_grad(set_to_none=True)
                    self.loss(strategy, *batch).backward()
                    if self.after_backward:
                        self.after_backward(parameters, epoch, len(batch[-1]), generator)
                    optimizer.step()
                    if hasattr(strategy, "on_stage_step"):
                        strategy.on_stage_step()
                    if hasattr(strategy.model, "compute"):
                        strategy.model.compute.stage_steps += 1
            optimizer.zero_grad(set_to_none=True)


@contextmanager
def only(parameters: Sequence[nn.Parameter], model: nn.Module) -> Iterator[None]:
    """Let `parameters` be trained and nothing else of `model`, whatever the main training froze; undone on exit."""
    before = {p: p.requires_grad for p in [*model.parameters(), *parameters]}
    try:
        for p in before:
            p.requires_grad_(False)
        for p in parameters:
            p.requires_grad_(True)
        yield
    finally:
        for p, trained in before.items():
            p.requires_grad_(trained)


class Unit(Protocol):
    """Anything that runs after the training of an experience: a `Stage`, a late choice of exemplars."""

    @property
    def name(self) -> str: ...

    def run(self, strategy: Any, generator: torch.Generator) -> None: ...


class StageRunner(SupervisedPlugin):
    """Runs stages at the end of an experience; put it behind all other plugins."""

    def __init__(self, stages: Sequence[Unit]) -> None:
        super().__init__()
        self.stages = list(stages)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        seed = derive_seed(getattr(strategy, "seed", 0), "stage", strategy.experience.current_experience)
        generator = torch.Generator().manual_seed(seed)
        for stage in self.stages:
            stage.run(strategy, generator)
