"""Which images a class keeps for training, and which of them are held out for validation. Rows are row numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.errors import UserError, did_you_mean

SUBSETS = ("random", "first")
COMPATS = ("lt-cil",)

Rows = dict[int, list[int]]  # label -> row numbers


def rows_by_class(labels: np.ndarray, classes: Sequence[int]) -> Rows:
    """The rows of each class, in file order."""
    by_label = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_label], classes, side="left")
    ends = np.searchsorted(labels[by_label], classes, side="right")
    return {label: by_label[start:end].tolist() for label, start, end in zip(classes, starts, ends, strict=True)}


def choose_rows(
    available: Mapping[int, Sequence[int]],
    counts: Mapping[int, int],
    subset: str = "random",
    seed: int = 0,
    compat: str | None = None,
) -> Rows:
    """The rows that each class of `counts` keeps, in the order they were drawn.

    ``first`` keeps the first rows in file order. ``random`` draws them with a generator of the class's own, seeded by
    (seed, label): a smaller count is a prefix of a larger one, whatever the other classes do. ``compat="lt-cil"`` draws
    as the LT-CIL code does: one legacy generator shuffles class after class, in label order (the official seed is 0).
    """
    if subset not in SUBSETS:
        raise UserError(f'subset cannot be "{subset}".{did_you_mean(str(subset), SUBSETS)}')
    check_compat(compat)
    if subset == "first":
        return {label: list(available[label][:count]) for label, count in counts.items()}
    if compat == "lt-cil":
        state = np.random.RandomState(seed)
        drawn = {}
        for label in sorted(available):
            drawn[label] = np.array(available[label], dtype=np.int64)
            state.shuffle(drawn[label])
        return {label: drawn[label][:count].tolist() for label, count in counts.items()}
    return {
        label: np.random.default_rng([seed, label]).permutation(available[label])[:count].tolist()
        for label, count in counts.items()
    }


def hold_out(chosen: Rows, fraction: float) -> tuple[Rows, Rows]:
    """Split each class's rows into (train, validation): the last ``round(fraction * n)`` drawn, never the only one."""
    _check_fraction(fraction)
    kept = {label: len(rows) - min(round(fraction * len(rows)), len(rows) - 1) for label, rows in chosen.items()}
    train = {label: rows[: kept[label]] for label, rows in chosen.items()}
    valid = {label: rows[kept[label] :] for label, rows in chosen.items()}
    return train, valid


def hold_out_lt_cil(
    chosen: Rows, order: Sequence[int], sizes: Sequence[int], fraction: float, seed: int = 0
) -> tuple[Rows, Rows]:
    """The hold-out of the LT-CIL and GR code, with its slip: (train, validation). Their `fraction` is 0.1.

    Classes are visited in `order` of arrival, task after task, and lose ``np.round(fraction * n)`` (half to even)
    random rows. Where that is 0, the code takes item 0 of what is left of the task's list instead, whatever its class;
    the list is sorted by original label.
    """
    _check_fraction(fraction)
    if fraction == 0:
        return chosen, {label: [] for label in chosen}
    generator = random.Random(seed)
    train: Rows = {label: [] for label in order}
    valid: Rows = {label: [] for label in order}
    begin = 0
    for size in sizes:
        arriving = list(order[begin : begin + size])
        begin += size
        items = [(label, row) for label in sorted(arriving) for row in chosen[label]]
        for label in arriving:
            places = [place for place, item in enumerate(items) if item[0] == label]
            moved = generator.sample(places, int(np.round(len(places) * fraction))) or [0]
            for place in sorted(moved, reverse=True):
                owner, row = items.pop(place)
                valid[owner].append(row)
        for label, row in items:
            train[label].append(row)
    return train, valid


def check_compat(compat: str | None) -> None:
    """UserError unless `compat` is None or a known code base."""
    if compat is not None and compat not in COMPATS:
        raise UserError(f'compat cannot be "{compat}".{did_you_mean(str(compat), COMPATS)}')


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise UserError(f"holdout, the share of each class held out for validation, must be in [0, 1), got {fraction}.")
