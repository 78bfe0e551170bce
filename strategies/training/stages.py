"""A second training stage after an experience: bias correction, balanced finetuning, learnable scales.

A stage trains some parameters, on batches of its own, with a loss of its own. Its batches are one of

- `CachedFeatures`: the frozen backbone's features of un-augmented images, computed once for all epochs;
- `FreshFeatures`: its features of augmented images, computed anew in every epoch where there is augmentation;
- `Images`: augmented images, for a stage that trains the backbone as well.

A stage starts from the state at its beginning, draws every random number from the generator it is given, and changes
only its parameters and the network. So running it again from its beginning gives the same end, and so does preparing it
again and going on from a `StageProgress` saved after one of its epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from strategies.networks.precision import sent
from strategies.training.features import Extracted, augments, extract_features, training_batches
from strategies.training.labels import targets_array
from strategies.training.schedule import Schedule
from strategies.training.seeds import derive_seed
from strategies.training.teacher import autocast_of


class NonFiniteLossError(RuntimeError):
    """A loss became infinite or not a number, at the end of its epoch, or training left such parameters."""


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
        order = sent(torch.randperm(len(targets), generator=self.generator), targets.device)
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
        for batch in sent(torch.as_tensor(order), extracted.targets.device).split(self.batch_size):
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

    def run(
        self,
        strategy: Any,
        generator: torch.Generator,
        resumed: dict[str, Any] | None = None,
        on_epoch: Callable[[StageProgress], None] = lambda progress: None,
    ) -> StageProgress | None:
        """Train the stage, or what is left of it; returns its end, None if it is skipped.

        Parameters
        ----------
        resumed : state of its progress, from an attempt that began where this one does.
        on_epoch : called after each epoch.
        """
        dataset = self.data(strategy)
        if dataset is None:
            return None
        groups: Any = list(self.parameters(strategy))
        optimizer = torch.optim.SGD(groups, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        rates = [group["lr"] for group in optimizer.param_groups]
        batches = self.batches(strategy, dataset, self.batch_size, generator)
        progress = StageProgress(strategy, parameters, optimizer, generator)
        if resumed:
            progress.load_state_dict(resumed)
        strategy.model.train()
        with only(parameters, strategy.model):
            for epoch in range(progress.epoch, self.epochs):
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
                progress.epoch = epoch + 1
                on_epoch(progress)
            optimizer.zero_grad(set_to_none=True)
        return progress


@dataclass
class StageProgress:
    """A stage after `epoch` of its epochs, for the templates that save it (`state.ResumableState`)."""

    strategy: Any
    parameters: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    epoch: int = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "network": self.strategy.model.state_dict(),
            "outside": [p.detach() for p in self._outside()],
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "random": self.strategy.random_state(),
            "compute": self.strategy.model.compute.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
        self.strategy.model.load_state_dict(state["network"])
        with torch.no_grad():
            for parameter, value in zip(self._outside(), state["outside"], strict=True):
                parameter.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.strategy.set_random_state(state["random"])
        self.strategy.model.compute.load_state_dict(state["compute"])

    def _outside(self) -> list[nn.Parameter]:
        """What it trains that is not the network's."""
        network = {id(parameter) for parameter in self.strategy.model.parameters()}
        return [parameter for parameter in self.parameters if id(parameter) not in network]


def all_finite(model: nn.Module) -> bool:
    """Whether all parameters are finite; the host waits for the device, once."""
    return bool(torch.stack([parameter.detach().isfinite().all() for parameter in model.parameters()]).all())


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

    def run(self, strategy: Any, generator: torch.Generator) -> object: ...


class StageRunner(SupervisedPlugin):
    """Runs stages at the end of an experience; put it behind all other plugins.

    Raises NonFiniteLossError where a stage leaves the network with parameters that are not finite.

    A template that saves progress inside stages has `resumed_stages`, what it saved before, and
    `on_stage_epoch(states)`, called after each epoch of a `Stage`. `states()` returns what to save: the end of every
    stage before, and where the current one is. To resume, all are prepared again, each in the state it began in, and go
    on from there. Other units run again as a whole.
    """

    def __init__(self, stages: Sequence[Unit]) -> None:
        super().__init__()
        self.stages = list(stages)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        seed = derive_seed(getattr(strategy, "seed", 0), "stage", strategy.experience.current_experience)
        generator = torch.Generator().manual_seed(seed)
        resumed, saves = getattr(strategy, "resumed_stages", []), hasattr(strategy, "on_stage_epoch")
        ends: list[dict[str, Any] | None] = []

        def tell(progress: StageProgress) -> None:
            if saves:
                strategy.on_stage_epoch(lambda: [*ends, progress.state_dict()])

        for number, stage in enumerate(self.stages):
            if not isinstance(stage, Stage):
                stage.run(strategy, generator)
                ends.append(None)
                continue
            end = stage.run(strategy, generator, resumed[number] if number < len(resumed) else None, tell)
            if end and not all_finite(strategy.model):
                raise NonFiniteLossError(
                    f'the second stage "{stage.name}" of experience {strategy.experience.current_experience} diverged: '
                    "it left parameters that are not finite"
                )
            more = saves and number + 1 < len(self.stages)
            ends.append(deepcopy(end.state_dict()) if end and more else None)
