"""Metrics against hand-worked numbers (methods 6.12 of the specification) and brute force."""

import math
import subprocess
import sys

import numpy as np
import pytest

from benchmark.metrics import single_label

nan = float("nan")
A = [[80, 0, 0], [60, 70, 0], [50, 75, 90]]
SIZES = [2, 1, 1]


def record(correct, total):
    return {"correct": correct, "total": total}


def worked_records():
    """A of above as counts: class sizes 50, 25, 25 test images spread over 2 + 1 + 1 classes."""
    total = [250, 250, 250, 250]
    return [
        record([240, 160], total[:2]),
        record([200, 100, 175], total[:3]),
        record([225, 25, 187, 225], total),
    ]


def test_task_mean_of_the_worked_example():
    np.testing.assert_allclose(single_label.task_mean_accuracy(A), [80, 65, 71.666667], rtol=1e-7)
    assert single_label.task_mean_accuracy(A).mean() == pytest.approx(72.222222)


def test_seen_accuracy_of_the_worked_example():
    seen = single_label.seen_accuracy(A, [50, 25, 25])
    np.testing.assert_allclose(seen, [80, 63.333333, 66.25], rtol=1e-7)
    assert seen.mean() == pytest.approx(69.861111)


def test_forgetting_and_backward_transfer_of_the_worked_example():
    np.testing.assert_allclose(single_label.forgetting(A), [nan, 20, 12.5])  # 30 and -5 at the end
    np.testing.assert_allclose(single_label.backward_transfer(A), [nan, -20, -12.5])


def test_forgetting_takes_the_maximum_and_backward_transfer_the_diagonal():
    a = [[60, 0, 0], [70, 80, 0], [50, 75, 90]]
    np.testing.assert_allclose(single_label.forgetting(a), [nan, -10, 12.5])  # 70 - 50 and 80 - 75
    np.testing.assert_allclose(single_label.backward_transfer(a), [nan, 10, -7.5])


@pytest.mark.parametrize("above", [nan, -1e9, 1e9, np.inf])
def test_entries_above_the_diagonal_are_ignored(above):
    a = np.array(A, dtype=float)
    a[np.triu_indices(3, k=1)] = above
    for name in ("task_mean_accuracy", "forgetting", "backward_transfer"):
        np.testing.assert_array_equal(getattr(single_label, name)(a), getattr(single_label, name)(A))
    np.testing.assert_array_equal(
        single_label.seen_accuracy(a, [50, 25, 25]), single_label.seen_accuracy(A, [50, 25, 25])
    )


def test_a_does_not_change():
    a = np.array(A, dtype=float)
    single_label.forgetting(a)
    single_label.task_mean_accuracy(a)
    np.testing.assert_array_equal(a, np.array(A, dtype=float))


@pytest.mark.parametrize("a", [[], [[1, 2]], [1.0], np.zeros((2, 2, 2))])
def test_a_matrix_that_is_not_square_is_refused(a):
    with pytest.raises(ValueError, match="square"):
        single_label.forgetting(a)


@pytest.mark.parametrize("weights", [[1, 2], [1, 2, -1], [[1, 2, 3]], [1, 2, nan]])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        single_label.seen_accuracy(A, weights)


def test_forgetting_equals_brute_force():
    rng = np.random.default_rng(0)
    for size in range(1, 7):
        a = rng.random((size, size))
        expected_f = [nan] + [
            np.mean([max(a[k, j] for k in range(j, t)) - a[t, j] for j in range(t)]) for t in range(1, size)
        ]
        expected_b = [nan] + [np.mean([a[t, j] - a[j, j] for j in range(t)]) for t in range(1, size)]
        np.testing.assert_allclose(single_label.forgetting(a), expected_f)
        np.testing.assert_allclose(single_label.backward_transfer(a), expected_b)


def test_accuracy_matrix_from_counts():
    a = single_label.accuracy_matrix(worked_records(), SIZES)
    np.testing.assert_allclose(a, [[0.8, nan, nan], [0.6, 0.7, nan], [0.5, 0.748, 0.9]])


def test_an_experience_without_test_images_is_left_out():
    records = [record([5], [10]), record([4, 0], [10, 0]), record([3, 0, 8], [10, 0, 10])]
    a = single_label.accuracy_matrix(records, [1, 1, 1])
    np.testing.assert_allclose(a[2], [0.3, nan, 0.8])
    np.testing.assert_allclose(single_label.task_mean_accuracy(a), [0.5, 0.4, 0.55])
    np.testing.assert_allclose(single_label.seen_accuracy(a, [10, 0, 10]), [0.5, 0.4, 0.55])
    np.testing.assert_allclose(single_label.class_mean_accuracy(records, [1, 1, 1]), [0.5, 0.4, 0.55])


def test_seen_and_class_mean_differ_on_an_uneven_test_set():
    records = [record([9, 1], [90, 10]), record([90, 0, 5], [90, 10, 5])]
    np.testing.assert_allclose(single_label.pooled_accuracy(records, [2, 1]), [10 / 100, 95 / 105])
    np.testing.assert_allclose(single_label.class_mean_accuracy(records, [2, 1]), [0.1, 2 / 3])
    a = single_label.accuracy_matrix(records, [2, 1])
    np.testing.assert_allclose(single_label.seen_accuracy(a, [100, 5]), single_label.pooled_accuracy(records, [2, 1]))


def test_groups_split_at_the_thresholds_and_grow_with_the_seen_classes():
    profile = [101, 100, 20, 19]
    records = [record([10, 8], [10, 10]), record([9, 7, 5], [10, 10, 10]), record([8, 6, 4, 1], [10, 10, 10, 10])]
    groups = single_label.group_accuracies(records, SIZES, profile)
    np.testing.assert_allclose(groups["many"], [1.0, 0.9, 0.8])
    np.testing.assert_allclose(groups["medium"], [0.8, 0.6, 0.5])
    np.testing.assert_allclose(groups["few"], [nan, nan, 0.1])


def test_group_thresholds_are_configurable_and_checked():
    records = [record([1, 2], [2, 2])]
    groups = single_label.group_accuracies(records, [2], [7, 3], groups=(5, 6))
    assert (groups["many"][0], groups["few"][0]) == (0.5, 1.0)
    assert math.isnan(groups["medium"][0])
    with pytest.raises(ValueError, match="groups"):
        single_label.group_accuracies(records, [2], [7, 3], groups=(100, 20))
    with pytest.raises(ValueError, match="profile_counts"):
        single_label.group_accuracies(records, [2], [7])


def test_old_and_new_accuracy_pool_images():
    old, new = single_label.old_new_accuracy(worked_records(), SIZES)
    np.testing.assert_allclose(old, [nan, 0.6, (225 + 25 + 187) / 750])
    np.testing.assert_allclose(new, [nan, 0.7, 0.9])


def test_all_metrics_of_the_worked_example():
    info = {"sizes": SIZES, "profile_counts": [500, 100, 20, 5]}
    result = single_label.all_metrics(worked_records(), info)
    assert tuple(result["summary"]) == single_label.SUMMARY
    assert set(result["curves"]) == set(single_label.CURVES)
    summary = result["summary"]
    assert summary["average_accuracy_seen"] == pytest.approx(np.mean([0.8, 475 / 750, 0.662]))
    assert summary["last_accuracy_tasks"] == pytest.approx((0.5 + 0.748 + 0.9) / 3)
    assert summary["last_accuracy_class_mean"] == pytest.approx(0.662)
    assert summary["forgetting"] == pytest.approx((0.3 + 0.7 - 0.748) / 2)
    assert summary["backward_transfer"] == pytest.approx(-(0.3 + 0.7 - 0.748) / 2)
    assert summary["many_accuracy"] == pytest.approx(0.9)
    assert summary["medium_accuracy"] == pytest.approx((0.1 + 0.748) / 2)
    assert summary["few_accuracy"] == pytest.approx(0.9)
    assert result["curves"]["num_seen_classes"] == [2, 3, 4]
    assert all(type(value) is float for value in summary.values())
    for name in single_label.LAST_ONLY:
        np.testing.assert_equal(result["curves"][name][-1], summary[name])


def test_a_single_experience_has_no_forgetting_and_no_old_or_new_classes():
    result = single_label.all_metrics([record([5, 10], [10, 10])], {"sizes": [2], "profile_counts": [50, 50]})
    summary = result["summary"]
    undefined = {name for name, value in summary.items() if math.isnan(value)}
    assert undefined == {
        "forgetting", "backward_transfer", "many_accuracy", "few_accuracy", "old_accuracy", "new_accuracy"
    }  # fmt: skip
    assert summary["average_accuracy_seen"] == summary["last_accuracy_seen"] == 0.75


def test_an_unfinished_run_gives_the_steps_it_has():
    info = {"sizes": SIZES, "profile_counts": [500, 100, 20, 5]}
    whole, part = single_label.all_metrics(worked_records(), info), single_label.all_metrics(worked_records()[:2], info)
    np.testing.assert_equal(part["curves"]["forgetting"], whole["curves"]["forgetting"][:2])
    assert part["curves"]["num_seen_classes"] == [2, 3]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "at least one record"),
        ([record([1], [2])], "expected counts of 2"),
        ([record([3, 1], [2, 2])], "between 0 and the total"),
        ([record([-1, 1], [2, 2])], "between 0 and the total"),
        ([record([1, 1], [2, 2])] * 4, "4 records"),
    ],
)
def test_records_that_do_not_fit_the_stream_are_refused(records, message):
    with pytest.raises(ValueError, match=message):
        single_label.all_metrics(records, {"sizes": SIZES, "profile_counts": [9, 9, 9, 9]})


def test_metrics_of_all_correct_and_all_wrong():
    info = {"sizes": [1, 1], "profile_counts": [200, 200]}
    perfect = single_label.all_metrics([record([4], [4]), record([4, 4], [4, 4])], info)["summary"]
    hopeless = single_label.all_metrics([record([0], [4]), record([0, 0], [4, 4])], info)["summary"]
    assert perfect["average_accuracy_seen"] == 1.0 and perfect["forgetting"] == 0.0
    assert hopeless["average_accuracy_seen"] == 0.0 and hopeless["forgetting"] == 0.0


def test_reading_results_needs_neither_torch_nor_avalanche():
    code = """
import sys
sys.modules["torch"] = sys.modules["avalanche"] = None  # importing either raises ImportError
from benchmark import figures, pages
from benchmark.metrics import multi_label, single_label
from benchmark.results import labels, summary
from benchmark.storage import archive, folder, records
from benchmark.tables import render, tables
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_forgetting_of_groups_by_hand():
    """Two tasks of two classes, then one: recalls (1, .5), (.5, .5, 1, 0), (.75, 0, .5, 0, 1) of four images each."""
    records = [
        record([4, 2], [4, 4]),
        record([2, 2, 4, 0], [4, 4, 4, 4]),
        record([3, 0, 2, 0, 4], [4, 4, 4, 4, 4]),
    ]
    found = single_label.group_forgetting(records, [2, 2, 1], [500, 50, 60, 5, 5])
    nan = float("nan")
    np.testing.assert_equal(found["many"], [nan, 0.5, 0.25])  # the best of class 0 stays 1
    np.testing.assert_equal(found["medium"], [nan, 0.0, 0.5])  # classes 1 and 2: (.5 - 0 + 1 - .5) / 2
    np.testing.assert_equal(found["few"], [nan, nan, 0.0])  # class 3; class 4 is new
    with pytest.raises(ValueError, match="rising thresholds"):
        single_label.group_forgetting(records, [2, 2, 1], [500, 50, 60, 5, 5], [100, 20])


def test_one_class_per_experience_makes_forgetting_of_classes_that_of_experiences():
    rng = np.random.default_rng(0)
    records = [record(rng.integers(0, 10, t + 1).tolist(), [10] * (t + 1)) for t in range(5)]
    found = single_label.group_forgetting(records, [1] * 5, [500] * 5)["many"]
    np.testing.assert_allclose(found, single_label.forgetting(single_label.accuracy_matrix(records, [1] * 5)))
