"""What the engines of clusters share: the order that their workers get, and a look at the folder they work on."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.config.schema import RunConfig
from benchmark.errors import UserError
from benchmark.storage.folder import RunFolder
from benchmark.storage.leases import newest
from benchmark.sweeps.engines.base import InvalidRuns
from benchmark.sweeps.engines.worker import Listener, check
from benchmark.sweeps.plan import planned_runs


@dataclass(frozen=True)
class Order:
    """What a worker on another machine is told: which folder, which of its runs, and on what terms. Holds no state.

    Attributes
    ----------
    names : runs to carry out, of those in DIR/sweep.json.
    code_files : the files that runs may import: those that the command line agreed to.
    cwd : where relative paths in configs start.
    since : when the sweep began; workers that died over a run before it do not count against it.
    """

    directory: Path
    names: tuple[str, ...]
    code_files: tuple[str, ...]
    cwd: Path
    device: str
    fail_fast: bool
    since: float

    @classmethod
    def of(cls, runs: Sequence[RunConfig], directory: Path, device: str, fail_fast: bool) -> Order:
        """The order to carry out `runs`, whose code files the caller has agreed to."""
        names = tuple(run.run_name for run in runs)
        code_files = tuple(sorted({file for run in runs for file in run.code_files}))
        return cls(directory.absolute(), names, code_files, Path.cwd(), device, fail_fast, time.time())

    def prepare(self) -> list[RunConfig]:
        """Go to the place where the sweep was started, and read the runs from its folder.

        Raises
        ------
        UserError : a run is not in the plan any more, or the file of its method is another one now.
        """
        os.chdir(self.cwd)
        planned = {run.run_name: run for run in planned_runs(self.directory, self.names)}
        for name in self.names:
            if name not in planned:
                raise UserError(
                    f"{name} is not planned any more: {self.directory / 'sweep.json'} changed, or the file of its "
                    "method; start the sweep again."
                )
        runs = [planned[name] for name in self.names]
        for file in (file for run in runs for file in run.code_files):
            if file not in self.code_files:  # a folder that others write to grants nothing
                raise UserError(f'The sweep would run code from "{file}", and its command line did not name it.')
        return runs


class FolderWatch:
    """Tells a listener what happens to runs, by looking at their folders: started, progress, done, failed.

    Attributes
    ----------
    unclaimed : whether some run waits for a worker.
    failed : whether some run failed.
    """

    def __init__(self, directory: Path, runs: Sequence[RunConfig], listener: Listener) -> None:
        self.folders = {run.run_name: RunFolder(directory / "runs" / run.run_name) for run in runs}
        self.progress: dict[str, Any] = {}  # of the runs that go on
        self.listener = listener
        self.unclaimed, self.failed = False, False

    def look(self) -> bool:
        """Look once; returns whether some run is neither done nor failed."""
        self.unclaimed = False
        for name, folder in list(self.folders.items()):
            state = folder.state
            if state in ("done", "failed"):
                del self.folders[name]
                self.failed |= state == "failed"
                self.listener(state, name, folder.read_failure().get("exception") if state == "failed" else None)
            elif state == "running":
                self._tell_progress(name, folder)
            else:
                self.unclaimed = True
                if self.progress.pop(name, None) is not None:
                    self.listener("interrupted", name, None)
        return bool(self.folders)

    def hear(self, failed: Mapping[str, str]) -> None:
        """Take the word of workers, run name -> message, for runs whose folders do not tell that they failed."""
        for name in failed.keys() & self.folders.keys():
            if self.folders[name].state in ("pending", "interrupted"):
                del self.folders[name]
                self.failed = True
                self.listener("failed", name, failed[name])

    def _tell_progress(self, name: str, folder: RunFolder) -> None:
        if name not in self.progress:
            self.progress[name] = {}
            self.listener("started", name, None)
        claim = newest(folder.path)
        progress = claim.owner.get("progress") if claim else None
        if progress and progress != self.progress[name]:
            self.progress[name] = progress
            self.listener("progress", name, progress)


def check_all(runs: Sequence[RunConfig], directory: Path, workers: int) -> None:
    """Check all runs against their data and the disk, in this process; devices and memory are the workers' affair.

    Raises InvalidRuns.
    """
    if problems := dict(check(runs, "auto", directory, workers, here=False)):
        raise InvalidRuns(problems)
