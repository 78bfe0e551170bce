"""The local engine: worker processes of this machine, each of which carries out one run after the other.

It starts them, passes on what they tell, records a run as killed when its worker dies, and starts another worker.
"""

from __future__ import annotations

import atexit
import gc
import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmark.config.schema import RunConfig
from benchmark.runs.signals import RESUMABLE, Interrupted, StopRequest
from benchmark.storage.folder import RunFolder
from benchmark.storage.leases import LEASE, AlreadyRunning
from benchmark.sweeps.engines.base import InvalidRuns
from benchmark.sweeps.engines.worker import Listener, any_failed, check, work

LOOK_EVERY = 2.0  # seconds, at runs that workers of others have in hand
MOST_STILLBORN = 2  # workers in a row that end before they are ready, besides one in each place
Event = tuple["_Worker", str, str | None, Any]  # who, kind, run name, content


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    channel: Connection
    device: str
    ready: bool = False
    run: str | None = None


class LocalEngine:
    """Runs configs on worker processes of this machine.

    Parameters
    ----------
    directory : results folder.
    devices : one worker for each of these; a worker uses one CPU thread.
    listener : told about every event: checked, waiting, died, and those of `work`. Nothing was written to `directory`
        before checked.
    """

    def __init__(self, directory: Path, devices: Sequence[str], listener: Listener, lease: float = LEASE) -> None:
        self.directory, self.devices, self.listener, self.lease = directory, list(devices), listener, lease
        self.context = multiprocessing.get_context("spawn")
        self.workers: list[_Worker] = []
        self.failed: set[str] = set()  # runs; a full disk may keep their folders from telling
        self.stillborn = 0  # workers in a row that ended before they were ready

    def run(
        self, runs: Sequence[RunConfig], fail_fast: bool = False, checked: bool = False, patience: float = math.inf
    ) -> None:
        """Check all runs, then have them carried out; returns when each is done or failed, here or elsewhere.

        Parameters
        ----------
        checked : whoever asks has checked them.
        patience : seconds to wait for runs that are in the hands of workers elsewhere.

        Raises
        ------
        InvalidRuns : a run's config does not fit its data; nothing was started.
        Interrupted : this process was asked to stop; every worker has saved its run and ended.
        RuntimeError : workers cannot start, or the one that checked the runs ended.
        """
        self.runs, self.fail_fast = list(runs), fail_fast
        try:
            for device in self.devices[: len(runs)]:
                self._start(device)
            if not checked:
                self._check()
                self.listener("checked", None, None)
            for w in self.workers:
                self._set_to_work(w)
            waiting_since: float | None = None
            while self._attend():
                if fail_fast and any_failed(self.directory, (run.run_name for run in self.runs)):
                    return  # elsewhere, which no worker told: each would end at once
                open_runs = self._open_runs()
                if "pending" in open_runs or "interrupted" in open_runs:  # it was in hand elsewhere, and is free again
                    self._set_to_work(self._start(self.devices[0]))
                    continue
                now = time.monotonic()
                if not open_runs or now - (waiting_since or now) >= patience:
                    return
                if waiting_since is None:
                    waiting_since = now
                    self.listener("waiting", None, len(open_runs))
                time.sleep(LOOK_EVERY)
        except Interrupted:
            self._wind_down()
            raise
        finally:
            self._stop()

    def _attend(self) -> bool:
        """Listen to the workers until all have finished; False when a failure is to end everything."""
        while self.workers:
            for w, kind, name, content in self._next_events():
                if kind == "ready":
                    self.stillborn = 0
                elif kind == "started":
                    w.run = name
                elif kind in ("done", "failed", "postponed", "lost"):
                    w.run = None
                elif kind in ("died", "interrupted") and w not in self.workers and self._open_runs():
                    for other in self._replaced(w):
                        self._set_to_work(other)
                if name is None:  # no run's affair
                    continue
                if kind in ("failed", "died"):
                    self.failed.add(name)
                self.listener(kind, name, content)
                if self.fail_fast and kind in ("failed", "died"):
                    return False
        return True

    def _open_runs(self) -> list[str]:
        """States of the runs that are neither done nor failed."""
        states = {run.run_name: RunFolder(self.directory / "runs" / run.run_name).state for run in self.runs}
        ended = {name for name in self.failed if name in states and states[name] != "running"}
        return [state for name, state in states.items() if state not in ("done", "failed") and name not in ended]

    def _check(self) -> None:
        """Have the first worker that is ready check all runs against their data."""
        problems: dict[str, str] = {}
        asked: _Worker | None = None
        while True:
            for w, kind, name, content in self._next_events():
                if kind == "ready" and not asked:
                    asked = w
                    devices = self.devices[: len(self.runs)]
                    terms = {"workers": len(devices), "sharing": devices.count(w.device)}
                    with suppress(OSError):  # it just died: the next event says so
                        w.channel.send(("check", self.runs, w.device, self.directory, terms))
                elif kind == "invalid" and name is not None:
                    problems[name] = content
                elif kind in ("died", "interrupted"):
                    if w is asked or not self.workers:
                        raise RuntimeError(f"The worker process that was to check the runs {_end_of(w)}.")
                    self._replaced(w)
                elif kind == "checked":
                    if problems:
                        raise InvalidRuns(problems)
                    return

    def _replaced(self, w: _Worker) -> list[_Worker]:
        """Another worker in the place of one that ended; none when too many in a row ended before they were ready."""
        places = min(len(self.devices), len(self.runs))
        if self.stillborn < places + MOST_STILLBORN:
            return [self._start(w.device)]
        if not self.workers:
            raise RuntimeError(f"{self.stillborn} worker processes in a row took no run; the last one {_end_of(w)}.")
        return []

    def _start(self, device: str) -> _Worker:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs,), daemon=True)
        previous = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # several one-thread runs beat one run on several threads
        process.start()
        if previous is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = previous
        theirs.close()  # the worker holds the only one: its death closes the channel
        self.workers.append(_Worker(process, ours, device))
        return self.workers[-1]

    def _set_to_work(self, w: _Worker) -> None:
        terms = {
            "device": w.device,
            "shared": self.devices.count(w.device) > 1,
            "code_files": {file for run in self.runs for file in run.code_files},  # the command line agreed to them
            "fail_fast": self.fail_fast,
            "lease": self.lease,
        }
        with suppress(OSError):  # it just died: the next event says so
            w.channel.send(("work", self.directory, self.runs, terms))

    def _next_events(self) -> list[Event]:
        """Messages that came within a second; the death of a worker is its last one."""
        events: list[Event] = []
        by_channel = {w.channel: w for w in self.workers}
        for channel in connection.wait(list(by_channel), timeout=1.0):
            w = by_channel[channel]  # type: ignore[index]
            try:
                while w.channel.poll():
                    kind, name, content = w.channel.recv()
                    w.ready = True
                    if kind == "finished":  # its imports take seconds to unload: nobody waits for that
                        self.workers.remove(w)
                        break
                    events.append((w, kind, name, content))
            except (EOFError, OSError):
                if events and events[-1][0] is w:
                    continue  # first what it told last; its end is noticed again
                events += self._bury(w)
        return events

    def _bury(self, w: _Worker) -> list[Event]:
        """Take an ended worker off the list and record what its death cost."""
        self.workers.remove(w)
        w.process.join(timeout=10)
        if w.process.exitcode == RESUMABLE:
            return [(w, "interrupted", w.run, None)]
        message = f"the worker process died (exit code {w.process.exitcode})"
        if not w.ready:
            self.stillborn += 1
        if w.run is not None:
            folder = RunFolder(self.directory / "runs" / w.run)
            with suppress(AlreadyRunning, OSError), folder.claim(self.lease):  # a worker elsewhere may have it by now
                folder.record_failure("killed", message)
        return [(w, "died", w.run, message)]

    def _wind_down(self) -> None:
        """Have every worker save its run and end, however long its step takes."""
        for w in self.workers:
            w.process.terminate()
        channels = [w.channel for w in self.workers]
        while channels:
            for channel in connection.wait(channels):
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


def _end_of(w: _Worker) -> str:
    """'was killed by signal 9, as by a system that runs out of memory'."""
    status = w.process.exitcode
    if status == RESUMABLE:
        return "was asked to stop"
    if status is not None and status < 0:
        out_of_memory = ", as by a system that runs out of memory" if -status == signal.SIGKILL else ""
        return f"was killed by signal {-status}{out_of_memory}"
    return f"died (exit code {status}); its error is printed above"


# --- in the worker process ------------------------------------------------------------------------------------------


def _serve(channel: Connection) -> None:
    """Take tasks from the parent: ("check", *arguments, terms of `check`), at last ("work", directory, runs, terms).

    Answers (kind, run name, content): ready; invalid and checked; the events of `work` and finished. Ends with the
    parent, and with status 75 when it is asked to stop (see `benchmark.runs.signals`), its run saved.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with StopRequest().listening() as stop:
        warnings.filterwarnings("ignore", message="no QP solver")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        gc.disable()  # nothing to collect among imports: to look for it takes a tenth of their time
        import torch

        import benchmark.runs.execute  # noqa: F401  # imports Avalanche: seconds, paid once per worker

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        gc.freeze()  # what was imported stays: to look through it after every run takes half a second
        gc.enable()
        atexit.register(gc.unfreeze)  # libraries complain of leaks otherwise
        channel.send(("ready", None, None))
        with suppress(EOFError):
            while True:
                task, *content = channel.recv()
                if task == "work":
                    directory, runs, terms = content
                    work(directory, runs, listen=lambda *event: _tell(channel, event), stop=stop, **terms)
                    channel.send(("finished", None, None))
                    return
                *content, terms = content
                for name, sentence in check(*content, **terms):
                    channel.send(("invalid", name, sentence))
                channel.send(("checked", None, None))


def _tell(channel: Connection, event: tuple[str, str | None, Any]) -> None:
    try:
        channel.send(event)
    except OSError:  # the parent is gone: this is no failure of the run
        os._exit(1)


def _end_with_parent() -> None:
    """A sweep that was killed leaves no worker behind."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
