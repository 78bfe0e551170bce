"""Multi-label metrics: worked numbers, and scikit-learn where it defines the same figure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from benchmark.metrics import multi_label as m

INFO = {"sizes": [2, 1], "profile_counts": [200, 50, 5]}


def test_average_precision_by_hand() -> None:
    """Ranked 1 0 1 0: precision 1 at the first positive, 2/3 at the second; equal scores are one step of 2 in 3."""
    scores = np.array([[0.9, 0.5, 0.1], [0.8, 0.5, 0.2], [0.7, 0.5, 0.3], [0.6, 0.1, 0.4]])
    truth = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]])
    first, tied, absent = m.average_precision(scores, truth)
    assert first == pytest.approx((1 + 2 / 3) / 2) and tied == pytest.approx(2 / 3) and math.isnan(absent)


def test_average_precision_and_f1_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(200, 5)).round(1)  # with ties
    truth = (rng.random((200, 5)) < [0.5, 0.3, 0.1, 0.05, 0.02]).astype(int)
    wanted = [average_precision_score(truth[:, c], scores[:, c]) for c in range(5)]
    assert m.average_precision(scores, truth) == pytest.approx(wanted)
    said = scores > 0.5
    counts = m.count(scores, truth, 0.5)
    assert m.cf1(counts) == pytest.approx(f1_score(truth, said, average="macro"))
    assert m.of1(counts) == pytest.approx(f1_score(truth, said, average="micro"))
    p, r = (f(truth, said, average="macro", zero_division=0) for f in (precision_score, recall_score))
    assert m.cf1_of_means(counts) == pytest.approx(2 * p * r / (p + r))
    assert m.false_positive_rate(counts) == pytest.approx((said & (truth == 0)).sum() / (truth == 0).sum())


def test_the_two_cf1_differ_and_both_by_hand() -> None:
    """Class 0: tp 1, fp 1, fn 0; class 1: tp 1, fp 0, fn 3; class 2 has no positive and is left out of both."""
    counts = {"tp": [1, 1, 0], "fp": [1, 0, 2], "fn": [0, 3, 0], "tn": [2, 0, 2]}
    assert m.cf1(counts) == pytest.approx((2 / 3 + 2 / 5) / 2)
    assert m.cf1_of_means(counts) == pytest.approx(2 * 0.75 * 0.625 / (0.75 + 0.625))
    assert m.of1(counts) == pytest.approx(4 / (4 + 3 + 3))
    assert m.false_positive_rate(counts) == pytest.approx(3 / 7)
    assert m.false_negative_rate(counts) == pytest.approx(3 / 5)


def test_a_model_that_predicts_nothing() -> None:
    counts = {"tp": [0, 0], "fp": [0, 0], "fn": [3, 1], "tn": [5, 7]}
    assert m.cf1(counts) == m.cf1_of_means(counts) == m.of1(counts) == m.false_positive_rate(counts) == 0


def record(scores: Any, truth: Any, **more: Any) -> dict[str, Any]:
    return {**m.count_record(np.array(scores, dtype=float), np.array(truth)), **more}


def test_all_metrics_of_two_experiences() -> None:
    first = record([[3, -3], [-3, 3], [1, -3]], [[1, 0], [0, 1], [1, 0]])
    labels = {
        "before": {"tp": 2, "fp": 0, "fn": 2, "tn": 4},
        "after": {"tp": 3, "fp": 1, "fn": 1, "tn": 3},
        "pseudo": {"tp": 1, "fp": 1, "fn": 1, "tn": 1},
    }
    memory = {"predictions": {"0.5": {"tp": 1, "fp": 1, "fn": 0, "tn": 3}}, "labels": labels}
    second = record([[3, -3, -3], [-3, 3, 1], [1, -3, 3]], [[1, 0, 0], [0, 1, 0], [1, 0, 1]], memory=memory)
    found = m.all_metrics([first, second], INFO)
    s, c = found["summary"], found["curves"]
    assert c["map"] == [1.0, 1.0] and s["average_map"] == s["last_map"] == 1.0
    assert c["num_seen_classes"] == [2, 3]
    assert s["fpr_at_0.5"] == pytest.approx(1 / 5) and s["fpr_at_0.8"] == 0  # sigmoid(1) = 0.73
    assert s["of1_at_0.5"] == pytest.approx(8 / 9) and s["of1_at_0.8"] == pytest.approx(6 / 7)
    assert s["many_map"] == s["medium_map"] == s["few_map"] == 1.0 and math.isnan(c["few_map"][0])
    assert math.isnan(c["old_map"][0]) and s["memory_fpr_at_0.5"] == 0.25
    assert (s["memory_label_fpr_before"], s["memory_label_fpr_after"]) == (0, 0.25)
    assert (s["memory_label_fnr_before"], s["memory_label_fnr_after"]) == (0.5, 0.25)
    assert (s["pseudo_precision"], s["pseudo_recall"]) == (0.5, 0.5)
    assert set(s) == set(m.SUMMARY) and set(c) == set(m.CURVES)


def test_names_of_relabeling_are_only_there_for_methods_that_relabel() -> None:
    found = m.all_metrics([record([[1, -1]], [[1, 0]])], INFO)
    assert not set(found["summary"]) & set(m.LABELS)


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="one shape"):
        m.average_precision(np.zeros((2, 3)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="expected 2 seen classes"):
        m.all_metrics([record([[1]], [[1]])], INFO)
    with pytest.raises(ValueError, match="at least one"):
        m.all_metrics([], INFO)


def test_extreme_logits_stay_finite() -> None:
    counts = m.counts_at_thresholds(np.array([[1e6, -1e6]]), np.array([[1, 0]]))
    assert counts["0.8"]["tp"] == [1, 0] and counts["0.8"]["tn"] == [0, 1]
