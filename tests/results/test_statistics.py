"""Intervals, tests, ranks and the split of variance: numbers checked by hand, by enumeration, and against scipy."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmark.errors import UserError
from benchmark.results import statistics

RNG = np.random.default_rng(0)


def scores(values, orders=None, setting="LFS-5"):
    """Runs x methods a, b, …, as `paired_scores` gives them."""
    values = np.asarray(values, dtype=float)
    orders = ["order_a"] * len(values) if orders is None else orders
    index = pd.MultiIndex.from_tuples(
        [(setting, order, str(i)) for i, order in enumerate(orders)], names=["setting", "order", "seed"]
    )
    return pd.DataFrame(values, index=index, columns=list("abcdefghij")[: values.shape[1]])


# --- intervals


def test_under_ten_pairs_the_interval_is_a_paired_t():
    found = statistics.mean_interval([1, 2, 3], ["x"] * 3)
    assert found.kind == "paired t"  # 2 ± t(0.975, 2) * 1 / sqrt(3), t = 4.302653
    assert (found.low, found.high) == (pytest.approx(2 - 2.484138, abs=1e-6), pytest.approx(2 + 2.484138, abs=1e-6))
    d = RNG.normal(size=9)
    found = statistics.mean_interval(d, list("abc") * 3)
    low, high = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert found.kind == "paired t" and (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    ("orders", "seeds", "kind"),
    [
        (3, 5, statistics.BOOTSTRAP),
        (5, 6, statistics.BOOTSTRAP),
        (2, 10, statistics.PAIRED_T),  # too few orders
        (4, 4, statistics.PAIRED_T),  # too few seeds per order
        (1, 30, statistics.PAIRED_T),
        (12, 1, statistics.PAIRED_T),
    ],
)
def test_the_bootstrap_needs_three_orders_of_five_seeds(orders, seeds, kind):
    names = [str(i) for i in range(orders) for _ in range(seeds)]
    assert statistics.mean_interval(RNG.normal(size=orders * seeds), names).kind == kind


def test_one_order_with_fewer_seeds_forbids_the_bootstrap():
    names = ["a"] * 10 + ["b"] * 10 + ["c"] * 4
    assert statistics.mean_interval(RNG.normal(size=24), names).kind == statistics.PAIRED_T


def test_without_spread_inside_orders_the_bootstrap_resamples_orders():
    """A resampled mean of three orders is 1 or 6, the ends, with probability 1/27 = 3.7 % each: more than 2.5 %."""
    d = np.repeat([1.0, 2.0, 6.0], 5)
    found = statistics.mean_interval(d, np.repeat(["a", "b", "c"], 5).tolist())
    assert (found.low, found.high) == (1.0, 6.0)
    d = np.repeat([1.0, 2.0, 3.0, 6.0], 5)  # of four orders: 1/256 at the ends; (1, 1, 1, 2) four times as often
    found = statistics.mean_interval(d, np.repeat(["a", "b", "c", "d"], 5).tolist())
    outcomes = np.array([np.mean(draw) for draw in itertools.product([1, 2, 3, 6], repeat=4)])
    assert found.low == np.quantile(outcomes, 0.025, method="inverted_cdf")
    assert found.high == np.quantile(outcomes, 0.975, method="inverted_cdf")


def test_without_spread_between_orders_the_bootstrap_resamples_seeds():
    """Orders repeat the same ten values, so the resampled mean has the variance of 30 draws from them."""
    values = RNG.normal(size=10)
    found = statistics.mean_interval(np.tile(values, 3), np.repeat(["a", "b", "c"], 10).tolist())
    expected = 1.96 * values.std() / np.sqrt(30)
    assert found.high - values.mean() == pytest.approx(expected, rel=0.05)
    assert values.mean() - found.low == pytest.approx(expected, rel=0.05)


def test_orders_that_differ_widen_the_interval():
    noise = RNG.normal(size=30)
    orders = np.repeat(["a", "b", "c"], 10).tolist()
    alike = statistics.mean_interval(noise, orders)
    apart = statistics.mean_interval(noise + np.repeat([-3.0, 0.0, 3.0], 10), orders)
    assert apart.high - apart.low > 3 * (alike.high - alike.low)


def test_the_bootstrap_repeats_itself():
    d, orders = RNG.normal(size=15), np.repeat(["a", "b", "c"], 5).tolist()
    assert statistics.mean_interval(d, orders) == statistics.mean_interval(d, orders)
    assert statistics.mean_interval(d, orders) != statistics.mean_interval(d, orders, seed=1)


def test_one_pair_has_no_interval_and_none_excludes_zero():
    for d in ([], [0.3]):
        found = statistics.mean_interval(d, ["a"] * len(d))
        assert np.isnan(found.low) and np.isnan(found.high) and not found.excludes_zero
    assert statistics.mean_interval([0.3, 0.3], ["a", "a"]).excludes_zero
    assert not statistics.mean_interval([0.3, -0.3], ["a", "a"]).excludes_zero


def test_standard_deviation_and_error_are_different_things():
    assert statistics.standard_deviation([1, 2, 3, 4]) == pytest.approx(1.2909944)
    assert statistics.standard_error([1, 2, 3, 4]) == pytest.approx(1.2909944 / 2)
    assert statistics.standard_error([1, 2, 3, 4]) == pytest.approx(stats.sem([1, 2, 3, 4]))
    assert np.isnan(statistics.standard_deviation([1.0])) and np.isnan(statistics.standard_error([1.0]))


# --- tests


def test_sign_flip_by_hand():
    found = statistics.paired_test([1, 2, 3])  # only +++ and --- reach 6
    assert (found.kind, found.pairs, found.p, found.smallest_p) == ("sign-flip", 3, 0.25, 0.25)
    assert statistics.paired_test([3, -1, 2]).p == 0.5  # ±6 and ±4 of eight
    assert statistics.paired_test([1, 1, -1, -1]).p == 1.0
    assert statistics.paired_test([0.1] * 5).smallest_p == 2 / 32


@pytest.mark.parametrize("n", [2, 7, 10])
def test_sign_flip_agrees_with_scipys_permutation_test(n):
    d = RNG.normal(0.4, 1, size=n)
    found = stats.permutation_test(
        (d,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert statistics.paired_test(d).p == pytest.approx(found.pvalue)


def test_sums_that_differ_by_rounding_count_as_equal():
    d = np.array([0.1, 0.2, 0.3, -0.3])  # 0.3 is reached by 0.1 + 0.2 too, but for rounding
    signs = np.array(list(itertools.product([-1, 1], repeat=4)))
    exact = np.mean(np.abs(signs @ np.array([1, 2, 3, 3])) >= 3)
    assert statistics.paired_test(d).p == exact


def test_zeros_add_pairs_but_no_evidence():
    with_zeros = statistics.paired_test([1, 2, 3, 0, 0])
    assert (with_zeros.pairs, with_zeros.p, with_zeros.smallest_p) == (5, 0.25, 0.25)
    assert statistics.paired_test([0, 0]).p == 1.0 and statistics.paired_test([]).p == 1.0


def test_thirty_pairs_are_still_exact_and_more_are_wilcoxon():
    d = np.abs(RNG.normal(size=30))
    assert statistics.paired_test(d).p == statistics.paired_test(d).smallest_p == 2 / 2**30
    d = RNG.normal(0.3, 1, size=60)
    found = statistics.paired_test(d)
    assert found.kind == "Wilcoxon" and found.p == pytest.approx(stats.wilcoxon(d).pvalue)
    assert found.smallest_p == pytest.approx(stats.wilcoxon(np.abs(d)).pvalue) and found.smallest_p < 1e-9


def test_the_test_keeps_its_level():
    p = np.array([statistics.paired_test(RNG.normal(size=8)).p for _ in range(2000)])
    assert 0.03 < (p <= 0.05).mean() < 0.06


def test_holm_by_hand():
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(statistics.holm([0.6, 0.5]), [1.0, 1.0])
    assert statistics.holm([]).tolist() == []


# --- many methods


def test_interquartile_mean_leaves_out_a_quarter_at_both_ends():
    assert statistics.interquartile_mean([8, 1, 2, 3, 4, 5, 6, 100]) == pytest.approx(4.5)
    assert statistics.interquartile_mean([1, 5]) == 3 and np.isnan(statistics.interquartile_mean([]))


# AUC of four classifiers on 14 data sets: Demšar, JMLR 2006, Table 6; ranks there know more digits, see the 0.9751.
DEMSAR = [
    [0.763, 0.768, 0.771, 0.798],
    [0.599, 0.591, 0.590, 0.569],
    [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898],
    [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685],
    [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000],
    [0.940, 0.962, 0.965, 0.962],
    [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975],
    [0.957, 0.978, 0.946, 0.970],
]


def test_average_ranks_and_critical_difference_of_demsars_example():
    found = statistics.average_ranks(scores(DEMSAR))
    assert found.rank.round(3).to_dict() == {"d": 1.964, "b": 2.000, "c": 2.893, "a": 3.143}
    assert found.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)  # 1.25
    assert found.friedman_p == pytest.approx(stats.friedmanchisquare(*np.transpose(DEMSAR)).pvalue)
    assert (found.blocks, found.left_out, found.blocks_left_out) == (14, (), 0)
    assert found.cliques == (("d", "b", "c", "a"),)  # 3.143 - 1.964 = 1.18 < 1.25
    assert found.interquartile_mean["a"] == pytest.approx(np.sort(np.array(DEMSAR)[:, 0])[3:-3].mean())


def test_cliques_overlap_and_skip_single_methods():
    """Three methods 1 rank apart over 12 runs: CD = 2.343 * sqrt(12 / 72) = 0.957; over 10 runs 1.048."""
    ordered = np.array([[3.0, 2.0, 1.0]])
    assert statistics.average_ranks(scores(np.repeat(ordered, 12, axis=0))).cliques == ()
    assert statistics.average_ranks(scores(np.repeat(ordered, 10, axis=0))).cliques == (("a", "b"), ("b", "c"))


def test_lower_is_better_turns_the_ranks_around():
    found = statistics.average_ranks(scores([[1, 2], [1, 2], [1, 2]]), lower_is_better=True)
    assert found.rank.to_dict() == {"a": 1.0, "b": 2.0}


def test_two_methods_are_ranked_too():
    found = statistics.average_ranks(scores([[1, 2], [1, 2], [3, 2], [1, 2]]))
    assert found.rank.to_dict() == {"b": 1.25, "a": 1.75}
    assert found.critical_difference == pytest.approx(1.960 * np.sqrt(2 * 3 / (6 * 4)), abs=1e-3)
    assert found.friedman_p == pytest.approx(stats.chi2.sf(1.0, 1))


def test_settings_as_blocks_rank_the_means_over_runs():
    part = [scores([[1, 2], [5, 2]], setting="LFS-5"), scores([[1, 3], [1, 2]], setting="LFH-5")]
    found = statistics.average_ranks(pd.concat(part), blocks="setting")
    assert found.blocks == 2 and found.block_kind == "setting"
    assert found.rank.to_dict() == {"a": 1.5, "b": 1.5}  # means 3 > 2 on the first, 1 < 2.5 on the second


def test_only_complete_blocks_count_and_what_is_left_out_is_said():
    table = scores([[1, 2, 3, np.nan], [1, 2, 3, np.nan], [1, 2, 3, 9], [np.nan, np.nan, 3, np.nan]])
    found = statistics.average_ranks(table)
    assert found.left_out == ("d",) and (found.blocks, found.blocks_left_out) == (3, 1)
    for too_little in (scores([[1.0, 2.0]]), scores([[1.0], [2.0]]), table.iloc[:0]):
        with pytest.raises(UserError, match="two methods"):
            statistics.average_ranks(too_little)


def test_methods_that_are_all_alike_have_p_one():
    assert statistics.average_ranks(scores(np.ones((4, 3)))).friedman_p == 1.0


# --- variance


def test_variance_by_hand():
    """Two orders of two seeds, two methods; grand mean 4. Squares: method 8, order 32, seed 16, the rest 0."""
    found = statistics.variance_split(scores([[0, 2], [2, 4], [4, 6], [6, 8]], ["x", "x", "y", "y"]))
    assert found["df"].to_dict() == {"method": 1, "order": 1, "seed": 2, "method x order": 1, "rest": 2}
    shares = {"method": 8 / 48, "order": 32 / 48, "seed": 8 / 48, "method x order": 0, "rest": 0}
    assert found["share"].to_dict() == pytest.approx(shares)
    # sd of seed: mean square 8 / 2 over 2 methods; of order: (32 - 4) / (2 methods x 2 seeds); of method: 8 / 4 runs
    assert found["sd"].to_dict() == pytest.approx(
        {"method": np.sqrt(2), "order": np.sqrt(7), "seed": np.sqrt(2), "method x order": 0, "rest": 0}
    )


def test_shares_add_up_with_unlike_numbers_of_seeds():
    found = statistics.variance_split(scores(RNG.normal(size=(9, 3)), list("aaaabbbcc")))
    assert found["share"].sum() == pytest.approx(1) and (found["share"] >= 0).all()
    assert found["df"].sum() == 9 * 3 - 1


def test_variance_finds_the_parts_it_was_made_of():
    rng = np.random.default_rng(1)
    orders, seeds, methods = 60, 10, 4
    y = (
        rng.normal(0, 2.0, size=(orders, 1, 1))
        + rng.normal(0, 1.0, size=(orders, seeds, 1))
        + rng.normal(0, 0.5, size=(orders, seeds, methods))
        + np.array([0.0, 1.0, 2.0, 3.0])
    )
    found = statistics.variance_split(scores(y.reshape(-1, methods), np.repeat(range(orders), seeds).tolist()))["sd"]
    assert found["order"] == pytest.approx(2.0, rel=0.2) and found["seed"] == pytest.approx(1.0, rel=0.1)
    assert found["rest"] == pytest.approx(0.5, rel=0.1) and found["method x order"] < 0.1
    assert found["method"] == pytest.approx(np.std([0, 1, 2, 3], ddof=1), rel=0.05)


def test_a_part_without_degrees_of_freedom_has_no_sd():
    found = statistics.variance_split(scores([[1, 2], [3, 5]]))
    assert found.loc[["order", "method x order"], "sd"].isna().all() and found["share"].sum() == pytest.approx(1)
    found = statistics.variance_split(scores([[1, 2]]))
    assert found["share"].to_dict() == {"method": 1, "order": 0, "seed": 0, "method x order": 0, "rest": 0}
    with pytest.raises(UserError, match="two methods"):
        statistics.variance_split(scores([[1.0]]))
