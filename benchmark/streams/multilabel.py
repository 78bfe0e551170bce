"""Multi-label images -> a class-incremental stream with missing labels.

Every image comes with a row of annotations, one column per class in order of arrival: 1 shown, 0 not shown, -1 not
annotated. In training only the columns of the experience that brought the image are annotated; whatever else it shows
is missing, as in the protocols of multi-label class-incremental learning:

- ``overlapping`` (protocol A: KRT, Dong et al., ICCV 2023): an image is in every experience that has one of its labels;
- ``disjoint`` (protocol B): it is in one of them, drawn at random by `subset_seed` (the source says only that the
  experiences share no image: how one is chosen is our interpretation).

Test and validation images are annotated completely. They stand in the experience that brings their first label, so that
the first t + 1 experiences together hold every image that shows a class seen by then, and each once (KRT's loader
evaluates on the same set; images without any seen class would only be further negatives).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute

from benchmark.errors import UserError, did_you_mean
from benchmark.streams.info import StreamInfo, choice_hash
from benchmark.streams.scenario import LongTailedBenchmark, make_stream
from benchmark.streams.source import Source
from benchmark.streams.subset import choose_rows, hold_out, rows_by_class
from strategies.training.labels import UNANNOTATED

ASSIGNMENTS = ("overlapping", "disjoint")


def multilabel_benchmark(
    data: Source,
    arrival: Sequence[int],
    sizes: Sequence[int],
    *,
    protocol: str,
    assignment: str = "overlapping",
    holdout: float = 0.0,
    subset: str = "random",
    subset_seed: int = 0,
) -> LongTailedBenchmark:
    """The stream of a source whose labels are multi-hot, (N, K') and (M, K') of 0 and 1.

    Parameters
    ----------
    arrival, sizes : labels in order of arrival, classes per experience; images that show none of them are left out.
    assignment : see above.
    holdout, subset, subset_seed : share of the images of each class moved to ``valid_stream``, and which; an image
        counts for the rarest class it shows, and no class loses all its images.

    Raises
    ------
    UserError (a ValueError)
        Naming the class that is left without a training or test image.
    """
    if assignment not in ASSIGNMENTS:
        raise UserError(f'assignment cannot be "{assignment}".{did_you_mean(str(assignment), ASSIGNMENTS)}')
    truth, tests = data.train_labels[:, arrival], data.test_labels[:, arrival]
    shown, shown_tests = _sessions(truth, sizes), _sessions(tests, sizes)
    members = shown if assignment == "overlapping" else _one_each(shown, subset_seed)
    held = _held_out(truth, holdout, subset, subset_seed)
    train = _rows(members & ~held[:, None])
    valid = _rows(_first(shown) & held[:, None])
    test = _rows(_first(shown_tests))

    session = np.repeat(np.arange(len(sizes)), sizes)
    counted = members[:, session] & (truth == 1)  # (N, K): positives that are annotated in training
    names = [data.class_names[label] for label in arrival]
    info = StreamInfo(
        dataset=data.name,
        protocol=protocol,
        tasks=len(sizes),
        sizes=tuple(sizes),
        class_order=tuple(arrival),
        class_names=tuple(names),
        profile_counts=_counts(counted),
        train_counts=_counts(counted[~held]),
        valid_counts=_counts(truth[held]),
        test_counts=_counts(tests),
        sha256=choice_hash(train, valid, test),
        train_images=tuple(map(len, train)),
    )
    for what, counts in (("training", info.train_counts), ("test", info.test_counts)):
        if 0 in counts:
            label = arrival[counts.index(0)]
            raise UserError(
                f"Class {label} ({data.class_names[label]}) of {data.name} has no {what} image in its experience "
                f"(assignment {assignment}, holdout {holdout})."
            )

    columns = [list(group) for group in info.columns()]
    splits = {
        "train": [_dataset(data, rows, truth, group, "train") for rows, group in zip(train, columns, strict=True)],
        "test": [_dataset(data, rows, tests, range(len(arrival)), "eval", test=True) for rows in test],
    }
    if holdout:
        splits["valid"] = [_dataset(data, rows, truth, range(len(arrival)), "eval") for rows in valid]
    streams = [make_stream(name, datasets, columns) for name, datasets in splits.items()]
    return LongTailedBenchmark(streams, info, range(len(arrival)), data.images)


def _sessions(truth: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Whether an image shows a class of an experience, bool (N, T)."""
    begins = np.cumsum([0, *sizes[:-1]])
    return np.add.reduceat(truth, begins, axis=1, dtype=np.int64) > 0


def _first(shown: np.ndarray) -> np.ndarray:
    """`shown` with the first True of each row alone."""
    return shown & (shown.cumsum(axis=1) == 1)


def _one_each(shown: np.ndarray, seed: int) -> np.ndarray:
    """`shown` with one True of each row alone, drawn at random."""
    ranks = shown.cumsum(axis=1)
    drawn = (np.random.default_rng(seed).random(len(shown)) * ranks[:, -1]).astype(np.int64) + 1
    return shown & (ranks == drawn[:, None])


def _held_out(truth: np.ndarray, fraction: float, subset: str, seed: int) -> np.ndarray:
    """The images held out, bool (N,): of each group that shares its rarest class, a `fraction`."""
    frequency = truth.sum(axis=0)
    rarest = np.where(truth.any(axis=1), np.where(truth == 1, frequency, len(truth) + 1).argmin(axis=1), -1)
    groups = rows_by_class(rarest, range(truth.shape[1]))
    chosen = choose_rows(groups, {column: len(rows) for column, rows in groups.items()}, subset, seed)
    held = np.zeros(len(truth), dtype=bool)
    for rows in hold_out(chosen, fraction)[1].values():
        held[rows] = True
    return held


def _rows(members: np.ndarray) -> list[list[int]]:
    """The rows of each experience, in file order."""
    return [np.flatnonzero(column).tolist() for column in members.T]


def _counts(positives: np.ndarray) -> tuple[int, ...]:
    return tuple(int(count) for count in positives.sum(axis=0))


def _dataset(
    data: Source, rows: list[int], truth: np.ndarray, annotated: Sequence[int], group: str, test: bool = False
) -> AvalancheDataset:
    """The images `rows`, annotated in the columns `annotated` only.

    Attribute `truth` holds their complete labels: for bounds (joint training, oracle memory) and for what is measured.
    """
    annotations = np.full((len(rows), truth.shape[1]), UNANNOTATED, dtype=np.int8)
    annotations[:, annotated] = truth[np.ix_(rows, annotated)]
    dataset = data.dataset(rows, annotations, test=test, group=group)
    return dataset.update_data_attribute("truth", DataAttribute(truth[rows].astype(np.int8), "truth"))
