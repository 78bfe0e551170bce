"""Per-class recalls and confusion matrices of finished runs, read without trusting a byte, packed for the page.

A run's confusion/NN.npz holds one matrix of counts per classifier, true class by predicted class, in arrival order. The
matrices of one cell (method and setting) are added up in two orders, arrival and training images, because the class at
one place differs between seeds. Each is at most `SIDE` blocks wide: a 1000-class matrix shows 10 classes in a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmark.storage.records import IntArray

SIDE = 100  # blocks of a confusion matrix on the page
SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
LARGEST_SYMBOL, LONGEST_RUN = (
    40,
    22,
)  # SYMBOLS: 40 counts, 22 runs of zeros, a mark for larger counts, one for longer runs


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


def _pool(matrix: IntArray, block: int) -> IntArray:
    """Sums over blocks of consecutive rows and columns; the last block may be smaller."""
    starts = np.arange(0, len(matrix), block)
    return np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1)


def _digits(value: int, count: int) -> str:
    return "".join(SYMBOLS[value // 64**place % 64] for place in reversed(range(count)))
