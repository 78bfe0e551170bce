"""A run folder: its paths, the state that its files tell, and who may write in it.

A result counts only when all of it can be read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import UserError
from benchmark.storage import leases
from benchmark.storage.files import DamagedFile, append_text, json_bytes, mapping, read_json, read_jsonl, write_json
from benchmark.storage.leases import ClaimLost

FORMAT = 1  # of result.json
State = Literal["done", "running", "failed", "interrupted", "pending"]


class _Part:
    """A path inside a run folder, made when it is asked for: a sweep may have ten thousand folders."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: RunFolder, owner: type) -> Path:
        return folder.path / self.name


class RunFolder:
    """The paths of one run and the state that its files tell."""

    config = _Part("config.json")
    environment = _Part("environment.json")
    stream = _Part("stream.json")
    metrics = _Part("metrics.jsonl")
    diagnostics = _Part("diagnostics.jsonl")
    packed_diagnostics = _Part("diagnostics.jsonl.gz")  # of a committed run
    cost = _Part("cost.jsonl")
    confusion = _Part("confusion")
    weights = _Part("weights")
    checkpoints = _Part("checkpoints")
    log = _Part("log.txt")
    failure = _Part("failure.json")
    result = _Part("result.json")

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.name
        self.held: leases.Hold | None = None  # while this process carries the run out
        self._concluded = False  # by this object: a result that is there is its own

    def confusion_of(self, experience: int) -> Path:
        """confusion/NN.npz of one experience."""
        return self.confusion / f"{experience:02d}.npz"

    @property
    def state(self) -> State:
        """done: valid result.json; running: a living worker claims it; failed: failure.json; interrupted: progress."""
        if self.read_result() is not None:
            return "done"
        return self.unfinished_state()

    def unfinished_state(self, now: Callable[[], float] | None = None) -> State:
        """The state of a run known to have no valid result; `now` is a `claims.clock` that many runs share."""
        claim = leases.newest(self.path)
        if claim and claim.is_alive(now or leases.clock(self.path)):
            return "running"
        if self.has_failed:
            return "failed"
        if self.metrics.exists() or any(self.checkpoints.glob("[!.]*")):
            return "interrupted"
        return "pending"

    @property
    def has_failed(self) -> bool:
        """Whether its last attempt failed and no other is to follow."""
        return self.failure.exists() and self.next_attempt is None

    @property
    def next_attempt(self) -> Literal["any", "alone"] | None:
        """How a run that failed is to be done again, None when it is not: "alone" means by itself on its device."""
        again = self.read_failure().get("again")
        return again if again in ("any", "alone") else None

    def read_failure(self) -> dict[str, Any]:
        """The content of failure.json, {} when it is missing or damaged."""
        try:
            failure = read_json(self.failure)
        except (OSError, DamagedFile):
            return {}
        return mapping(failure)

    def record_failure(
        self, kind: str, exception: str, traceback: str = "", again: Literal["any", "alone"] | None = None
    ) -> None:
        """Write failure.json with the number of this attempt; with `again` another attempt follows."""
        before = self.read_failure().get("attempt")
        attempt = before + 1 if isinstance(before, int) else 1
        failure = {"kind": kind, "exception": exception, "traceback": traceback, "attempt": attempt, "again": again}
        write_json(self.failure, failure)

    def forgive(self) -> None:
        """Have a failed run done again."""
        self._refuse_links()
        write_json(self.failure, {**self.read_failure(), "again": "any"})

    def read_result(self) -> dict[str, Any] | None:
        """The content of result.json but its checksum, or None when it is missing, damaged or incomplete.

        Raises UserError when a newer version of imcil wrote it: to treat it as missing would train the run again.
        """
        try:
            result = read_json(self.result)
        except (OSError, DamagedFile):
            return None
        if not isinstance(result, dict) or result.get("complete") is not True:
            return None
        version = result.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise UserError(f"{self.result} has format {version}; this imcil reads up to {FORMAT}, please update it.")
        try:
            if "sha256" in result and result.pop("sha256") != _checksum(result):  # older results have none
                return None
        except RecursionError:
            return None
        return result if version == FORMAT and isinstance(result.get("classifiers"), dict) else None

    @property
    def has_result(self) -> bool:
        """Whether `read_result` finds one, or one that only a newer imcil can read."""
        try:
            return self.read_result() is not None
        except UserError:
            return True

    def write_result(self, content: Mapping[str, Any]) -> None:
        """Write result.json, with a checksum of the rest: the run is done. Raises ClaimLost."""
        self.confirm()
        self._concluded = True
        plain = json.loads(json_bytes(content))
        write_json(self.result, {**plain, "sha256": _checksum(plain)})

    def read_diagnostics(self) -> list[dict[str, Any]]:
        """One record per experience, [] when none were recorded. Raises DamagedFile."""
        return read_jsonl(self.diagnostics if self.diagnostics.exists() else self.packed_diagnostics)

    @contextmanager
    def claim(self, lease: float = leases.LEASE) -> Iterator[leases.Hold]:
        """Hold the run for this process; see `storage.leases`. Raises AlreadyRunning if a living worker holds it."""
        self._refuse_links()
        with leases.hold(self.path, lease, self._mark()) as held:
            for leftover in self.path.rglob(".*.tmp"):  # of a killed write
                if not leftover.name.startswith((".claim.", ".failure.")):  # not only the holder writes these
                    leftover.unlink(missing_ok=True)
            self.held, self._concluded = held, False
            try:
                yield held
            finally:
                self.held = None
                held.done = self.has_result

    def tidy(self) -> None:
        """Remove what a finished run needs no more; a worker that ended just before it did leaves it to others."""
        with suppress(OSError):
            self._refuse_links()
            self.failure.unlink(missing_ok=True)
            if self.checkpoints.is_dir():
                for path in self.checkpoints.iterdir():
                    path.unlink(missing_ok=True)
                self.checkpoints.rmdir()

    def note(self, text: str) -> None:
        """Add a line to log.txt, with the time; a disk that cannot hold it stops nothing."""
        with suppress(OSError):
            append_text(self.log, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {' '.join(text.split())}\n")

    @contextmanager
    def noting_warnings(self) -> Iterator[None]:
        """Inside, warnings go to log.txt as well."""
        with warnings.catch_warnings():
            show = warnings.showwarning

            def note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
                self.note(f"{category.__name__}: {message}")
                show(message, category, *where, **more)

            warnings.showwarning = note
            yield

    def confirm(self) -> None:
        """Raise ClaimLost if this process claimed the run and another worker took it over, or finished it, since.

        One that finished it has removed the claims.
        """
        if self.held:
            self.held.confirm()
            if not self._concluded and self.has_result:
                raise ClaimLost(f"{self.name} was finished by another worker: this one seemed dead to it.")

    def _refuse_links(self) -> None:
        """Raise OSError for a symbolic link: files behind a stranger's would be replaced, removed or written on."""
        parts = list(self.path.iterdir()) if self.path.is_dir() and not self.path.is_symlink() else []
        for path in (self.path, *parts):
            if path.is_symlink():
                raise OSError(errno.ELOOP, "a run is not written through a symbolic link", str(path))

    def _mark(self) -> int:
        """A number that changes when the run moves on."""
        times = [0]
        for path in (self.metrics, *self.checkpoints.glob("[!.]*")):
            with suppress(OSError):
                times.append(path.stat().st_mtime_ns)
        return max(times)


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of what was read from JSON, whatever the order of its keys and its white space."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
