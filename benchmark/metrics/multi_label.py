"""Scores and complete labels -> every figure of merit of a multi-label run. Pure functions, numpy only.

Columns are the classes seen so far in arrival order. Precision and recall are counted at named thresholds on the
sigmoid: 0.5, where false-positive rates are compared, and 0.8, at which KRT's and CSC's code reports CF1 and OF1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.metrics.single_label import GROUPS, group_members, mean_of_defined, quotients

FloatArray = npt.NDArray[np.float64]
Record = Mapping[str, Any]  # {"average_precision", "counts"} and, with a memory, "memory"; see `count_record`
Counts = Mapping[str, Any]  # {"tp", "fp", "fn", "tn"}: one number or one per class

THRESHOLDS = (0.5, 0.8)
AVERAGED = ("map",)
AT_THRESHOLD = ("cf1", "cf1_of_means", "of1", "fpr")
LAST_ONLY = (
    *(f"{name}_at_{threshold}" for threshold in THRESHOLDS for name in AT_THRESHOLD),
    *(f"{name}_map" for name in (*GROUPS, "old", "new")),
    *(f"memory_fpr_at_{threshold}" for threshold in THRESHOLDS),
)
# Of methods that relabel their memory.
LABELS = (
    "memory_label_fpr_before",
    "memory_label_fpr_after",
    "memory_label_fnr_before",
    "memory_label_fnr_after",
    "pseudo_precision",
    "pseudo_recall",
)
CURVES = (*AVERAGED, *LAST_ONLY, *LABELS, "num_seen_classes")
SUMMARY = (*(f"average_{name}" for name in AVERAGED), *(f"last_{name}" for name in AVERAGED), *LAST_ONLY, *LABELS)


def average_precision(scores: npt.ArrayLike, truth: npt.ArrayLike) -> FloatArray:
    """Average precision of each column, (C,): sum over recall steps of (R_n - R_{n-1}) P_n, no interpolation.

    Equal scores count as one step, so the order of images plays no part. A column without a positive is nan.

    Parameters
    ----------
    scores : (N, C), larger is likelier. truth : (N, C) of 0 and 1.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(truth) == 1
    if s.shape != y.shape or s.ndim != 2:
        raise ValueError(f"scores {s.shape} and truth {y.shape} must be two (N, C) arrays of one shape.")
    found = np.full(s.shape[1], np.nan)
    for column in np.flatnonzero(y.any(axis=0)):
        order = np.argsort(-s[:, column], kind="stable")
        ranked, hits = s[order, column], np.cumsum(y[order, column])
        last_of_step = np.append(ranked[1:] != ranked[:-1], True)
        tp, ranks = hits[last_of_step], np.flatnonzero(last_of_step) + 1
        found[column] = float((np.diff(tp, prepend=0) * (tp / ranks)).sum() / hits[-1])
    return found


def count(probabilities: npt.ArrayLike, truth: npt.ArrayLike, threshold: float) -> dict[str, npt.NDArray[np.int64]]:
    """tp, fp, fn, tn of each column, (C,) each; positive is a probability above the threshold."""
    said, true = np.asarray(probabilities) > threshold, np.asarray(truth) == 1
    if said.shape != true.shape:
        raise ValueError(f"probabilities {said.shape} and truth {true.shape} differ in shape.")
    return {
        "tp": (said & true).sum(axis=0),
        "fp": (said & ~true).sum(axis=0),
        "fn": (~said & true).sum(axis=0),
        "tn": (~said & ~true).sum(axis=0),
    }


def cf1(counts: Counts) -> float:
    """Mean over classes of each class's F1 (CF1 of KRT's and CSC's code); classes without a positive are left out."""
    tp, fp, fn = (np.asarray(counts[key], dtype=np.float64) for key in ("tp", "fp", "fn"))
    present = tp + fn > 0
    return mean_of_defined(quotients(2 * tp, 2 * tp + fp + fn)[present])


def cf1_of_means(counts: Counts) -> float:
    """F1 of the mean precision and the mean recall over classes (CF1 of most multi-label papers).

    The precision of a class that is never predicted is 0; classes without a positive are left out.
    """
    tp, fp, fn = (np.asarray(counts[key], dtype=np.float64) for key in ("tp", "fp", "fn"))
    present = tp + fn > 0
    precision = mean_of_defined(np.nan_to_num(quotients(tp, tp + fp))[present])
    recall = mean_of_defined(quotients(tp, tp + fn)[present])
    return _harmonic(precision, recall)


def of1(counts: Counts) -> float:
    """F1 of all (image, class) entries together."""
    tp, fp, fn = (int(np.sum(counts[key])) for key in ("tp", "fp", "fn"))
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else float("nan")


def false_positive_rate(counts: Counts) -> float:
    """fp / (fp + tn) over all entries together."""
    return _ratio(counts, "fp", "tn")


def false_negative_rate(counts: Counts) -> float:
    """fn / (fn + tp) over all entries together."""
    return _ratio(counts, "fn", "tp")


def count_record(scores: npt.ArrayLike, truth: npt.ArrayLike) -> dict[str, Any]:
    """What metrics.jsonl keeps of (N, C) logits and complete labels, as JSON values.

    {"average_precision": one per class, None without a positive, "counts": {threshold: {"tp", "fp", "fn", "tn"}}}.
    """
    precisions = average_precision(scores, truth)
    return {
        "average_precision": [None if np.isnan(value) else float(value) for value in precisions],
        "counts": counts_at_thresholds(scores, truth),
    }


def counts_at_thresholds(scores: npt.ArrayLike, truth: npt.ArrayLike) -> dict[str, dict[str, list[int]]]:
    """`count` of the sigmoids of (N, C) logits at every threshold, as JSON values."""
    probabilities = 1 / (1 + np.exp(-np.clip(np.asarray(scores, dtype=np.float64), -500, 500)))
    return {
        str(threshold): {key: value.tolist() for key, value in count(probabilities, truth, threshold).items()}
        for threshold in THRESHOLDS
    }


def all_metrics(
    records: Sequence[Record], stream_info: Mapping[str, Any], groups: Sequence[int] = (20, 100)
) -> dict[str, dict[str, Any]]:
    """Every metric of one classifier of one run: {"summary": {name: float}, "curves": {name: one value per step}}.

    Parameters: `records`, one per finished experience: `count_record` of the test images, and under "memory"
    {"predictions": counts at thresholds on the exemplars, "labels": {"before", "after", "pseudo"} of the relabeling};
    `stream_info` and `groups` as in `single_label.all_metrics`, with positives as counts. Fractions; nan where a
    value is undefined. Names of `LABELS` are there only for methods that relabel.
    Raises ValueError when `records` is empty or does not fit the stream.
    """
    if not records:
        raise ValueError("No finished experience: metrics need at least one record.")
    steps = [
        _step(record, [int(n) for n in stream_info["sizes"]][: t + 1], stream_info["profile_counts"], groups)
        for t, record in enumerate(records)
    ]
    relabels = any(_labels(record) for record in records)
    names = [name for name in CURVES if relabels or name not in LABELS]
    curves: dict[str, Any] = {name: [step.get(name, float("nan")) for step in steps] for name in names}
    summary = {f"average_{name}": float(np.mean(curves[name])) for name in AVERAGED}
    summary |= {f"last_{name}": curves[name][-1] for name in AVERAGED}
    summary |= {name: curves[name][-1] for name in names if name in (*LAST_ONLY, *LABELS)}
    return {"summary": summary, "curves": curves}


def _step(
    record: Record, sizes: Sequence[int], profile_counts: Sequence[int], groups: Sequence[int]
) -> dict[str, float | int]:
    """The metrics after one experience."""
    num_seen, num_old = sum(sizes), sum(sizes[:-1])
    precisions = np.array(record["average_precision"], dtype=np.float64)  # None becomes nan
    if precisions.shape != (num_seen,):
        raise ValueError(f"Experience {len(sizes) - 1}: expected {num_seen} seen classes, got {precisions.shape}.")
    members = group_members(sizes, profile_counts[:num_seen], groups)
    is_old = np.arange(num_seen) < num_old
    found: dict[str, float | int] = {"map": mean_of_defined(precisions), "num_seen_classes": num_seen}
    found |= {f"{name}_map": mean_of_defined(precisions[members[name]]) for name in GROUPS}
    if num_old:
        found |= {"old_map": mean_of_defined(precisions[is_old]), "new_map": mean_of_defined(precisions[~is_old])}
    for threshold, counts in record["counts"].items():
        found |= {
            f"cf1_at_{threshold}": cf1(counts),
            f"cf1_of_means_at_{threshold}": cf1_of_means(counts),
            f"of1_at_{threshold}": of1(counts),
            f"fpr_at_{threshold}": false_positive_rate(counts),
        }
    for threshold, counts in (record.get("memory") or {}).get("predictions", {}).items():
        found[f"memory_fpr_at_{threshold}"] = false_positive_rate(counts)
    labels = _labels(record)
    for when in ("before", "after"):
        if when in labels:
            found[f"memory_label_fpr_{when}"] = false_positive_rate(labels[when])
            found[f"memory_label_fnr_{when}"] = false_negative_rate(labels[when])
    if "pseudo" in labels:
        found["pseudo_precision"] = _ratio(labels["pseudo"], "tp", "fp")
        found["pseudo_recall"] = _ratio(labels["pseudo"], "tp", "fn")
    return found


def _labels(record: Record) -> Mapping[str, Counts]:
    labels: Mapping[str, Counts] = (record.get("memory") or {}).get("labels") or {}
    return labels


def _ratio(counts: Counts, part: str, rest: str) -> float:
    a, b = int(np.sum(counts[part])), int(np.sum(counts[rest]))
    return a / (a + b) if a + b else float("nan")


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0 * (precision + recall)
