"""What is measured after every experience, by the kind of labels: the record of metrics.jsonl and confusion counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.metrics import multi_label, single_label
from strategies.training.labels import rows_array
from strategies.training.memory import ExemplarMemoryPlugin, concatenate

if TYPE_CHECKING:
    from benchmark.streams import LongTailedBenchmark
    from strategies.training.learner import IncrementalLearner

METRICS = {"single": single_label.all_metrics, "multi": multi_label.all_metrics}


def evaluate(
    learner: IncrementalLearner, benchmark: LongTailedBenchmark, t: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Test every seen class: the record of metrics.jsonl, and a confusion matrix per classifier (single label only)."""
    num_seen = sum(benchmark.info.sizes[: t + 1])
    record: dict[str, Any] = {"experience": t, "classifiers": {}, "memory_held": _memory_held(learner, num_seen)}
    measure = {"single": _measure_single, "multi": _measure_multi}[benchmark.info.task_kind]
    record["classifiers"], confusions = measure(learner, benchmark, t, num_seen)
    return record, confusions


def all_metrics(
    task_kind: str, records: Sequence[Mapping[str, Any]], stream_info: Mapping[str, Any], groups: Sequence[int]
) -> dict[str, Any]:
    """The metrics of every classifier that all records have."""
    return {
        name: METRICS[task_kind]([record["classifiers"][name] for record in records], stream_info, groups)
        for name in records[-1]["classifiers"]
        if all(name in record["classifiers"] for record in records)
    }


def headline(task_kind: str, record: Mapping[str, Any]) -> str:
    """One experience's record in words: "accuracy head 45.12 %, nme 47.30 %"."""
    scores = ", ".join(
        f"{name} {100 * SCORES[task_kind](found):.2f} %" for name, found in record["classifiers"].items()
    )
    return f"{'accuracy' if task_kind == 'single' else 'mAP'} {scores}"


def accuracy(found: Mapping[str, Any]) -> float:
    """Accuracy on all test images, from what metrics.jsonl holds of one classifier."""
    return sum(found["correct"]) / sum(found["total"])


def mean_average_precision(found: Mapping[str, Any]) -> float:
    """Mean over classes of average precision, from what metrics.jsonl holds of one classifier."""
    return float(np.nanmean(np.array(found["average_precision"], dtype=np.float64)))


SCORES: dict[str, Callable[[Mapping[str, Any]], float]] = {"single": accuracy, "multi": mean_average_precision}


def _measure_single(
    learner: IncrementalLearner, benchmark: LongTailedBenchmark, t: int, num_seen: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Correct and total per class, and confusion matrices (true, predicted)."""
    seen = concatenate([experience.dataset for experience in benchmark.test_stream[: t + 1]])
    truth = np.fromiter(seen.targets, dtype=np.int64)
    total = np.bincount(truth, minlength=num_seen)
    found, confusions = {}, {}
    for name, scores in learner.predict(seen).items():
        predicted = scores[:, :num_seen].argmax(dim=1).cpu().numpy()
        confusion = np.bincount(truth * num_seen + predicted, minlength=num_seen**2).reshape(num_seen, num_seen)
        confusions[name] = confusion.astype(np.int32)
        found[name] = {"correct": confusion.diagonal().tolist(), "total": total.tolist()}
    return found, confusions


def _measure_multi(
    learner: IncrementalLearner, benchmark: LongTailedBenchmark, t: int, num_seen: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Average precision and counts at thresholds, on the test images and, where there is a memory, on the exemplars."""
    seen = concatenate([experience.dataset for experience in benchmark.test_stream[: t + 1]])
    truth = rows_array(seen.annotations)[:, :num_seen]
    found = {
        name: multi_label.count_record(scores[:, :num_seen].double().cpu().numpy(), truth)
        for name, scores in learner.predict(seen).items()
    }
    memory = next((plugin for plugin in learner.plugins if isinstance(plugin, ExemplarMemoryPlugin)), None)
    exemplars = memory.dataset() if memory else None
    if memory is None or exemplars is None:
        return found, {}
    relabeled = [plugin.label_counts for plugin in learner.plugins if hasattr(plugin, "label_counts")]
    truth = rows_array(exemplars.truth)[:, :num_seen]
    for name, scores in learner.predict(exemplars).items():
        counts = multi_label.counts_at_thresholds(scores[:, :num_seen].double().cpu().numpy(), truth)
        pooled = {at: {key: sum(values) for key, values in each.items()} for at, each in counts.items()}
        found[name]["memory"] = {"predictions": pooled, **({"labels": relabeled[0]} if relabeled else {})}
    return found, {}


def _memory_held(learner: IncrementalLearner, num_seen: int) -> list[int]:
    held = [0] * num_seen
    for plugin in learner.plugins:
        for label, count in getattr(plugin, "held", dict)().items():
            held[label] = count
    return held
