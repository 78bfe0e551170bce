"""A second training stage after an experience: bias correction, balanced finetuning, learnable scales.

The backbone is frozen in every stage here, so its features of the stage's un-augmented data are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from strategies.features import extract_features
from strategies.schedule import Schedule
from strategies.seeding import derive_seed


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes
    ----------
    name : for logs and cost tables.
    epochs, batch_size, lr, momentum, weight_decay, schedule : its own optimiser.
    data : strategy -> the dataset it trains on, or None to skip it after this experience.
    parameters : strategy -> the parameters it trains; everything else is left alone.
    loss : (strategy, features (B, d), logits (B, C), targets (B,)) -> scalar. `logits` are those of the trained
        network, without graph; a stage that trains the head computes its own from `features`.
    """

    name: str
    epochs: int
    batch_size: int
    lr: float
    data: Callable[[Any], AvalancheDataset | None]
    parameters: Callable[[Any], Sequence[nn.Parameter]]
    loss: Callable[[Any, Tensor, Tensor, Tensor], Tensor]
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = field(default_factory=lambda: Schedule("constant"))

    def run(self, strategy: Any, generator: torch.Generator) -> int:
        """Train the stage; returns the number of images passed through the backbone and the head."""
        dataset = self.data(strategy)
        if dataset is None:
            return 0
        extracted = extract_features(strategy, dataset)
        parameters = list(self.parameters(strategy))
        frozen = [p for p in parameters if not p.requires_grad]  # in the main training; a stage may be all they get
        for p in frozen:
            p.requires_grad_(True)
        optimizer = torch.optim.SGD(parameters, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        for epoch in range(self.epochs):
            for group in optimizer.param_groups:
                group["lr"] = self.lr * self.schedule.factor(epoch, self.epochs)
            order = torch.randperm(len(extracted.targets), generator=generator).to(extracted.targets.device)
            for batch in order.split(self.batch_size):
                optimizer.zero_grad(set_to_none=True)
                loss = self.loss(strategy, extracted.features[batch], extracted.logits[batch], extracted.targets[batch])
                loss.backward()
                optimizer.step()
        for p in frozen:
            p.requires_grad_(False)
        return len(extracted.targets)


class StageRunner(SupervisedPlugin):
    """Runs stages at the end of an experience; put it behind all other plugins."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stages = list(stages)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        seed = derive_seed(getattr(strategy, "seed", 0), "stage", strategy.experience.current_experience)
        generator = torch.Generator().manual_seed(seed)
        for stage in self.stages:
            stage.run(strategy, generator)
