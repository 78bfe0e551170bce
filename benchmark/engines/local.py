"""The local engine: worker processes kept alive between runs, one run each at a time.

The engine holds no state that matters: which runs are done is read from their folders, and a worker that dies costs
the run it was on, no other.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmark.config import RunConfig
from benchmark.engines import worker
from benchmark.interruption import RESUMABLE, Interrupted
from benchmark.store import RunFolder

Listener = Callable[[str, str | None, Any], None]  # kind, run name, content


class InvalidRuns(Exception):
    """Some runs cannot work; nothing was started. Maps run names to sentences."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(problems.values()))
        self.problems = problems


@dataclass
class _Worker:
    process: BaseProcess
    channel: Connection
    ready: bool = False
    run: str | None = None


class LocalEngine:
    """Runs configs on worker processes of this machine.

    Parameters
    ----------
    directory : results folder.
    jobs : number of workers; each uses one CPU thread.
    listener : told about every event: checked, started, progress, done, skipped, failed, interrupted, died. Nothing was
        written to `directory` before checked.
    """

    def __init__(self, directory: Path, jobs: int, device: str, listener: Listener) -> None:
        self.directory, self.jobs, self.device, self.listener = directory, jobs, device, listener
        self.context = multiprocessing.get_context("spawn")
        self.workers: list[_Worker] = []

    def run(self, runs: Sequence[RunConfig], fail_fast: bool = False) -> dict[str, str]:
        """Check all runs, then carry them out. Returns failures: run name -> message.

        Raises
        ------
        InvalidRuns : a run's config does not fit its data; nothing was started.
        Interrupted : this process was asked to stop; every worker has saved its run and ended.
        """
        waiting = deque((run.run_name, run.model_dump(mode="json")) for run in runs)
        configs = dict(waiting)
        failures: dict[str, str] = {}
        try:
            for _ in range(min(self.jobs, len(waiting))):
                self._start()
            self._check(list(waiting))
            self.listener("checked", None, None)
            while waiting or any(w.run for w in self.workers):
                for w in self.workers:
                    if w.ready and w.run is None and waiting:
                        self._assign(w, waiting.popleft())
                for w, kind, name, content in self._next_events():
                    if kind == "interrupted" and name is not None:  # that worker alone was told to end
                        waiting.append((name, configs[name]))
                    if kind in ("interrupted", "died") and waiting:
                        self._start()
                    if kind in ("failed", "died") and name is not None:
                        failures[name] = content
                    if kind in ("done", "skipped", "failed"):
                        w.run = None
                    self.listener(kind, name, content)
                if fail_fast and failures:
                    break
        except Interrupted:
            self._wind_down()
            raise
        finally:
            self._stop()
        return failures

    def _check(self, runs: list[tuple[str, dict[str, Any]]]) -> None:
        """Have the first worker that is ready check all runs against their data."""
        problems: dict[str, str] = {}
        asked = False
        while True:
            for w, kind, name, content in self._next_events():
                if kind == "ready" and not asked:
                    asked = True
                    w.channel.send(("check", runs))
                elif kind == "invalid" and name is not None:
                    problems[name] = content
                elif kind == "died":
                    raise RuntimeError(f"{content} while the runs were checked; its error is printed above")
                elif kind == "checked":
                    if problems:
                        raise InvalidRuns(problems)
                    return

    def _start(self) -> None:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=worker.main, args=(theirs, self.directory, self.device), daemon=True)
        previous = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # several one-thread runs beat one run on several threads
        process.start()
        if previous is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = previous
        theirs.close()  # the worker holds the only one: its death closes the channel
        self.workers.append(_Worker(process, ours))

    def _assign(self, w: _Worker, run: tuple[str, dict[str, Any]]) -> None:
        w.run = run[0]
        with suppress(OSError):  # it just died: the next event says so
            w.channel.send(("run", *run))
        self.listener("started", run[0], None)

    def _next_events(self) -> list[tuple[_Worker, str, str | None, Any]]:
        """Messages that came within a second; the death of a worker is its last one."""
        events: list[tuple[_Worker, str, str | None, Any]] = []
        by_channel = {w.channel: w for w in self.workers}
        for channel in wait(list(by_channel), timeout=1.0):
            w = by_channel[channel]  # type: ignore[index]
            try:
                while w.channel.poll():
                    kind, name, content = w.channel.recv()
                    w.ready = True
                    events.append((w, kind, name, content))
            except (EOFError, OSError):
                events.append((w, *self._bury(w)))
        return events

    def _bury(self, w: _Worker) -> tuple[str, str | None, str | None]:
        """Take a dead worker off the list and record what it cost; returns (kind, run name, message)."""
        self.workers.remove(w)
        w.process.join(timeout=10)
        if w.process.exitcode == RESUMABLE:
            return "interrupted", w.run, None
        message = f"the worker process died (exit code {w.process.exitcode})"
        if not w.ready:
            raise RuntimeError(f"{message} before it took a run; its error is printed above")
        if w.run is not None:
            worker.record_failure(RunFolder(self.directory / "runs" / w.run), "killed", message, "")
        return "died", w.run, message

    def _wind_down(self) -> None:
        """Have every worker save its run and end, however long its step takes."""
        for w in self.workers:
            w.process.terminate()
        channels = [w.channel for w in self.workers]
        while channels:
            for channel in wait(channels):
                try:
                    channel.recv()  # type: ignore  # a full pipe would block its worker
                except (EOFError, OSError):  # it ended
                    channels.remove(channel)  # type: ignore[arg-type]

    def _stop(self) -> None:
        for w in self.workers:
            w.process.terminate()
        for w in self.workers:
            w.process.join(timeout=10)
            if w.process.is_alive():
                w.process.kill()
