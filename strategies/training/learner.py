"""The training loop every method shares, on Avalanche's `SupervisedTemplate` and its hooks.

What differs from the stock template: a fresh optimiser and schedule in every experience (the literature's convention),
batches from an in-memory loader, autocast, reseeding per experience (so that a resumed run repeats an uninterrupted
one), evaluation of all classifiers from one pass, and plain state, between experiences and inside them (`state.py`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.core import BasePlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor

from strategies.networks.incremental import IncrementalNetwork
from strategies.training.features import extract_features
from strategies.training.recipe import LoaderFactory, Parts
from strategies.training.schedule import Schedule
from strategies.training.seeds import derive_seed
from strategies.training.stages import NonFiniteLossError, all_finite
from strategies.training.state import ResumableState


@dataclass(frozen=True)
class Optimisation:
    """SGD settings, the same in every experience."""

    epochs: int = 160
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = field(default_factory=Schedule)


class IncrementalLearner(ResumableState, SupervisedTemplate):
    """Trains a network with a recipe's parts on a stream of experiences.

    Parameters
    ----------
    network : backbone and growing head.
    parts : what `Recipe.build` returned.
    optimisation : SGD, epochs and schedule.
    loader : makes batches for training, herding and evaluation.
    precision : "fp32" or "bf16" (autocast around the forward pass; losses and head stay fp32).
    seed : training seed; every experience derives its own from it.
    plugins : further plugins that only look on: whether they are there changes no number, nor what can be resumed.
    on_epoch : called with (epoch, epochs, mean loss, images so far in this experience) after each epoch.

    Attributes
    ----------
    epoch, batch : epochs complete in this experience, batches done of the current one.
    on_stage_step : called after each step of a stage; whatever it raises ends the training.
    on_stage_epoch, resumed_stages : see `StageRunner`.
    """

    def __init__(
        self,
        *,
        network: IncrementalNetwork,
        parts: Parts,
        optimisation: Optimisation,
        loader: LoaderFactory,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        seed: int = 0,
        plugins: Sequence[BasePlugin] = (),
        on_epoch: Callable[[int, int, float, int], None] | None = None,
    ) -> None:
        super().__init__(
            model=network,
            optimizer=None,
            criterion=parts.criterion,
            train_mb_size=optimisation.batch_size,
            train_epochs=optimisation.epochs,
            eval_mb_size=500,
            device=device,
            plugins=[*parts.all_plugins(), *plugins],
            evaluator=silent_evaluator(),
        )
        self.parts = parts
        self.optimisation = optimisation
        self.loader = loader
        self.precision = precision
        self.seed = seed
        self.observers = list(plugins)
        self.on_epoch = on_epoch
        self.on_stage_step: Callable[[], None] = lambda: None
        self.on_stage_epoch: Callable[[Callable[[], list[Any]]], None] = lambda states: None
        self.resumed_stages = []
        self.generator = torch.Generator()
        self.epoch = self.batch = 0
        self.images_trained = 0  # in this experience, replayed ones included
        self._loss_sum = torch.zeros(())

    # --- one experience -------------------------------------------------------------------------------------------

    def _before_training_exp(self, **kwargs: Any) -> None:
        seed = derive_seed(self.seed, self.experience.current_experience)
        torch.manual_seed(seed)  # new head rows
        self.generator.manual_seed(seed)  # batches and augmentation
        self.epoch = self.batch = self.images_trained = 0
        self._stop_training = False  # of an earlier experience of the same call
        self.resumed_stages = []
        self.model.compute.reset()
        super()._before_training_exp(**kwargs)

    def _train_exp(self, experience: Any, eval_streams: Any, **kwargs: Any) -> None:
        if self._resumed:
            self.epoch = self._resumed["epoch"]
        while self.epoch < self.train_epochs:
            self._before_training_epoch(**kwargs)
            if self._stop_training:  # early stopping by a plugin
                break
            self.training_epoch(**kwargs)
            self._after_training_epoch(**kwargs)
        if self._resumed:  # it was saved after the last epoch
            self._load_progress()
        if not all_finite(self.model):
            t = self.experience.current_experience
            raise NonFiniteLossError(f"the last step of experience {t} left parameters that are not finite")

    def make_train_dataloader(self, **kwargs: Any) -> None:
        self.dataloader = self.loader(self.adapted_dataset, self.train_mb_size, train=True, generator=self.generator)

    def make_eval_dataloader(self, **kwargs: Any) -> None:
        self.dataloader = self.loader(self.adapted_dataset, self.eval_mb_size, train=False)

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        self.model = self.model_adaptation()
        self.make_optimizer()

    def make_optimizer(self, **kwargs: Any) -> None:
        """Fresh SGD: momentum of the last experience must not push rows that the method just froze or aligned."""
        settings = self.optimisation
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            trainable,
            settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=self.device.type == "cuda",  # one kernel; on a CPU it would change the last bits of committed results
        )

    def training_epoch(self, **kwargs: Any) -> None:
        settings = self.optimisation
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * settings.schedule.factor(self.epoch, self.train_epochs)
        self._loss_sum = torch.zeros((), device=self.device)
        self.batch = 0
        for self.mbatch in self._batches():  # noqa: B020
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            self.optimizer.zero_grad(set_to_none=True)

            self._before_forward(**kwargs)
            self.mb_output = self.forward()
            self._after_forward(**kwargs)

            self.loss = self.criterion()
            self._before_backward(**kwargs)  # plugins add their losses here
            self.backward()
            self._after_backward(**kwargs)  # … and change gradients here

            self._before_update(**kwargs)
            self.optimizer_step()
            self._after_update(**kwargs)

            self._loss_sum += self.loss.detach()  # stays on the device: no synchronisation in the step
            self.images_trained += len(self.mb_y)
            self.batch += 1
            self._after_training_iteration(**kwargs)
        self.epoch += 1
        total = float(self._loss_sum)  # here the host waits for the device, once an epoch
        loss = total / max(self.batch, 1)
        if not math.isfinite(total):
            raise NonFiniteLossError(
                f"the loss became {loss} in epoch {self.epoch} of experience {self.experience.current_experience}"
            )
        if self.on_epoch:
            self.on_epoch(self.epoch, self.train_epochs, loss, self.images_trained)

    def forward(self) -> Tensor:
        with self.autocast():
            return self.model(self.mb_x)

    def autocast(self) -> AbstractContextManager:
        """The precision of this run, for every forward pass, the teacher's included."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    # --- evaluation -----------------------------------------------------------------------------------------------

    def predict(self, dataset: AvalancheDataset) -> dict[str, Tensor]:
        """Scores (N, C) of every classifier that applies; features are computed once for all of them."""
        self.model.to(self.device)
        extracted = extract_features(self, dataset)
        with torch.no_grad():
            return {
                classifier.name: classifier.scores(extracted.features, extracted.logits)
                for classifier in self.parts.classifiers
                if classifier.prepare(self)
            }


def silent_evaluator() -> EvaluationPlugin:
    """Avalanche's evaluator without metrics: imcil computes its own, and needs no reminder that nothing is logged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return EvaluationPlugin(loggers=[])
