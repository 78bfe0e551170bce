"""Which classes have been seen, where their logits are, and how many images each had and still has.

imcil's streams number classes in arrival order, so old classes are the first columns. Other Avalanche benchmarks may
shuffle class ids; everything here speaks arrival order and translates ids on the way in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils.data_loader import ReplayDataLoader
from avalanche.core import SupervisedPlugin
from torch import Tensor

from strategies.training.labels import UNANNOTATED, targets_array

IGNORED = -100  # the position of a class that was never trained: what cross_entropy skips


class SeenClasses:
    """Maps class ids to arrival positions and a model's output to the logits of seen classes.

    The column of a class in the output is its id, as in Avalanche's heads; the head may be wider than what was seen.
    Several plugins may share one object: `update` is idempotent within an experience.

    Attributes
    ----------
    class_ids : ids in arrival order; those new in one experience are sorted.
    num_old : how many of them came before the current experience.
    """

    def __init__(self) -> None:
        self._set([], 0, None)

    @property
    def num_seen(self) -> int:
        return len(self.class_ids)

    @property
    def columns(self) -> Tensor | None:
        """Output columns in arrival order, (C_seen,) int64; None when they are simply the first C_seen."""
        return None if self._in_order else torch.tensor(self.class_ids)

    def update(self, experience: Any) -> None:
        """Take in an experience's `classes_in_this_experience` (any collection of ints) when its training starts."""
        new = sorted({int(c) for c in experience.classes_in_this_experience} - set(self.class_ids))
        if new or experience.current_experience != self._experience:
            self._set([*self.class_ids, *new], self.num_seen, experience.current_experience)

    def logits(self, output: Tensor) -> Tensor:
        """Output (B, width) -> logits of seen classes in arrival order (B, C_seen)."""
        return self._select(output, self.num_seen, self._width)

    def old_logits(self, output: Tensor) -> Tensor:
        """Output (B, width) of student or teacher -> logits of old classes in arrival order (B, C_old)."""
        return self._select(output, self.num_old, self._old_width)

    def targets(self, labels: Tensor) -> Tensor:
        """Labels of a batch in order of arrival, whatever the ids.

        Class ids (B,) -> arrival positions (B,); a class never trained (in evaluation) gets -100: losses skip it.
        Annotations (B, any width) -> annotations of the seen classes (B, C_seen); columns that are not there are -1.
        """
        if labels.ndim == 2:
            padded = torch.nn.functional.pad(labels, (0, max(self._width - labels.shape[1], 0)), value=UNANNOTATED)
            return self._select(padded, self.num_seen, self._width)
        if labels.device not in self._positions:
            positions = torch.full((self._width + 1,), IGNORED)
            positions[self.class_ids] = torch.arange(self.num_seen)
            self._positions[labels.device] = positions.to(labels.device)
        return self._positions[labels.device][labels.clamp(max=self._width)]

    def columns_on(self, device: torch.device) -> Tensor:
        """Output columns in arrival order, (C_seen,) int64 on `device`; copied there once per experience."""
        if device not in self._columns:
            self._columns[device] = torch.tensor(self.class_ids, dtype=torch.long).to(device)
        return self._columns[device]

    def state_dict(self) -> dict[str, Any]:
        return {"class_ids": list(self.class_ids), "num_old": self.num_old, "experience": self._experience}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._set(list(state["class_ids"]), state["num_old"], state["experience"])

    def _set(self, class_ids: list[int], num_old: int, experience: int | None) -> None:
        self.class_ids, self.num_old, self._experience = class_ids, num_old, experience
        self._in_order = class_ids == list(range(len(class_ids)))
        self._width = max(class_ids, default=-1) + 1  # columns the output needs at least
        self._old_width = max(class_ids[:num_old], default=-1) + 1
        self._columns: dict[torch.device, Tensor] = {}
        self._positions: dict[torch.device, Tensor] = {}

    def _select(self, output: Tensor, count: int, width: int) -> Tensor:
        if output.shape[1] < width:
            raise ValueError(f"the model's output has {output.shape[1]} columns, but class id {width - 1} was seen")
        if self._in_order:
            return output[:, :count]
        return output.index_select(1, self.columns_on(output.device)[:count])


class SeenClassesPlugin(SupervisedPlugin):
    """Base of plugins that must know which classes are old: `seen` is brought up to date before each experience."""

    def __init__(self, seen: SeenClasses | None = None) -> None:
        super().__init__()
        self.seen = SeenClasses() if seen is None else seen

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.seen.update(strategy.experience)

    def state_dict(self) -> dict[str, Any]:
        return self.seen.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen.load_state_dict(state)


class ClassCounts:
    """Images per class in arrival order: those it had when its experience came, and those available for training now.

    Attributes
    ----------
    available : (C_seen,) int64, images in the current training data, exemplars included.
    original : (C_seen,) int64, images of the class in the experience that brought it.
    """

    def __init__(self, seen: SeenClasses | None = None) -> None:
        self.seen = SeenClasses() if seen is None else seen
        self.available = torch.zeros(0, dtype=torch.long)
        self.original = torch.zeros(0, dtype=torch.long)

    def update(self, strategy: Any) -> None:
        """Count at the start of an experience, once the strategy's `adapted_dataset` holds new data and exemplars."""
        self.seen.update(strategy.experience)
        self.available = self._count(training_targets(strategy))
        fresh = self._count(targets_array(strategy.experience.dataset))
        self.original = torch.cat([self.original[: self.seen.num_old], fresh[self.seen.num_old :]])

    @property
    def lost(self) -> Tensor:
        """(C_old,) int64, images of each old class that are no longer available."""
        return (self.original - self.available).clamp_min(0)[: self.seen.num_old]

    @property
    def num_seen_images(self) -> int:
        """Images all old classes ever had: n_seen of gradient reweighting."""
        return int(self.original[: self.seen.num_old].sum())

    @property
    def num_new_images(self) -> int:
        """Images of the current experience's new classes: n_new of gradient reweighting."""
        return int(self.original[self.seen.num_old :].sum())

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen.state_dict(), "available": self.available, "original": self.original}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen.load_state_dict(state["seen"])
        self.available, self.original = state["available"].cpu(), state["original"].cpu()

    def _count(self, targets: np.ndarray) -> Tensor:
        counts = np.bincount(targets, minlength=max(self.seen.class_ids, default=-1) + 1)
        return torch.from_numpy(counts[self.seen.class_ids]).long()


def replays_from_loader(strategy: Any) -> bool:
    """Whether old images come from Avalanche's `ReplayPlugin`, whose buffer only its data loader knows.

    That plugin makes its loader in `before_training_exp`, perhaps after ours: count again before the first epoch.
    """
    return isinstance(strategy.dataloader, ReplayDataLoader)


def training_targets(strategy: Any) -> np.ndarray:
    """Class ids (N,) of everything the current experience trains on."""
    if replays_from_loader(strategy):
        return np.concatenate([targets_array(dataset) for dataset in strategy.dataloader.datasets])
    return targets_array(strategy.adapted_dataset)
