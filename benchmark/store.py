"""Run folders: atomic writes, state derived from the files, tolerant loading.

Every file of a run is written through `write_bytes` (temporary name in the same folder, flush, fsync, replace, fsync of
the folder) or grows by whole, synced lines through `append_jsonl`. Nothing here trusts what it reads: a damaged file is
reported by name, a torn last line is dropped, and a result counts only when all of it can be read.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark.errors import UserError

FORMAT = 1  # of result.json
State = Literal["done", "running", "failed", "interrupted", "pending"]


class DamagedFile(ValueError):
    """A file exists but its content is not what was written; the message names it."""


class AlreadyRunning(RuntimeError):
    """Another process holds the lock of this run."""


# --- files ------------------------------------------------------------------------------------------------------------


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replace `path` with `data`: after a crash at any moment the old or the new content is there, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Atomically write `text` as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Mapping[str, Any] | list[Any]) -> None:
    """Atomically write JSON that depends on the value only: sorted keys, shortest floats, NaN and infinity as null."""
    write_text(path, json.dumps(_plain(value), sort_keys=True, indent=1, allow_nan=False) + "\n")


def append_jsonl(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append one record as a whole line, synced. A torn last line, left by a crash, is cut off first."""
    path = Path(path)
    line = json.dumps(_plain(record), sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    created = not path.exists()
    with path.open("a+b") as file:
        file.seek(0)
        data = file.read()
        whole = _whole_lines(data)
        if len(whole) < len(data):
            file.truncate(len(whole))
        if whole and not whole.endswith(b"\n"):
            line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if created:
        _sync_folder(path.parent)


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises FileNotFoundError, or DamagedFile when it does not parse."""
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged: {error}.") from error


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Read the records of a line file; [] when there is none. A torn last line is dropped.

    Raises DamagedFile when any other line is not a JSON object: records are never dropped silently from the middle.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(_whole_lines(data).splitlines(), start=1):
        record = _parse_object(line)
        if record is None:
            raise DamagedFile(f"{path} is damaged: line {number} is not a JSON object.")
        records.append(record)
    return records


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of `config`; run names carry its first 10 characters.

    The order of keys does not matter, nor does 1 against 1.0 in a float field: whole floats are written as integers.
    """
    canonical = json.dumps(
        _plain(config, whole_floats=True), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _plain(value: Any, whole_floats: bool = False) -> Any:
    """`value` in JSON's own types; numbers that JSON cannot hold become None."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, whole_floats) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, whole_floats) for item in value]
    if isinstance(value, float):
        if not np.isfinite(value):
            return None
        return int(value) if whole_floats and value.is_integer() else value
    return str(value) if isinstance(value, Path) else value


def _parse_object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _whole_lines(data: bytes) -> bytes:
    """`data` without a torn last line; a crash can tear no other, because each append is synced before the next."""
    body = data[:-1] if data.endswith(b"\n") else data
    start = body.rfind(b"\n") + 1
    return data if _parse_object(body[start:]) is not None else data[:start]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


# --- run folders ------------------------------------------------------------------------------------------------------


class RunFolder:
    """The paths of one run and the state that its files tell."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.name
        self.config = self.path / "config.json"
        self.environment = self.path / "environment.json"
        self.stream = self.path / "stream.json"
        self.metrics = self.path / "metrics.jsonl"
        self.diagnostics = self.path / "diagnostics.jsonl"
        self.cost = self.path / "cost.jsonl"
        self.confusion = self.path / "confusion"
        self.checkpoints = self.path / "checkpoints"
        self.log = self.path / "log.txt"
        self.failure = self.path / "failure.json"
        self.result = self.path / "result.json"
        self.lock_file = self.path / "run.lock"

    def confusion_of(self, experience: int) -> Path:
        """confusion/NN.npz of one experience."""
        return self.confusion / f"{experience:02d}.npz"

    @property
    def state(self) -> State:
        """done: valid result.json; running: its lock is held; failed: failure.json; interrupted: it left progress."""
        if self.read_result() is not None:
            return "done"
        return self.unfinished_state()

    def unfinished_state(self) -> State:
        """The state of a run known to have no valid result."""
        if self._is_locked():
            return "running"
        if self.failure.exists():
            return "failed"
        if self.metrics.exists() or any(self.checkpoints.glob("[!.]*")):
            return "interrupted"
        return "pending"

    def read_result(self) -> dict[str, Any] | None:
        """The content of result.json, or None when it is missing, damaged or incomplete.

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
        return result if version == FORMAT and isinstance(result.get("classifiers"), dict) else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the kernel frees it even on SIGKILL. Raises AlreadyRunning if it is taken."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.lock_file.open("a") as file:
            for patience in (0.02, 0.05, 0.1, 0.2, None):  # a reader's look at the state holds the lock for an instant
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if patience is None:
                        raise AlreadyRunning(f"{self.name} is being run by another process.") from None
                    time.sleep(patience)
            for leftover in self.checkpoints.glob(".*.tmp"):  # of a killed write; only the holder writes checkpoints
                leftover.unlink(missing_ok=True)
            yield

    def _is_locked(self) -> bool:
        try:
            with self.lock_file.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no lock file, or a file system without locks
            return False
        return False


@dataclass(frozen=True)
class RunRecord:
    """What one run folder holds; a part that is missing or unreadable is empty, and `problems` says why."""

    name: str
    path: Path
    state: State | Literal["damaged"]
    config: dict[str, Any]
    stream: dict[str, Any]
    environment: dict[str, Any]
    result: dict[str, Any] | None
    failure: dict[str, Any]
    problems: tuple[str, ...] = ()


def load_runs(directory: str | Path) -> list[RunRecord]:
    """Read every run under DIR/runs, sorted by name. Hidden folders are skipped; nothing in a folder makes this raise.

    A folder without a readable config.json is "damaged". Raises UserError only when DIR/runs does not exist.
    """
    runs = Path(directory) / "runs"
    if not runs.is_dir():
        raise UserError(f"{directory} holds no results: it has no folder runs/.")
    folders = sorted(path for path in runs.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [_load_run(RunFolder(path)) for path in folders]


def _load_run(folder: RunFolder) -> RunRecord:
    problems: list[str] = []
    result: dict[str, Any] | None = None
    try:
        result = folder.read_result()
        if result is None and folder.result.exists():
            problems.append("result.json is damaged")
    except UserError as error:
        problems.append(str(error))

    def part(path: Path, required: bool) -> dict[str, Any]:
        try:
            value = read_json(path)
        except FileNotFoundError:
            if required:
                problems.append(f"{path.name} is missing")
            return {}
        except (OSError, DamagedFile):
            value = None
        if not isinstance(value, dict):
            problems.append(f"{path.name} is damaged")
            return {}
        return value

    config = part(folder.config, required=True)
    started = result is not None
    stream, environment = part(folder.stream, required=started), part(folder.environment, required=started)
    failure = {} if result is not None else part(folder.failure, required=False)
    state: State | Literal["damaged"] = "done" if result is not None else folder.unfinished_state()
    return RunRecord(
        name=folder.name,
        path=folder.path,
        state=state if config else "damaged",
        config=config,
        stream=stream,
        environment=environment,
        result=result,
        failure=failure,
        problems=tuple(problems),
    )
