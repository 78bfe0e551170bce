"""TensorBoard and Weights & Biases, as far as a user asks for them: `training.loggers`, through Avalanche's loggers.

They are told what stands in log.txt, and nothing is ever read back: a run has the same bytes with and without them.
Their files are in the run's folder, tensorboard/ and wandb/ (offline: `wandb sync` uploads them).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError
from benchmark.runs.evaluation import SCORES

if TYPE_CHECKING:
    from avalanche.logging import BaseLogger

    from benchmark.config.schema import RunConfig


def check(names: Sequence[str]) -> None:
    """Raise UserError for a logger whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f'training.loggers names {name}, which is not installed: pip install "imcil[{name}]".')


class Loggers:
    """The loggers of one run; use as a context manager, which closes their files."""

    def __init__(self, run: RunConfig, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.loggers: dict[str, BaseLogger] = {}

    def __enter__(self) -> Loggers:
        for name in self.run.training.loggers:
            self.loggers[name] = MAKERS[name](self.run, self.folder)
        return self

    def __exit__(self, *exception: object) -> None:
        for name, logger in self.loggers.items():
            CLOSERS[name](logger)

    def epoch(self, event: Mapping[str, Any]) -> None:
        """After an epoch: what progress tells."""
        step = event["experience"] * event["epochs"] + event["epoch"]
        self._log({"train/loss": event["loss"], "train/images_per_second": event["rate"]}, step)

    def experience(self, kind: str, record: Mapping[str, Any]) -> None:
        """After an experience: the score on all test images of seen classes, and images in memory."""
        title = "test/accuracy_seen" if kind == "single" else "test/map"
        values = {f"{title}/{name}": SCORES[kind](found) for name, found in record["classifiers"].items()}
        step = (record["experience"] + 1) * self.run.training.epochs
        self._log({**values, "memory_held": sum(record["memory_held"])}, step)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        for logger in self.loggers.values():
            for name, value in values.items():
                logger.log_single_metric(name, value, step)


def _tensorboard(run: RunConfig, folder: Path) -> BaseLogger:
    from avalanche.logging import TensorboardLogger

    return TensorboardLogger(folder / "tensorboard")


def _wandb(run: RunConfig, folder: Path) -> BaseLogger:
    import wandb
    from avalanche.logging import WandBLogger

    class Logger(WandBLogger):
        def log_single_metric(self, name: str, value: float, x_plot: int) -> None:
            self.wandb.log({name: value}, step=x_plot)  # Avalanche 0.6 asks for wandb.viz, which wandb has no more

    settings = wandb.Settings(console="off", silent=True)
    (folder / "wandb").mkdir(exist_ok=True)  # otherwise a warning, and a folder elsewhere
    return Logger(
        project_name="imcil",
        run_name=run.run_name,
        save_code=False,
        dir=folder,
        config=run.model_dump(mode="json"),
        params={"mode": "offline", "id": run.hash[:10], "settings": settings},
    )


MAKERS: dict[str, Callable[[RunConfig, Path], BaseLogger]] = {"tensorboard": _tensorboard, "wandb": _wandb}
CLOSERS: dict[str, Callable[[Any], None]] = {
    "tensorboard": lambda logger: logger.writer.close(),
    "wandb": lambda logger: logger.wandb.finish(),
}
