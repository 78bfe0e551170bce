"""Runs -> pairs -> differences with a verdict that their number can carry."""

import numpy as np
import pytest
import results_folder as fake

from benchmark.errors import UserError
from benchmark.results import pairs, statistics, summary


def results(root, accuracies, order="shuffled", **changes):
    """Runs of each method with the given recalls (percent), one seed each; returns the summary."""
    for method, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            fake.write_run(root, fake.config(method, seed=seed, stream__order=order, **changes), accuracy=accuracy)
    return summary.summarise(root)[0]


def test_scores_are_runs_by_methods_with_order_and_seeds_apart(tmp_path):
    frame = results(tmp_path, {"lwf": (40, 50), "wa": (30,)})
    scores = pairs.paired_scores(frame)
    assert scores.index.tolist() == [("LFS-5", "shuffled 0", " 0 0 0"), ("LFS-5", "shuffled 1", " 0 0 1")]
    np.testing.assert_allclose(scores["lwf"], [0.4, 0.5])
    np.testing.assert_allclose(scores["wa"], [0.3, np.nan])
    np.testing.assert_allclose(pairs.paired_differences(scores, "wa", "lwf"), [-0.1])


def test_a_named_order_is_one_order_whatever_its_seed(tmp_path):
    scores = pairs.paired_scores(results(tmp_path, {"lwf": (40, 50)}, order="order_a"))
    assert set(scores.index.get_level_values("order")) == {"order_a"} and len(scores) == 2


def test_differences_are_taken_run_by_run(tmp_path):
    """Runs of one seed move together: the spread of the differences is that of the method alone."""
    frame = results(tmp_path, {"base": (10, 50, 90), "better": (12, 51, 93)})
    row = pairs.differences(frame, "base").iloc[0]
    assert (row["method"], row["setting"], row["pairs"], row["orders"]) == ("better", "LFS-5", 3, 3)
    assert row["difference"] == pytest.approx(0.02) and row["sd"] == pytest.approx(0.01)
    assert row["se"] == pytest.approx(0.01 / np.sqrt(3))
    assert row["low"] == pytest.approx(0.02 - 0.02484138) and row["interval"] == "paired t"
    assert (row["test"], row["p"], row["smallest_p"], row["verdict"]) == ("sign-flip", 0.25, 0.25, "too few pairs")
    assert row[["wins", "ties", "losses"]].tolist() == [3, 0, 0]


@pytest.mark.parametrize(("seeds", "verdict"), [(5, "too few pairs"), (6, "better")])
def test_one_comparison_needs_six_pairs(tmp_path, seeds, verdict):
    frame = results(tmp_path, {"base": range(10, 10 + seeds), "up": range(20, 20 + seeds)})
    row = pairs.differences(frame, "base").iloc[0]
    assert row["verdict"] == verdict and row["smallest_p_holm"] == 2 / 2**seeds == row["p_holm"]


def test_more_comparisons_need_more_pairs(tmp_path):
    base = np.arange(10, 16)
    frame = results(tmp_path, {"base": base, "up": base + 20, "down": base - 5})
    found = pairs.differences(frame, "base").set_index("method")
    assert found["p"].tolist() == [2 / 64] * 2 and found["p_holm"].tolist() == [4 / 64] * 2
    assert set(found["verdict"]) == {"too few pairs"}


def test_verdicts_follow_the_direction_of_the_metric(tmp_path):
    base = np.arange(20, 28)
    frame = results(tmp_path, {"base": base, "up": base + 20, "down": base - 5, "noise": np.add(base, [9, -9] * 4)})
    expected = {"up": "better", "down": "worse", "noise": "undecided"}
    assert pairs.differences(frame, "base").set_index("method")["verdict"].to_dict() == expected
    turned = pairs.differences(frame, "base", lower_is_better=True).set_index("method")
    assert turned["verdict"].to_dict() == {"up": "worse", "down": "better", "noise": "undecided"}
    assert turned.loc["up", ["wins", "losses"]].tolist() == [0, 8]


def test_runs_without_a_partner_are_no_pairs(tmp_path):
    frame = results(tmp_path, {"base": (10, 20, 30), "half": (15, 25)})
    fake.write_run(tmp_path, fake.config("none"), finished=False)
    fake.write_run(tmp_path, fake.config("other", seed=7), accuracy=50)
    found = pairs.differences(summary.summarise(tmp_path)[0], "base").set_index("method")
    assert found["pairs"].to_dict() == {"half": 2, "other": 0}
    assert found.loc["other", "verdict"] == "" and np.isnan(found.loc["other", "p_holm"])
    assert found.loc["half", "smallest_p_holm"] == 0.5  # rows without a pair are not in Holm's family
    assert len(frame) == 5


def test_a_missing_baseline_is_one_clear_sentence(tmp_path):
    frame = results(tmp_path, {"base": (10, 20)})
    with pytest.raises(UserError, match='"other" has no finished run'):
        pairs.differences(frame, "other")
    with pytest.raises(UserError, match='no metric "speed"'):
        pairs.differences(frame, "base", "speed")


def test_runs_of_unlike_precision_are_refused(tmp_path):
    for seed, precision in enumerate(("bf16", "fp32")):
        fake.write_run(tmp_path, fake.config("lwf", seed=seed), precision=precision)
    with pytest.raises(UserError, match="mixes runs with precision"):
        pairs.paired_scores(summary.summarise(tmp_path)[0])


def test_bold_needs_five_pairs_and_an_interval_without_zero(tmp_path):
    base = np.arange(20, 25)
    scores = pairs.paired_scores(results(tmp_path, {"a": base + 5, "b": base, "c": np.add(base, [9, -9, 9, -9, 9])}))
    assert pairs.is_told_apart(scores, "a", "b") and not pairs.is_told_apart(scores, "c", "b")
    assert not pairs.is_told_apart(scores.iloc[:4], "a", "b")
    assert not pairs.is_told_apart(scores, "b", "a"), "whatever the means of all of their runs"
    assert pairs.is_told_apart(scores, "b", "a", lower_is_better=True)


def test_orders_and_seeds_of_a_crossed_sweep_reach_the_bootstrap(tmp_path):
    for method, gain in (("base", 0), ("up", 10)):
        for order in range(3):
            for seed in range(5):
                content = fake.config(method, seed=seed, stream__order_seed=order)
                fake.write_run(tmp_path, content, accuracy=20 + order + seed + gain)
    row = pairs.differences(summary.summarise(tmp_path)[0], "base").iloc[0]
    assert (row["pairs"], row["orders"], row["interval"]) == (15, 3, statistics.BOOTSTRAP)
    assert (row["low"], row["high"]) == (pytest.approx(0.1), pytest.approx(0.1)) and row["verdict"] == "better"
