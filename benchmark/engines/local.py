"""The local engine: worker processes kept alive between runs, one run each at a time.

The engine holds no state that matters: which runs are done is read from their folders, and a worker that dies costs
the run it was on, no other.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmark.config import RunConfig
from benchmark.engines import worker
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
    tasks: Any
    run: str | None = None


class LocalEngine:
    """Runs configs on worker processes of this machine.

    Parameters
    ----------
    directory : results folder.
    jobs : number of workers; each uses one CPU thread.
    listener : told about every event: checked, progress, done, skipped, failed.
    """

    def __init__(self, directory: Path, jobs: int, device: str, listener: Listener) -> None:
        self.directory, self.jobs, self.device, self.listener = directory, jobs, device, listener
        self.context = multiprocessing.get_context("spawn")
        self.events: Any = self.context.Queue()
        self.workers: dict[int, _Worker] = {}
        self.started = 0

    def run(self, runs: Sequence[RunConfig], fail_fast: bool = False) -> dict[str, str]:
        """Check all runs, then carry them out. Returns failures: run name -> message.

        Raises
        ------
        InvalidRuns : a run's config does not fit its data; nothing was started.
        """
        jobs = min(self.jobs, len(runs))
        waiting = deque((run.run_name, run.model_dump(mode="json")) for run in runs)
        failures: dict[str, str] = {}
        problems: dict[str, str] = {}
        idle: list[int] = []
        checked = False
        try:
            for _ in range(jobs):
                self._start()
            while waiting or any(w.run for w in self.workers.values()) or not checked:
                for number, kind, name, content in self._next_events():
                    if kind == "ready":
                        if number == 0:
                            self.workers[0].tasks.put(("check", list(waiting)))
                        else:
                            idle.append(number)
                        continue
                    if kind == "checked":
                        if problems:
                            raise InvalidRuns(problems)
                        checked = True
                        idle.append(number)
                    elif kind == "invalid":
                        problems[name] = content
                        continue
                    elif kind in ("done", "skipped", "failed"):
                        self.workers[number].run = None
                        idle.append(number)
                        if kind == "failed":
                            failures[name] = content
                    elif kind == "died":
                        failures[name] = content
                    self.listener(kind, name, content)
                if fail_fast and failures:
                    break
                while checked and waiting and idle:
                    self._assign(idle.pop(), waiting.popleft())
        finally:
            self._stop()
        return failures

    def _start(self) -> None:
        number, self.started = self.started, self.started + 1
        tasks = self.context.Queue()
        process = self.context.Process(
            target=worker.main, args=(number, self.directory, self.device, tasks, self.events), daemon=True
        )
        previous = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # several one-thread runs beat one run on several threads
        process.start()
        if previous is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = previous
        self.workers[number] = _Worker(process, tasks)

    def _assign(self, number: int, run: tuple[str, dict[str, Any]]) -> None:
        self.workers[number].run = run[0]
        self.workers[number].tasks.put(("run", *run))
        self.listener("started", run[0], None)

    def _next_events(self) -> list[tuple[int, str, str, Any]]:
        """Events so far, at least one second's worth; a dead worker becomes one, and is replaced."""
        events = []
        with suppress(queue.Empty):
            events.append(self.events.get(timeout=1.0))
            while True:
                events.append(self.events.get_nowait())
        for number, dead in [(n, w) for n, w in self.workers.items() if not w.process.is_alive()]:
            if any(event[0] == number for event in events):
                continue  # hear its last words first
            del self.workers[number]
            message = f"the worker process died (exit code {dead.process.exitcode})"
            if dead.run is None:
                raise RuntimeError(f"{message} before it took a run; its error is printed above")
            worker.record_failure(RunFolder(self.directory / "runs" / dead.run), "killed", message, "")
            events.append((number, "died", dead.run, message))
            self._start()
        return events

    def _stop(self) -> None:
        for w in self.workers.values():
            if w.run is None and w.process.is_alive():
                w.tasks.put(None)
            else:
                w.process.terminate()
        for w in self.workers.values():
            w.process.join(timeout=10)
            if w.process.is_alive():
                w.process.kill()
