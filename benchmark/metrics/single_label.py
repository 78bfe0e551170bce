"""Confusion counts -> every figure of merit of a single-label run. Pure functions, numpy only.

Notation: a[t, j] is the accuracy on the test images of experience j after training experience t, with the arg-max over
all classes seen so far; j <= t. "Step t" is the moment after experience t. Averages over steps include the base
experience (iCaRL, LUCIR, PODNet, LT-CIL and GR do so; EEIL and IL2M leave it out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Record = Mapping[str, Any]  # {"correct": C_t counts, "total": C_t counts}, classes in arrival order

GROUPS = ("many", "medium", "few")
AVERAGED = ("accuracy_seen", "accuracy_tasks", "accuracy_class_mean")
LAST_ONLY = (
    "forgetting",
    "backward_transfer",
    "many_accuracy",
    "medium_accuracy",
    "few_accuracy",
    "old_accuracy",
    "new_accuracy",
)
CURVES = (*AVERAGED, *LAST_ONLY, "num_seen_classes")
SUMMARY = (*(f"average_{name}" for name in AVERAGED), *(f"last_{name}" for name in AVERAGED), *LAST_ONLY)


def task_mean_accuracy(a: npt.ArrayLike) -> FloatArray:
    """Unweighted mean of a[t, 0..t] per step (T,); an experience without test images (nan) is left out."""
    matrix = _lower(a)
    return _row_means(matrix, np.tri(len(matrix), dtype=bool))


def seen_accuracy(a: npt.ArrayLike, weights: npt.ArrayLike) -> FloatArray:
    """Accuracy over all test images of the seen classes, per step (T,).

    Parameters: `a` (T, T); `weights` (T,), the number of test images per experience.
    Raises ValueError when the lengths differ or a weight is negative.
    """
    matrix = _lower(a)
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != (len(matrix),) or not (w >= 0).all():
        raise ValueError(f"weights must be {len(matrix)} non-negative numbers, one per experience, got {w.tolist()}.")
    weight = np.tri(len(matrix)) * w
    return quotients(np.where(weight > 0, matrix * weight, 0.0).sum(axis=1), weight.sum(axis=1))


def forgetting(a: npt.ArrayLike) -> FloatArray:
    """Forgetting per step (T,), nan at step 0: mean over j < t of max_{l < t} a[l, j] - a[t, j]; may be negative.

    Chaudhry et al. 2018 (Riemannian Walk), eq. 3. Avalanche's metric of that name takes a[j, j] instead of the maximum.
    """
    matrix = _lower(a)
    best = np.full_like(matrix, np.nan)
    best[1:] = np.fmax.accumulate(matrix, axis=0)[:-1]  # fmax skips the nan above the diagonal
    return _row_means(best - matrix, np.tri(len(matrix), k=-1, dtype=bool))


def backward_transfer(a: npt.ArrayLike) -> FloatArray:
    """Backward transfer per step (T,), nan at step 0: mean over j < t of a[t, j] - a[j, j] (GEM, 2017)."""
    matrix = _lower(a)
    return _row_means(matrix - np.diagonal(matrix), np.tri(len(matrix), k=-1, dtype=bool))


def accuracy_matrix(records: Sequence[Record], sizes: Sequence[int]) -> FloatArray:
    """The (T, T) matrix a; nan above the diagonal and where an experience has no test images.

    Parameters: `records`, one per finished experience; `sizes`, classes per experience (may hold more than T entries).
    Raises ValueError when the record of step t does not hold sizes[0] + … + sizes[t] classes.
    """
    counts = _counts(records, sizes)
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    matrix = np.full((len(counts), len(counts)), np.nan)
    for t, (correct, total) in enumerate(counts):
        matrix[t, : t + 1] = quotients(
            np.add.reduceat(correct, starts[: t + 1]), np.add.reduceat(total, starts[: t + 1])
        )
    return matrix


def pooled_accuracy(records: Sequence[Record], sizes: Sequence[int]) -> FloatArray:
    """Correct over all test images of the seen classes, per step (T,): "seen" accuracy straight from the counts."""
    return np.array([_pooled(correct, total) for correct, total in _counts(records, sizes)])


def class_mean_accuracy(records: Sequence[Record], sizes: Sequence[int]) -> FloatArray:
    """Mean of the per-class recalls over the seen classes, per step (T,); classes without test images are left out."""
    return np.array([mean_of_defined(quotients(correct, total)) for correct, total in _counts(records, sizes)])


def group_accuracies(
    records: Sequence[Record], sizes: Sequence[int], profile_counts: Sequence[int], groups: Sequence[int] = (20, 100)
) -> dict[str, FloatArray]:
    """Mean per-class recall of the seen many-, medium- and few-shot classes: {"many": (T,), "medium": …, "few": …}.

    Many > groups[1], medium groups[0]..groups[1], few < groups[0] training images, by `profile_counts`: the counts in
    arrival order before any hold-out. A group without a seen class is nan.
    """
    member = group_members(sizes, profile_counts, groups)
    recalls = [quotients(correct, total) for correct, total in _counts(records, sizes)]
    return {name: np.array([mean_of_defined(r[mask[: len(r)]]) for r in recalls]) for name, mask in member.items()}


def group_forgetting(
    records: Sequence[Record], sizes: Sequence[int], profile_counts: Sequence[int], groups: Sequence[int] = (20, 100)
) -> dict[str, FloatArray]:
    """Forgetting of the many-, medium- and few-shot classes, per step (T,): best earlier minus current recall.

    Averaged over the classes of earlier experiences; nan at step 0 and where a group has no such class. Groups and
    errors as for `group_accuracies`.
    """
    member = group_members(sizes, profile_counts, groups)
    forgotten: list[FloatArray] = []
    best = np.empty(0)
    for correct, total in _counts(records, sizes):
        recall = quotients(correct, total)
        forgotten.append(best - recall[: len(best)])
        best = np.concatenate([np.fmax(best, recall[: len(best)]), recall[len(best) :]])
    return {name: np.array([mean_of_defined(f[mask[: len(f)]]) for f in forgotten]) for name, mask in member.items()}


def old_new_accuracy(records: Sequence[Record], sizes: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Pooled accuracy on the classes of earlier experiences and of the newest one, per step; both nan at step 0."""
    old, new = np.full(len(records), np.nan), np.full(len(records), np.nan)
    for t, (correct, total) in enumerate(_counts(records, sizes)):
        if t > 0:
            num_old = len(correct) - sizes[t]
            old[t] = _pooled(correct[:num_old], total[:num_old])
            new[t] = _pooled(correct[num_old:], total[num_old:])
    return old, new


def all_metrics(
    records: Sequence[Record], stream_info: Mapping[str, Any], groups: Sequence[int] = (20, 100)
) -> dict[str, dict[str, Any]]:
    """Every metric of one classifier of one run: {"summary": {name: float}, "curves": {name: one value per step}}.

    Parameters: `records`, one {"correct", "total"} per finished experience; `stream_info`, the content of stream.json
    (`sizes` and `profile_counts` are read); `groups`, the thresholds few < groups[0] <= medium <= groups[1] < many.
    Names are those of `SUMMARY` and `CURVES`; accuracies are fractions, an undefined value is nan.
    Raises ValueError when `records` is empty or does not fit the stream.
    """
    if not records:
        raise ValueError("No finished experience: metrics need at least one record.")
    sizes = [int(size) for size in stream_info["sizes"]]
    a = accuracy_matrix(records, sizes)
    grouped = group_accuracies(records, sizes, stream_info["profile_counts"], groups)
    old, new = old_new_accuracy(records, sizes)
    curves: dict[str, Any] = {
        "accuracy_seen": pooled_accuracy(records, sizes).tolist(),
        "accuracy_tasks": task_mean_accuracy(a).tolist(),
        "accuracy_class_mean": class_mean_accuracy(records, sizes).tolist(),
        "forgetting": forgetting(a).tolist(),
        "backward_transfer": backward_transfer(a).tolist(),
        **{f"{name}_accuracy": values.tolist() for name, values in grouped.items()},
        "old_accuracy": old.tolist(),
        "new_accuracy": new.tolist(),
        "num_seen_classes": np.cumsum(sizes)[: len(records)].tolist(),
    }
    summary = {f"average_{name}": float(np.mean(curves[name])) for name in AVERAGED}
    summary |= {f"last_{name}": curves[name][-1] for name in AVERAGED}
    summary |= {name: curves[name][-1] for name in LAST_ONLY}
    return {"summary": summary, "curves": curves}


def _lower(a: npt.ArrayLike) -> FloatArray:
    """`a` as floats with nan above the diagonal, so that nothing there can leak into a metric."""
    matrix = np.array(a, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"The accuracies must be a square (T, T) matrix with T >= 1, got shape {matrix.shape}.")
    matrix[~np.tri(len(matrix), dtype=bool)] = np.nan
    return matrix


def group_members(
    sizes: Sequence[int], profile_counts: Sequence[int], groups: Sequence[int]
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which classes (C,) are in which of `GROUPS`. Raises ValueError on falling thresholds or too few counts."""
    low, high = groups
    if low > high:
        raise ValueError(f"metrics.groups must be two rising thresholds such as [20, 100], got {list(groups)}.")
    if len(profile_counts) < sum(sizes):
        raise ValueError(f"profile_counts has {len(profile_counts)} classes, the stream has {sum(sizes)}.")
    images = np.asarray(profile_counts)
    return {"many": images > high, "medium": (images >= low) & (images <= high), "few": images < low}


def _counts(records: Sequence[Record], sizes: Sequence[int]) -> list[tuple[IntArray, IntArray]]:
    """The records as checked (correct, total) arrays."""
    if len(records) > len(sizes):
        raise ValueError(f"{len(records)} records for a stream of {len(sizes)} experiences.")
    if any(size < 1 for size in sizes):
        raise ValueError(f"Every experience needs at least one class, got sizes {list(sizes)}.")
    checked = []
    for t, record in enumerate(records):
        correct, total = np.asarray(record["correct"]), np.asarray(record["total"])
        num_seen = sum(sizes[: t + 1])
        if correct.shape != (num_seen,) or total.shape != (num_seen,):
            raise ValueError(
                f"Experience {t}: expected counts of {num_seen} seen classes, got correct {correct.shape} and total "
                f"{total.shape}."
            )
        if (correct < 0).any() or (correct > total).any():
            raise ValueError(f"Experience {t}: correct counts must lie between 0 and the total of the class.")
        checked.append((correct.astype(np.int64), total.astype(np.int64)))
    return checked


def quotients(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> FloatArray:
    """Elementwise quotient, nan where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def _pooled(correct: IntArray, total: IntArray) -> float:
    images = int(total.sum())
    return int(correct.sum()) / images if images else float("nan")


def mean_of_defined(values: FloatArray) -> float:
    """Mean of the values that are defined, nan if none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _row_means(values: FloatArray, mask: npt.NDArray[np.bool_]) -> FloatArray:
    return np.array([mean_of_defined(row[keep]) for row, keep in zip(values, mask, strict=True)])
