"""Checkpoints of a run: plain tensors and JSON values, the last two kept.

One is written after every experience, and inside it every `training.checkpoint_minutes`, at the end of the epochs where
stages follow, and when the run is asked to stop. A checkpoint stands alone: the state of the learner when the
experience began, and, inside the experience, its progress since then. To resume, the hooks before the first epoch run
again from that state, which makes teachers and counts as they were; then the progress is loaded. Exemplars are chosen
again from the end of the epochs, then stages go on from the end of one of their own epochs.

They are read with `weights_only=True`, so a stranger's checkpoint cannot execute code.
"""

from __future__ import annotations

import io
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from benchmark.config.schema import RunConfig, differing_keys
from benchmark.errors import UserError
from benchmark.runs.signals import StopRequest
from benchmark.storage.files import read_bytes, write_bytes
from benchmark.storage.folder import RunFolder

FORMAT = 2
KEPT = 2
STAGE_SECONDS = 5.0  # a stage holds its last state in memory, so old at most and an epoch: copies cost time


@dataclass(frozen=True)
class Checkpoint:
    """A run after `experience` experiences and `steps` training steps of the next.

    Attributes
    ----------
    config_hash, science : of the run's config.
    resolved : what its automatic choices became.
    state : the learner between experiences, None before the first: the config and the seed make it.
    progress : the learner inside the experience, None between experiences.
    seconds : spent on training this experience so far.
    """

    experience: int
    config_hash: str
    science: dict[str, Any]
    resolved: dict[str, Any]
    state: dict[str, Any] | None
    progress: dict[str, Any] | None = None
    steps: int = 0
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Its file's name; names are in the order of progress."""
        return f"{self.experience:04d}-{self.steps + self.stage_steps:08d}.pt"

    @property
    def stage_steps(self) -> int:
        """Steps of the experience's stages so far."""
        reached = ((self.progress or {}).get("stages") or [None])[-1]
        return int(reached["compute"]["stage_steps"]) if reached else 0


def write(folder: RunFolder, checkpoint: Checkpoint) -> None:
    """Store a checkpoint atomically, then drop those older than the last two."""
    folder.confirm()
    buffer = io.BytesIO()
    torch.save(
        {"format": FORMAT, **{field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}}, buffer
    )
    write_bytes(folder.checkpoints / checkpoint.name, buffer.getvalue())
    for old in sorted(folder.checkpoints.glob("*.pt"))[:-KEPT]:
        old.unlink()


def latest(folder: RunFolder, run: RunConfig, recorded: int) -> Checkpoint | None:
    """The newest checkpoint that can be read and needs no more than `recorded` lines of metrics.jsonl, else None.

    Raises
    ------
    UserError : it belongs to another config, or was written by a newer imcil.
    """
    for path in sorted(folder.checkpoints.glob("*.pt"), reverse=True):
        try:
            content = _read(path)
            found = int(content.pop("format"))
            checkpoint = Checkpoint(**content) if found == FORMAT else None
        except Exception as error:  # torch.load raises many types on damaged files
            reason = f"is damaged ({type(error).__name__})"
        else:
            if found > FORMAT:
                raise UserError(
                    f"{path} has checkpoint format {found}, this imcil reads up to {FORMAT}; please update imcil."
                )
            if checkpoint is None:
                reason = f"was written by an older imcil (format {found})"
            elif checkpoint.experience > recorded:
                reason = f"needs {checkpoint.experience} lines of {folder.metrics.name}, which holds {recorded}"
            else:
                if checkpoint.config_hash != run.hash:
                    differing = differing_keys(checkpoint.science, run.science)
                    raise UserError(f"{path} belongs to another config ({differing}); give the run another folder.")
                return checkpoint
        warnings.warn(f"{path} {reason}; using the checkpoint before it", stacklevel=2)
    return None


def _read(path: Path) -> dict[str, Any]:
    data = read_bytes(path)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # torch itself does not look at the checksums it wrote
        if (broken := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"bad checksum of {broken}")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def remove(folder: RunFolder, newer_than: Checkpoint | None) -> None:
    """Remove the checkpoints behind the one that a run goes on from, all of them if it starts anew."""
    for path in folder.checkpoints.glob("*.pt"):
        if newer_than is None or path.name > newer_than.name:
            path.unlink()


def detached(state: Any) -> Any:
    """A copy of nested state in main memory, which training cannot change."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: detached(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(detached, state))
    return state


class CheckpointPlugin(SupervisedPlugin):
    """Writes checkpoints inside experiences; put it behind all other plugins, Avalanche's own included.

    Between two of them lie `training.checkpoint_minutes`; a tenth of that where a long unit ends, the epochs.

    Attributes
    ----------
    epochs_end : progress at the end of the experience's epochs where stages follow, else None.
    stages : the newest state inside them that is not written yet, else None.
    """

    def __init__(self, folder: RunFolder, run: RunConfig, resolved: dict[str, Any], stop: StopRequest) -> None:
        super().__init__()
        self.folder, self.run, self.resolved, self.stop = folder, run, resolved, stop
        self.interval = 60 * run.training.checkpoint_minutes
        self.saved_at = self.held_at = time.monotonic()

    def begin(self, experience: int, state: dict[str, Any] | None, previous: Checkpoint | None = None) -> None:
        """An experience begins from `state` (kept as it is), or goes on where the previous attempt left it."""
        self.experience, self.state, self.steps = experience, state, previous.steps if previous else 0
        self.epochs_end = previous.progress if previous else None  # the current one, if no epoch is left to train
        self.stages: list[Any] | None = None
        self.started = time.perf_counter() - (previous.seconds if previous else 0.0)

    @property
    def seconds(self) -> float:
        """Spent on this experience so far, in earlier attempts too as far as they were saved."""
        return time.perf_counter() - self.started

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.epochs_end = None

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.steps += 1
        if self.stop.requested or time.monotonic() >= self.saved_at + self.interval:
            self.save(strategy)
            self.stop.check()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.epoch < strategy.train_epochs:
            return
        self.held_at = time.monotonic()
        if strategy.parts.stages:
            self.epochs_end = detached(strategy.progress_dict())
            self._write(self.epochs_end)
        elif time.monotonic() >= self.saved_at + self.interval / 10:
            self.save(strategy)

    def after_stage_epoch(self, states: Callable[[], list[Any]]) -> None:
        """An epoch of a stage is over; `states` returns the progress of all stages."""
        now = time.monotonic()
        if now >= self.held_at + min(STAGE_SECONDS, self.interval / 10):
            self.stages, self.held_at = detached(states()), now
            if now >= self.saved_at + self.interval:
                self.save_stages()

    def save_stages(self) -> None:
        """Write the newest state inside a stage, if there is one that is not written."""
        if self.stages is not None and self.epochs_end is not None:
            self._write({**self.epochs_end, "stages": self.stages})
            self.stages = None

    def save(self, strategy: Any) -> None:
        """Write a checkpoint inside the epochs of an experience."""
        self._write(strategy.progress_dict())

    def end(self, state: dict[str, Any]) -> None:
        """An experience is over and recorded; the next one begins from `state`."""
        self.begin(self.experience + 1, detached(state))
        self._write(None)

    def _write(self, progress: dict[str, Any] | None) -> None:
        self.folder.confirm()
        run = self.experience, self.run.hash, self.run.science, self.resolved
        write(self.folder, Checkpoint(*run, self.state, progress, self.steps, self.seconds))
        self.saved_at = time.monotonic()
