"""Workers as real processes that are there in a moment: a server imports imcil once and forks them.

So a test can afford real signals and real kills by the dozen.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmark.runs.signals import StopRequest
from benchmark.sweeps.engines import worker
from benchmark.sweeps.engines.worker import work

CONTEXT = multiprocessing.get_context("forkserver")

CONTEXT.set_forkserver_preload(["benchmark.runs.execute", "sklearn.datasets"])

NOTICE = "Stopping after this step; a second signal ends it at once."  # what a run on its own prints


class Fork:
    """A worker process on the runs of a sweep folder.

    Parameters
    ----------
    prepare : called in the process before it works, with its end of `told`.
    paced : it stops and waits at steps that it was not allowed (`allow`).
    options : of `benchmark.sweeps.engines.worker.work`.

    Attributes
    ----------
    events : (kind, run name) of what it told so far.
    """

    def __init__(
        self, directory: Path, prepare: Callable[..., None] | None = None, paced: bool = False, **options: Any
    ) -> None:
        self.told, theirs = CONTEXT.Pipe()
        self.events: list[tuple[str, str | None]] = []
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # the server takes it over when it starts
        self.process = CONTEXT.Process(target=_serve, args=(theirs, directory, prepare, paced, options), daemon=True)
        self.process.start()
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
        theirs.close()

    def hear(self, word: str, times: int = 1) -> bool:
        """Wait until it told a word so many times more ("step": one of training or of a stage); False: it ended."""
        while times:
            try:
                kind, name = self.told.recv()
            except (EOFError, OSError):
                return False
            self.events.append((kind, name))
            times -= kind == word
        return True

    def allow(self, steps: int = 10**9) -> None:
        with suppress(OSError):  # it ended
            self.told.send(steps)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)  # type: ignore[arg-type]

    def end(self) -> int:
        """Wait for its end; the exit status, negative for a signal."""
        self.hear("the end")
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def kill(self) -> bool:
        """Kill it; False: it had ended just before."""
        with suppress(ProcessLookupError):
            self.send(signal.SIGKILL)
        return self.end() == -signal.SIGKILL


class _Telling(StopRequest):
    """Tells of every look at it: after each step of training and of stages."""

    def __init__(self, tell: Callable[[str], None], told: Connection | None) -> None:
        self._tell, self._told, self._allowed, self._requested = tell, told, 0, False
        super().__init__()

    @property
    def requested(self) -> bool:
        self._tell("step")
        while self._told and self._allowed <= 0:
            self._allowed += self._told.recv()
        self._allowed -= 1
        return self._requested

    @requested.setter
    def requested(self, value: bool) -> None:
        self._requested = value


def _serve(
    told: Connection, directory: Path, prepare: Callable[..., None] | None, paced: bool, options: dict[str, Any]
) -> None:
    warnings.simplefilter("ignore")

    def tell(kind: str, name: str | None = None, content: Any = None) -> None:
        told.send((kind, name))

    tempfile.tempdir = str(directory)  # workers elsewhere on this machine, who may want the CPU alone, do not count
    if prepare:
        prepare(told)
    with _Telling(tell, told if paced else None).listening(NOTICE) as stop:
        work(directory, stop=stop, listen=tell, **options)


def ask_before_checkpoints(told: Connection) -> None:
    """Have it wait for `allow` whenever it is writing a checkpoint."""
    sync = os.fsync

    def asking(descriptor: int) -> None:
        if ".pt." in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            told.send(("writing", None))
            told.recv()
        sync(descriptor)

    os.fsync = asking


def never_give_up(told: Connection) -> None:
    """Have it try a run again that any number of workers died over before they could save anything."""
    worker.MOST_DEATHS = 1_000_000
