"""What run folders hold: config, stream, result, progress, confusion.

Nothing here trusts what it reads: a damaged file is reported by name and the rest is read.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeGuard

import numpy as np
import numpy.typing as npt

from benchmark.errors import UserError
from benchmark.storage import leases
from benchmark.storage.files import DamagedFile, read_bytes, read_json, read_jsonl
from benchmark.storage.folder import RunFolder, State
from benchmark.storage.text import printable

IntArray = npt.NDArray[np.int64]
MAX_CLASSES = 20_000


class Unreadable(ValueError):
    """Why a run has no per-class data."""


STYLES = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "interrupted": "yellow",
    "pending": "dim",
    "damaged": "magenta",
}  # in the order in which they are counted


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


def stream_of(record: RunRecord) -> dict[str, Any]:
    """What the page needs of stream.json: sizes, images, names. Raises Unreadable when it does not fit together."""
    sizes: Any = record.stream.get("sizes")
    images: Any = record.stream.get("profile_counts")
    names = record.stream.get("class_names")
    if not _naturals(sizes) or not _naturals(images) or len(images) != sum(sizes) or len(images) > MAX_CLASSES:
        raise Unreadable("stream.json lists no classes")
    named = isinstance(names, list) and len(names) == len(images) and all(isinstance(name, str) for name in names)
    return {"sizes": sizes, "images": images, "names": names if named else []}


def last_confusion(record: RunRecord, num_classes: int) -> dict[str, IntArray]:
    """Classifier -> (C, C) counts after the last experience. Raises Unreadable."""
    folder = RunFolder(record.path).confusion
    files = sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))
    if not files:
        raise Unreadable("no confusion matrix is stored")
    try:
        found = _read_matrices(files[-1], num_classes)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise Unreadable(f"confusion/{files[-1].name} is damaged: {error}") from error
    if not found:
        raise Unreadable(f"confusion/{files[-1].name} does not cover the {num_classes} classes of the stream")
    return found


def last_recalls(record: RunRecord, num_classes: int) -> dict[str, list[int | None]]:
    """Classifier -> recall per class in thousandths at the end, from metrics.jsonl. Raises Unreadable."""
    try:
        records = read_jsonl(RunFolder(record.path).metrics)
    except (OSError, DamagedFile) as error:
        raise Unreadable("metrics.jsonl is damaged") from error
    classifiers = records[-1].get("classifiers") if records else None
    found = {}
    for name, counts in classifiers.items() if isinstance(classifiers, dict) else ():
        correct = counts.get("correct") if isinstance(counts, dict) else None
        total = counts.get("total") if isinstance(counts, dict) else None
        if _naturals(correct) and _naturals(total) and len(correct) == len(total) == num_classes:
            found[name] = _thousandths([min(pair) for pair in zip(correct, total, strict=True)], total)
    if not found:
        raise Unreadable("metrics.jsonl holds no per-class counts of the last experience")
    return found


def recalls_of(confusion: IntArray) -> list[int | None]:
    """Recall per class in thousandths, None without test images."""
    return _thousandths(confusion.diagonal().tolist(), confusion.sum(axis=1).tolist())


def _read_matrices(path: Path, num_classes: int) -> dict[str, IntArray]:
    """The (C, C) matrices of an .npz; the header is checked first, so that no claim of a file allocates memory."""
    found = {}
    with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is no .npz archive")
        members: Any = archive.zip
        for name in archive.files:
            with members.open(f"{name}.npy") as file:
                shape, dtype = _header(file)
            if shape == (num_classes, num_classes) and dtype.kind in "iu":
                matrix = archive[name].astype(np.int64)
                if (matrix < 0).any() or (matrix > 10**9).any():
                    raise ValueError(f"{name} holds counts that cannot be")
                found[name] = matrix
    return found


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _thousandths(correct: Sequence[int], total: Sequence[int]) -> list[int | None]:
    return [math.floor(1000 * c / n + 0.5) if n else None for c, n in zip(correct, total, strict=True)]


def _naturals(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and len(values) > 0 and all(type(v) is int and 0 <= v < 10**9 for v in values)


def progress(record: RunRecord) -> str:
    """Experiences recorded of all: "3/10"; a run that has not started has none."""
    total = record.stream.get("tasks", "?")
    if record.state == "done":
        return f"{printable(total)}/{printable(total)}"
    try:
        recorded = len(read_jsonl(RunFolder(record.path).metrics))
    except (OSError, DamagedFile):
        return f"?/{printable(total)}"
    return f"{recorded}/{printable(total)}" if recorded or record.stream else ""


def load_runs(directory: str | Path, known: Mapping[str, RunRecord] | None = None) -> list[RunRecord]:
    """Read every run under DIR/runs, sorted by name. Hidden folders are skipped; nothing in a folder makes this raise.

    Those of `known` (by name) are taken from there. A folder without a readable config.json is "damaged". Raises
    UserError only when DIR or DIR/runs does not exist.
    """
    runs = Path(directory) / "runs"
    if not runs.is_dir():
        if not Path(directory).is_dir():
            raise UserError(f"There is no results folder {directory}.")
        raise UserError(f"{directory} holds no results: it has no folder runs/.")
    with os.scandir(runs) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    known, now = known or {}, leases.clock(runs)
    return [known.get(name) or _load_run(RunFolder(runs / name), now) for name in names]


def _load_run(folder: RunFolder, now: Callable[[], float]) -> RunRecord:
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
    state: State | Literal["damaged"] = "done" if result is not None else folder.unfinished_state(now)
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
