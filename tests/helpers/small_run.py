"""A run of a second for tests, ways to stop it, and what of its folder has to repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.config.schema import RunConfig, validated
from benchmark.runs import execute as runs
from benchmark.runs.signals import StopRequest
from benchmark.storage.folder import RunFolder
from benchmark.sweeps.engines.worker import carry_out
from strategies import registry

BASE: dict[str, Any] = {
    "dataset": {"name": "digits", "classes": 6},
    "stream": {"tasks": 3, "rho": 5, "max_count": 30},
    "memory": {"budget": 3},
    "training": {
        "backbone": "convnet", "epochs": 2, "batch_size": 16, "lr": 0.05, "augmentation": "none", "precision": "fp32",
        "compile": "off",
    },
}  # fmt: skip
TINY: dict[str, Any] = {"dataset__classes": 4, "stream__tasks": 2, "training__epochs": 1}  # changes: a tenth of it
EPOCHS = 2
STAGES = {"stage_epochs": 40, "stage_steps": 20, "finetune_epochs": 4, "cbf_epochs": 4, "lws_epochs": 4}
REPEATABLE = ("result.json", "metrics.jsonl", "stream.json", "config.json", "diagnostics.jsonl")


def config(strategy: str | dict[str, Any] = "replay", **changes: Any) -> RunConfig:
    """The small run with other values: training__epochs=1 stands for training.epochs."""
    content = {section: dict(values) for section, values in BASE.items()}
    for key, value in changes.items():
        section, _, field = key.partition("__")
        content.setdefault(section, {})[field] = value
    return validated({**content, "strategy": strategy})


def short(strategy: str) -> dict[str, Any]:
    """A method with shorter second stages: with a checkpoint after each of their epochs they would take seconds."""
    recipe = registry.get(strategy)
    return {"name": strategy, **{field: epochs for field, epochs in STAGES.items() if hasattr(recipe, field)}}


class Killed(BaseException):
    """Stands for the end of the process."""


class AskedAfter(StopRequest):
    """Asks to stop at every look but the first few; a run looks after every step of training and of stages."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        super().__init__()

    @property
    def requested(self) -> bool:
        self.looks -= 1
        return self.looks < 0 and self.over()

    @requested.setter
    def requested(self, value: bool) -> None: ...

    def over(self) -> bool:
        return True


class KilledAt(AskedAfter):
    """Ends the process when it is looked at for the `looks`-th time: a kill is not announced."""

    def __init__(self, looks: int) -> None:
        super().__init__(looks - 1)

    def over(self) -> bool:
        raise Killed


def chop(wanted: RunConfig, folder: RunFolder, looks: Sequence[int]) -> int:
    """Carry a run out, killing it after so many looks each time; returns how often it was killed."""
    for kills, limit in enumerate(looks):
        try:
            runs.execute(wanted, folder, stop=KilledAt(limit))
            return kills
        except Killed:
            assert not folder.result.exists()
    runs.execute(wanted, folder)
    return len(looks)


def kill_at(experience: int) -> runs.Progress:
    """Ends the run in the middle of training an experience."""

    def progress(event: dict[str, Any]) -> None:
        if event["experience"] == experience and event["epoch"] == 1:
            raise Killed

    return progress


def interrupt(wanted: RunConfig, folder: RunFolder, *experiences: int) -> None:
    """Run until each of `experiences` in turn, going on from the last checkpoint."""
    for experience in experiences:
        with pytest.raises(Killed):
            runs.execute(wanted, folder, kill_at(experience))


def done(wanted: RunConfig, path: Path) -> RunFolder:
    folder = RunFolder(path)
    runs.execute(wanted, folder)
    return folder


def execute(
    wanted: RunConfig, folder: RunFolder, trained: Callable[[int], None] = lambda experience: None
) -> tuple[str, str | None]:
    """What a worker does with one run, its earlier failure forgiven; `trained` hears of each epoch's experience."""

    def listen(kind: str, name: str | None, content: Any) -> None:
        if kind == "progress":
            trained(content["experience"])

    if folder.state == "failed":
        folder.forgive()
    return carry_out(wanted, folder, "cpu", listen, StopRequest())


def repeatable(folder: RunFolder) -> dict[str, Any]:
    """What has to be the same whenever a run is repeated or resumed."""
    paths = [folder.path / name for name in REPEATABLE]
    files: dict[str, Any] = {path.name: path.read_bytes() for path in paths if path.exists()}
    for path in sorted(folder.confusion.glob("*")):
        with np.load(path) as arrays:
            files[path.name] = {name: arrays[name].tolist() for name in arrays.files}
    return files


def states(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.glob("*"))
