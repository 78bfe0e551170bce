"""A worker process: imports torch once, checks or carries out the runs it is given, reports what happens.

Messages to a worker: ("check", [(name, config), …]), ("run", name, config), None to end. Messages from it:
(worker, kind, name, content) with kind ready, invalid, progress, done, skipped or failed.
"""

from __future__ import annotations

import os
import traceback
import warnings
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.store import AlreadyRunning, RunFolder, read_json, write_json


def main(worker: int, directory: Path, device: str, tasks: Queue[Any], events: Queue[Any]) -> None:
    """Serve tasks until None comes."""
    warnings.filterwarnings("ignore", message="no QP solver")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    import torch

    from benchmark import run  # imports Avalanche: seconds, paid once per worker

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    events.put((worker, "ready", None, None))
    while (task := tasks.get()) is not None:
        kind, *content = task
        if kind == "check":
            for name, config in content[0]:
                try:
                    run.prepare(RunConfig.model_validate(config))
                except UserError as error:
                    events.put((worker, "invalid", name, str(error)))
            events.put((worker, "checked", None, None))
            continue
        name, config = content
        events.put((worker, *carry_out(RunConfig.model_validate(config), directory, device, worker, events)))


def carry_out(
    config: RunConfig, directory: Path, device: str, worker: int, events: Queue[Any]
) -> tuple[str, str, str | None]:
    """One run with its lock held; a failure becomes failure.json. Returns (kind, run name, message)."""
    from benchmark import run

    name = config.run_name
    folder = RunFolder(directory / "runs" / name)
    try:
        with folder.lock():
            if folder.read_result() is not None:
                return "skipped", name, None
            run.execute(config, folder, lambda event: events.put((worker, "progress", name, event)), device)
            return "done", name, None
    except AlreadyRunning as error:
        return "skipped", name, str(error)
    except Exception as error:  # a failed run is a value: the sweep goes on
        record_failure(folder, kind_of(error), f"{type(error).__name__}: {error}", traceback.format_exc())
        return "failed", name, f"{type(error).__name__}: {error}"


def kind_of(error: BaseException) -> str:
    """user error, non-finite loss, out of memory, disk full or error."""
    if isinstance(error, UserError):
        return "user error"
    if type(error).__name__ == "NonFiniteLossError":
        return "non-finite loss"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory"
    if isinstance(error, OSError) and error.errno == 28:
        return "disk full"
    return "error"


def record_failure(folder: RunFolder, kind: str, exception: str, trace: str) -> None:
    """Write failure.json with the number of this attempt."""
    try:
        attempt = int(read_json(folder.failure)["attempt"]) + 1
    except (OSError, ValueError, KeyError, TypeError):
        attempt = 1
    write_json(folder.failure, {"kind": kind, "exception": exception, "traceback": trace, "attempt": attempt})
