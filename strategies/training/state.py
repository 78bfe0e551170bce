"""The state of a learner, between experiences and inside them, as tensors and JSON values only.

So it can be loaded with `torch.load(weights_only=True)`. State inside an experience is a difference: what training
changed since the experience began. Teachers, class counts and imprinted rows, made by the hooks before the first epoch,
are not in it; on resume these hooks run again, from the state between experiences, and the difference is loaded on top.
A stateful plugin needs `state_dict()` and `load_state_dict(state)`, and `restore(experiences)` if it keeps datasets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class ResumableState:
    """Mixed into `IncrementalLearner`."""

    model: Any
    optimizer: Any
    plugins: list[Any]
    observers: list[Any]
    clock: Any
    device: torch.device
    dataloader: Any
    experience: Any
    model_adaptation: Any
    generator: torch.Generator
    epoch: int
    batch: int
    images_trained: int
    _loss_sum: Tensor
    _epoch_start: dict[str, Tensor]  # random numbers as they were before the epoch's order was drawn
    _resumed: dict[str, Any] | None = None  # state inside the experience, still to be loaded
    resumed_stages: list[Any]

    def state_dict(self) -> dict[str, Any]:
        """State between experiences."""
        return {
            "network": self.model.state_dict(),
            "plugins": {name: p.state_dict() for name, p in self._named_plugins().items() if hasattr(p, "state_dict")},
            "clock": dict(vars(self.clock)),
        }

    def load_state_dict(self, state: dict[str, Any], experiences: Sequence[Any]) -> None:
        """Continue after `experiences`, the ones trained before `state` was taken."""
        self.model.train()
        for self.experience in experiences:
            self.model = self.model_adaptation()  # grow the head to the saved width
        for plugin in self.plugins:
            if hasattr(plugin, "restore"):
                plugin.restore(experiences)
        self._load_values(state)
        self.experience = None

    def progress_dict(self) -> dict[str, Any]:
        """State after a step or after the last epoch of an experience: what training changed since it began."""
        return {
            **self.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "images_trained": self.images_trained,
            "compute": self.model.compute.state_dict(),
            "loss_sum": self._loss_sum,
            "epoch_start": self._epoch_start,
            "random": self.random_state(),
        }

    def resume_progress(self, progress: dict[str, Any]) -> None:
        """Have the next `train` go on where `progress_dict` was taken; `stages` in it is what `StageRunner` told.

        The learner must be as it was when that experience began: freshly built for the first one, else with the state
        of that moment loaded.
        """
        self._resumed = progress

    def _batches(self) -> Iterator[list[Tensor]]:
        """The epoch's batches; on resume those not seen yet, in the order that was drawn then."""
        if not self._resumed:
            self._epoch_start = self.random_state()
            return iter(self.dataloader)
        self.set_random_state(self._resumed["epoch_start"])
        self._epoch_start = self.random_state()
        seen = self._resumed["batch"]
        if hasattr(self.dataloader, "iterate_from"):
            batches = self.dataloader.iterate_from(seen)
        else:
            batches = iter(self.dataloader)
            for _ in range(seen):
                next(batches)
        self._load_progress()
        return batches

    def _load_progress(self) -> None:
        progress, self._resumed = self._resumed, None
        assert progress is not None
        self._load_values(progress)
        self.optimizer.load_state_dict(progress["optimizer"])
        self.epoch, self.batch, self.images_trained = (progress[key] for key in ("epoch", "batch", "images_trained"))
        self.model.compute.load_state_dict(progress["compute"])
        self._loss_sum = progress["loss_sum"].to(self.device)
        self.set_random_state(progress["random"])
        self.resumed_stages = progress.get("stages", [])

    def _load_values(self, state: dict[str, Any]) -> None:
        for name, plugin in self._named_plugins().items():
            if hasattr(plugin, "load_state_dict") and (name in state["plugins"] or plugin not in self.observers):
                plugin.load_state_dict(state["plugins"][name])
        self.model.load_state_dict(state["network"])
        self.clock.__dict__.update(state["clock"])

    def random_state(self) -> dict[str, Tensor]:
        """Of the batches' generator and of torch; reading it does not wait for the device."""
        state = {"batches": self.generator.get_state(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def set_random_state(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["batches"])
        torch.set_rng_state(state["torch"])
        if self.device.type == "cuda" and "cuda" in state:  # it may come from another device
            torch.cuda.set_rng_state(state["cuda"], self.device)

    def _named_plugins(self) -> dict[str, Any]:
        """Plugins by class name and rank among their class: a plugin without state may come or go between attempts."""
        names: dict[str, Any] = {}
        for plugin in self.plugins:
            kind = type(plugin).__name__
            names[f"{kind}.{sum(name.startswith(f'{kind}.') for name in names)}"] = plugin
        return names
