"""Who carries out a run: claims, by which any number of workers on any number of machines agree through files alone.

The claims of a run are claim.0001.json, claim.0002.json, … in its folder; the highest number is the one that holds. To
claim a run is to link the next number to a file of one's own, or to create it with O_EXCL, which works for one worker
only on local and network file systems alike (flock does not cross all of them); linked, it is never seen empty. It is
tried only when the claim before is released or its owner is dead:

- on this machine (same boot and process namespace) an owner is dead when its process is gone, by number and start time;
- on another machine when it has given no sign of life for its `lease`, by the file system's clock. A living owner
  rewrites its claim eight times a lease, with its progress.

No claim is deleted before its run has a result, so a worker that was asleep between looking and creating finds its
number taken, or finds the result. An owner that was taken for dead (a suspended machine) notices by
`RunFolder.confirm`: a higher claim is there, or a result that it did not write.
"""

from __future__ import annotations

import json
import os
import platform
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmark.storage.files import DamagedFile, create, read_bytes, write_json

LEASE = 120.0  # seconds
BEATS = 8  # signs of life in a lease; an NFS client may see the last one a minute late


class AlreadyRunning(RuntimeError):
    """A living worker holds this run."""


class ClaimLost(RuntimeError):
    """Another worker took this run over, because this one gave no sign of life for too long."""


@dataclass(frozen=True)
class Claim:
    """What one claim file says. `owner` is {} for a damaged one; what it holds may be a stranger's."""

    number: int
    heard: float  # when its owner last gave a sign of life
    owner: dict[str, Any]

    def is_alive(self, now: Callable[[], float]) -> bool:
        """Whether its owner may still be at work; `now`, as of `clock`, is asked where only the time can tell."""
        if self.owner.get("released"):
            return False
        machine = _machine()
        if machine is not None and self.owner.get("machine") == machine:
            start = _process_start(self.owner.get("pid"))
            return start is not None and start == self.owner.get("process_start")
        lease = self.owner.get("lease")
        return now() - self.heard < (lease if isinstance(lease, int | float) else LEASE)


class Hold:
    """A claim of this process.

    Attributes
    ----------
    progress : what the next sign of life tells.
    stopped_at : the place where the run was stopped without saving its work, None where it saved it.
    done : ends the claims of the run.
    """

    def __init__(self, folder: Path, number: int, lease: float, mark: int) -> None:
        self.folder, self.number, self.lease = folder, number, lease
        self.path = _path(folder, number)
        self.progress: dict[str, Any] = {}
        self.stopped_at: str | None = None
        self.done = False
        pid = os.getpid()
        self.owner = {
            "host": platform.node(), "pid": pid, "process_start": _process_start(pid), "machine": _machine(),
            "since": time.time(), "lease": lease, "mark": mark,
        }  # fmt: skip
        create(self.path, json.dumps(self.owner).encode())
        for leftover in folder.glob(".claim.*.tmp"):  # of killed writes; who lives to see it finds the number taken
            of = re.fullmatch(r"\.claim\.(\d{4,9})\.json\..*", leftover.name)
            if of and int(of[1]) <= number:
                leftover.unlink(missing_ok=True)
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def confirm(self) -> None:
        """Raise ClaimLost if another worker holds the run; one that finished it shows in its result alone."""
        if _path(self.folder, self.number + 1).exists():
            raise ClaimLost(f"{self.folder.name} was taken over by another worker: this one seemed dead to it.")

    def deaths(self, since: float) -> int:
        """How many workers died over this run, one after the other, after `since` and without moving it on."""
        count = 0
        for number in reversed([n for n in _numbers(self.folder) if n < self.number]):
            claim = _read(self.folder, number)
            owner = claim.owner if claim else {}
            started = owner.get("since")
            recent = isinstance(started, int | float) and started >= since
            if not recent or owner.get("released") or owner.get("mark") != self.owner["mark"]:
                break
            count += 1
        return count

    def stops(self, place: str) -> int:
        """How many workers, one after the other, were stopped at this place without saving their work."""
        count = 0
        for number in reversed([n for n in _numbers(self.folder) if n < self.number]):
            claim = _read(self.folder, number)
            if claim is None or claim.owner.get("stopped_at") != place:
                break
            count += 1
        return count

    def release(self) -> None:
        """Leave the run to others."""
        self._over.set()
        self._heart.join()
        with suppress(OSError):  # then this process ends, or is taken for dead
            if self.done:
                for number in _numbers(self.folder):
                    if number <= self.number:  # a higher one is that of a worker which took this one for dead
                        _path(self.folder, number).unlink(missing_ok=True)
                return
            try:
                end = {"progress": self.progress, "stopped_at": self.stopped_at, "released": True}
                write_json(self.path, {**self.owner, **end})
            except OSError:  # a full disk can still forget, and nobody holds a higher number while this one holds
                self.path.unlink()

    def _beat(self) -> None:
        while not self._over.wait(self.lease / BEATS):
            try:
                write_json(self.path, {**self.owner, "progress": self.progress})
            except OSError:  # a full disk can still hold a time
                with suppress(OSError):
                    os.utime(self.path)


@contextmanager
def hold(folder: Path, lease: float = LEASE, mark: int = 0) -> Iterator[Hold]:
    """Claim the run of `folder` for this process. `mark` stands for the run's progress so far.

    Raises AlreadyRunning if a living worker holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = newest(folder)
    taken = AlreadyRunning(f"{folder.name} is being run by another process.")
    if before and before.is_alive(lambda: _file_clock(folder)):
        raise taken
    try:
        claim = Hold(folder, before.number + 1 if before else 1, lease, mark)
    except FileExistsError:
        raise taken from None
    try:
        yield claim
    finally:
        claim.release()


def newest(folder: Path) -> Claim | None:
    """The claim that holds, None where there is none."""
    numbers = _numbers(folder)
    return _read(folder, numbers[-1]) if numbers else None


def clock(folder: Path) -> Callable[[], float]:
    """Tells the time of the first call by the clock that dates the claims; this machine's if `folder` is read-only."""

    @cache
    def now() -> float:
        try:
            return _file_clock(folder)
        except OSError:
            return time.time()

    return now


def _path(folder: Path, number: int) -> Path:
    return folder / f"claim.{number:04d}.json"


def _numbers(folder: Path) -> list[int]:
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return []
    return sorted(int(found[1]) for name in names if (found := re.fullmatch(r"claim\.(\d{4,9})\.json", name)))


def _read(folder: Path, number: int) -> Claim | None:
    try:
        data = read_bytes(_path(folder, number))  # opening asks a network file system for the present state
        heard = _path(folder, number).stat().st_mtime
    except OSError:
        return None
    except DamagedFile:
        data, heard = b"", 0.0
    try:
        owner = json.loads(data)
    except (ValueError, RecursionError):
        owner = None
    return Claim(number, heard, owner if isinstance(owner, dict) else {})


def _file_clock(folder: Path) -> float:
    """The time by the clock that dates the claims: those of two machines may differ."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.") as file:
        return os.fstat(file.fileno()).st_mtime


def _machine() -> str | None:
    """Where process numbers mean the same as here; None where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def _process_start(pid: Any) -> int | None:
    """When a living process of this machine started, in clock ticks since boot; None when there is no such process."""
    if type(pid) is not int:
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19]) if fields[0] not in "ZX" else None
