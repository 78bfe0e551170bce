"""A worker process: imports torch once, checks or carries out the runs it is given, reports what happens.

Messages to a worker: ("check", [(name, config), …]), ("run", name, config). Messages from it: (kind, name, content),
kind one of ready, invalid, checked, progress, done, skipped, failed. It ends with its parent, and with
status 75 when it is asked to stop (see `benchmark.interruption`), its run saved.
"""

from __future__ import annotations

import os
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.interruption import Interrupted, StopRequest
from benchmark.store import AlreadyRunning, RunFolder, read_json, write_json


def main(channel: Connection, directory: Path, device: str) -> None:
    """Serve tasks until the parent goes away."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with StopRequest().listening() as stop:
        _serve(channel, directory, device, stop)


def _serve(channel: Connection, directory: Path, device: str, stop: StopRequest) -> None:
    warnings.filterwarnings("ignore", message="no QP solver")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    import torch

    from benchmark import run  # imports Avalanche: seconds, paid once per worker

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    channel.send(("ready", None, None))
    while True:
        try:
            kind, *content = channel.recv()
        except EOFError:
            return
        if kind == "check":
            for name, config in content[0]:
                try:
                    run.check_device(device)
                    run.prepare(RunConfig.model_validate(config))
                except UserError as error:
                    channel.send(("invalid", name, str(error)))
                except Exception:  # not the user's mistake: the run itself will fail and record it
                    continue
            channel.send(("checked", None, None))
        else:
            name, config = content
            outcome = carry_out(
                RunConfig.model_validate(config),
                directory,
                device,
                lambda event, name=name: channel.send(("progress", name, event)),  # type: ignore[misc]
                stop,
            )
            if outcome[0] != "interrupted":  # its end with status 75 says that
                channel.send(outcome)
            stop.check()


def _end_with_parent() -> None:
    """A sweep that was killed leaves no worker behind."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def carry_out(
    config: RunConfig,
    directory: Path,
    device: str,
    progress: Callable[[dict[str, Any]], None],
    stop: StopRequest | None = None,
) -> tuple[str, str, str | None]:
    """One run with its lock held. Returns (kind, run name, message).

    kind : done; skipped (finished, or another process has it); failed, with failure.json written; interrupted (asked
        to stop by `stop`, checkpoint written: carried out again, it goes on).
    """
    from benchmark import run

    name = config.run_name
    folder = RunFolder(directory / "runs" / name)
    try:
        with folder.lock():
            if folder.read_result() is not None:
                return "skipped", name, None
            run.execute(config, folder, progress, device, stop or StopRequest())
            return "done", name, None
    except Interrupted:
        return "interrupted", name, None
    except AlreadyRunning as error:
        return "skipped", name, str(error)
    except Exception as error:  # a failed run is a value: the sweep goes on
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        with suppress(OSError):  # a full disk cannot hold this either
            record_failure(folder, kind_of(error), message, traceback.format_exc())
        return "failed", name, message


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
