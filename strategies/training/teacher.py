"""The frozen model of the previous experience, and a way to read the features that enter a head."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from strategies.networks.heads import GrowingHead


def autocast_of(strategy: Any) -> AbstractContextManager:
    """The precision context a strategy trains under; stock Avalanche templates have none."""
    return strategy.autocast() if hasattr(strategy, "autocast") else nullcontext()


def last_linear(model: nn.Module) -> nn.Linear:
    """The last `nn.Linear` of a model in order of registration: its classifier.

    Raises
    ------
    ValueError: the model has none.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no nn.Linear layer; this method needs a linear classifier at its end"
        )
    return layers[-1]


class InputTap:
    """Reads the latest input of one layer, with its graph."""

    def __init__(self) -> None:
        self._value: Tensor | None = None
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    @property
    def attached(self) -> bool:
        return self._handle is not None

    def attach(self, layer: nn.Module) -> None:
        """Listen to `layer` and to no other; a deep copy of it (a teacher) copies the hook but is not listened to."""
        self.detach()

        def remember(module: nn.Module, args: tuple[Any, ...]) -> None:
            if module is layer:
                self._value = args[0]

        self._handle = layer.register_forward_pre_hook(remember)

    def take(self) -> Tensor:
        """The input (B, d) of the latest forward pass; it is let go of, so that its graph can be freed.

        Raises
        ------
        ValueError: the layer was not run since the last call.
        """
        if self._value is None:
            raise ValueError("the model's last nn.Linear took no part in the forward pass; it must be the classifier")
        value, self._value = self._value, None
        return value

    def detach(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._value = None


class Teacher:
    """A frozen copy of a model in eval mode: batch statistics and weights stay those of the moment it was taken.

    Take it before the head grows for new classes, after any calibration of the old ones. Attribute `model` is the copy,
    None before the first snapshot.
    """

    def __init__(self) -> None:
        self.model: nn.Module | None = None
        self._tap = InputTap()

    def snapshot(self, model: nn.Module) -> None:
        """Replace the teacher by a copy of `model`."""
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        head = getattr(self.model, "head", None)
        if isinstance(head, GrowingHead):
            head.become_teacher()
        self._tap.detach()

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Images (B, ...) -> raw output (B, width at the time of the snapshot)."""
        return self._copy()(x)

    def features(self, x: Tensor) -> Tensor:
        """Images (B, ...) -> features that enter the classifier (B, d)."""
        return self.features_and_logits(x)[0]

    @torch.no_grad()
    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one forward pass: the model's `features` and `classify`, else the input of its last nn.Linear."""
        model: Any = self._copy()
        if hasattr(model, "features") and hasattr(model, "classify"):
            features = model.features(x)
            return features, model.classify(features)
        if not self._tap.attached:
            self._tap.attach(last_linear(model))
        logits = model(x)
        return self._tap.take(), logits

    @torch.no_grad()
    def maps_and_features(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Images (B, ...) -> the backbone's stage maps (B, c, H, W) and features (B, d), as the network gives them."""
        model: Any = self._copy()
        return model.maps_and_features(x)

    def _copy(self) -> nn.Module:
        if self.model is None:
            raise ValueError("the teacher has no model yet; take a snapshot after the first experience")
        return self.model
