"""Per-class recalls and confusion matrices of finished runs, read without trusting a byte, packed for the page.

A run's confusion/NN.npz holds one matrix of counts per classifier, true class by predicted class, in arrival order. The
matrices of one cell (method and setting) are added up in two orders, arrival and training images, because the class at
one place differs between seeds. Each is at most `SIDE` blocks wide: a 1000-class matrix shows 10 classes in a block.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeGuard

import numpy as np
import numpy.typing as npt

from benchmark.store import DamagedFile, RunFolder, RunRecord, read_bytes, read_jsonl

IntArray = npt.NDArray[np.int64]

SIDE = 100  # blocks of a confusion matrix on the page
MAX_CLASSES = 20_000
SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
LARGEST_SYMBOL, LONGEST_RUN = (
    40,
    22,
)  # SYMBOLS: 40 counts, 22 runs of zeros, a mark for larger counts, one for longer runs


class Unreadable(ValueError):
    """Why a run has no per-class data."""


@dataclass
class ConfusionSum:
    """The summed confusion matrices of one cell, pooled to blocks of `block` consecutive classes."""

    block: int
    runs: int = 0
    by_arrival: IntArray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    by_images: IntArray = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    @classmethod
    def of(cls, num_classes: int) -> ConfusionSum:
        block = -(-num_classes // SIDE)
        zeros = np.zeros((-(-num_classes // block),) * 2, np.int64)
        return cls(block, 0, zeros, zeros.copy())

    def add(self, confusion: IntArray, images: Sequence[int]) -> None:
        """Add one run. `images`: training images per class in arrival order; most images come first in `by_images`."""
        order = np.argsort(-np.asarray(images, np.int64), kind="stable")
        self.by_arrival += _pool(confusion, self.block)
        self.by_images += _pool(confusion[np.ix_(order, order)], self.block)
        self.runs += 1

    def halved(self) -> ConfusionSum:
        """The same sums in blocks of twice the width."""
        return ConfusionSum(2 * self.block, self.runs, _pool(self.by_arrival, 2), _pool(self.by_images, 2))


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


def pack(matrix: IntArray) -> str:
    """Counts, row by row, as text: a symbol per count up to 40 or per run of zeros, three more for larger ones."""
    flat = matrix.ravel()
    starts = np.flatnonzero(np.concatenate([[True], (flat[1:] != 0) | (flat[:-1] != 0)]))
    lengths = np.diff(np.append(starts, len(flat)))
    out: list[str] = []
    for value, length in zip(flat[starts].tolist(), lengths.tolist(), strict=True):
        if value > LARGEST_SYMBOL:
            out.append(SYMBOLS[62] + _digits(min(value, 64**4 - 1), 4))
        elif value:
            out.append(SYMBOLS[value - 1])
        elif length <= LONGEST_RUN:
            out.append(SYMBOLS[LARGEST_SYMBOL + length - 1])
        else:
            out.append(SYMBOLS[63] + _digits(length, 4))
    return "".join(out)


def pack_all(sums: Mapping[Any, ConfusionSum], budget: int) -> dict[Any, dict[str, Any]]:
    """Every confusion sum as text, in blocks wide enough that all of them fit into `budget` characters."""
    while True:
        packed: dict[Any, dict[str, Any]] = {
            key: {
                "block": total.block,
                "side": len(total.by_arrival),
                "runs": total.runs,
                "arrival": pack(total.by_arrival),
                "images": pack(total.by_images),
            }
            for key, total in sums.items()
        }
        size = sum(len(entry["arrival"]) + len(entry["images"]) for entry in packed.values())
        if size <= budget or all(len(total.by_arrival) <= 2 for total in sums.values()):
            return packed
        sums = {key: total.halved() if len(total.by_arrival) > 2 else total for key, total in sums.items()}


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


def _pool(matrix: IntArray, block: int) -> IntArray:
    """Sums over blocks of consecutive rows and columns; the last block may be smaller."""
    starts = np.arange(0, len(matrix), block)
    return np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1)


def _digits(value: int, count: int) -> str:
    return "".join(SYMBOLS[value // 64**place % 64] for place in reversed(range(count)))


def _thousandths(correct: Sequence[int], total: Sequence[int]) -> list[int | None]:
    return [math.floor(1000 * c / n + 0.5) if n else None for c, n in zip(correct, total, strict=True)]


def _naturals(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and len(values) > 0 and all(type(v) is int and 0 <= v < 10**9 for v in values)
