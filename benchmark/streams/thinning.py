"""An existing Avalanche class-incremental benchmark, with its training stream thinned to a long tail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.streams.info import StreamInfo, choice_hash
from benchmark.streams.ranks import counts_by_class
from benchmark.streams.scenario import LongTailedBenchmark, make_stream
from benchmark.streams.subset import Rows, choose_rows, hold_out, rows_by_class


def is_avalanche_benchmark(source: Any) -> bool:
    """Whether `source` has the two streams every Avalanche benchmark has."""
    return hasattr(source, "train_stream") and hasattr(source, "test_stream")


def thin_benchmark(
    source: Any,
    profile: str | Sequence[int],
    rho: float,
    max_count: int | None,
    ranks: str,
    subset: str,
    holdout: float,
    subset_seed: int,
    rank_seed: int,
) -> LongTailedBenchmark:
    """The benchmark with fewer training images; class ids, experiences, transforms and other streams stay as they are.

    Within an experience classes count as arriving by class id. Raises UserError (a ValueError) where the benchmark is
    not class-incremental (a class comes twice), or already has the validation stream that a hold-out would add.
    """
    if holdout and hasattr(source, "valid_stream"):
        raise UserError("This Avalanche benchmark has a valid_stream already: leave out holdout.")
    source_data = [experience.dataset for experience in source.train_stream]
    labels = [np.asarray(list(data.targets), dtype=np.int64) for data in source_data]
    groups = [[int(label) for label in np.unique(array)] for array in labels]
    arrival = [label for group in groups for label in group]
    for label, times in Counter(arrival).items():
        if times > 1:
            raise UserError(f"Not a class-incremental benchmark: class {label} comes in {times} training experiences.")
    if not arrival or not all(groups):
        raise UserError("Every training experience of an Avalanche benchmark needs images.")

    available = [rows_by_class(array, group) for array, group in zip(labels, groups, strict=True)]
    own = {label: len(rows) for by_class in available for label, rows in by_class.items()}
    counts = counts_by_class(own, [str(label) for label in own], profile, rho, max_count, ranks, rank_seed)
    train: list[Rows] = []
    valid: list[Rows] = []
    for by_class in available:
        chosen = choose_rows(by_class, {label: counts[label] for label in by_class}, subset, subset_seed)
        kept, held = hold_out(chosen, holdout)
        train.append(kept)
        valid.append(held)
    train_rows, valid_rows = _flat(train), _flat(valid)
    tests = Counter(int(label) for experience in source.test_stream for label in experience.dataset.targets)
    info = StreamInfo(
        dataset=type(source).__name__,
        protocol="avalanche",
        tasks=len(groups),
        sizes=tuple(len(group) for group in groups),
        class_order=tuple(arrival),
        class_names=tuple(str(label) for label in arrival),
        profile_counts=tuple(counts.values()),
        train_counts=tuple(len(rows) for by_class in train for rows in by_class.values()),
        valid_counts=tuple(len(rows) for by_class in valid for rows in by_class.values()),
        test_counts=tuple(tests[label] for label in arrival),
        sha256=choice_hash(train_rows, valid_rows),
    )
    thinned = [data.subset(rows) for data, rows in zip(source_data, train_rows, strict=True)]
    streams = [make_stream("train", thinned, groups)]
    streams += [stream for name, stream in source.streams.items() if name != "train"]
    if holdout:
        held_out = [data.subset(rows).eval() for data, rows in zip(source_data, valid_rows, strict=True)]
        streams.append(make_stream("valid", held_out, groups))
    return LongTailedBenchmark(streams, info, arrival, images=None)


def _flat(by_experience: Sequence[Rows]) -> list[list[int]]:
    """The rows of each experience, in the order of its dataset."""
    return [sorted(row for rows in by_class.values() for row in rows) for by_class in by_experience]
