"""Plugins that look on while the contract trains a recipe: at teachers, parameters, logits and state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from benchmark.runs.checkpoint import detached
from strategies.networks.incremental import IncrementalNetwork
from strategies.training.teacher import Teacher


class Watch(SupervisedPlugin):
    """Looks on during training and evaluation: at teachers, at which parameters are trained, at logits."""

    def __init__(self) -> None:
        super().__init__()
        self.complaints: list[str] = []  # about teachers
        self.trainable: dict[str, bool] = {}  # requires_grad by parameter, at the first step of the experience
        self.outputs: list[Tensor] = []  # logits of evaluation
        self._before: dict[int, dict[str, Tensor]] = {}  # states of teachers at the first step

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.trainable, self._before = {}, {}

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        self.trainable = self.trainable or trainable(strategy.model)
        for name, teacher in teachers(strategy):
            if id(teacher) not in self._before:
                self._before[id(teacher)] = copied(teacher.state_dict())
            modes = [path or "itself" for path, module in teacher.named_modules() if module.training]
            self._complain(modes, f"{name} is in training mode")
            wanting = [path for path, p in teacher.named_parameters() if p.requires_grad or p.grad is not None]
            self._complain(wanting, f"{name} is not frozen")

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        for name, teacher in teachers(strategy):
            if id(teacher) in self._before:
                different = differences(self._before[id(teacher)], teacher.state_dict())
                self._complain(different, f"{name} changed during an experience")

    def after_eval_forward(self, strategy: Any, **kwargs: Any) -> None:
        self.outputs.append(strategy.mb_output.detach().float().cpu())

    def _complain(self, where: list[str], sentence: str) -> None:
        if where and not any(sentence in complaint for complaint in self.complaints):
            self.complaints.append(f"{sentence} ({', '.join(where[:3])})")


class Camera(SupervisedPlugin):
    """Takes the state inside an experience at given (epochs complete, batches done), the last epoch's end being 0."""

    def __init__(self, moments: dict[int, tuple[int, int]]) -> None:
        super().__init__()
        self.moments = moments
        self.picture: dict[str, Any] | None = None

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self._look(strategy, (strategy.epoch, strategy.batch))

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self._look(strategy, (strategy.epoch, 0))

    def _look(self, strategy: Any, now: tuple[int, int]) -> None:
        if self.moments.get(strategy.experience.current_experience) == now:
            self.picture = {"progress": detached(strategy.progress_dict())}


def teachers(strategy: Any) -> Iterator[tuple[str, nn.Module]]:
    """Former models that plugins hold, as a `Teacher` or as a network of their own."""
    for plugin in strategy.plugins:
        for name, value in vars(plugin).items():
            model = value.model if isinstance(value, Teacher) else value
            if isinstance(model, IncrementalNetwork) and model is not strategy.model:
                yield f"{type(plugin).__name__}.{name}", model


def trainable(model: nn.Module) -> dict[str, bool]:
    """`requires_grad` of every parameter."""
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict that training cannot change."""
    return {name: value.clone() for name, value in state.items()}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Keys whose value (a tensor or plain) changed, appeared or vanished."""

    def same(key: str) -> bool:
        if key not in before or key not in after:
            return False
        old, new = before[key], after[key]
        return torch.equal(old, new) if isinstance(old, Tensor) else old == new

    return [key for key in {**before, **after} if not same(key)]
