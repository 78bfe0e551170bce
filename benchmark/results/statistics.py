"""Intervals, tests, ranks and the split of variance: functions of paired numbers. numpy, scipy, pandas.

Two factors are random, and stay apart: the class order, and the seeds within it (subset, rank assignment, training),
because runs that share an order are more alike than runs that do not. `results.pairs` makes the pairs from results.

References: sign-flip test, Fisher 1935; Wilcoxon 1945; Holm 1979; critical difference, Demšar, JMLR 2006; interquartile
mean, Agarwal et al., NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from benchmark.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]

LEVEL = 0.95  # of every interval
ALPHA = 0.05  # of every test
PAIRS_FOR_BOOTSTRAP, ORDERS_FOR_BOOTSTRAP, SEEDS_FOR_BOOTSTRAP = 10, 3, 5
EXACT_PAIRS = 30  # up to here the sign-flip test counts every assignment of signs
RESAMPLES = 10_000
PAIRED_T, BOOTSTRAP = "paired t", "bootstrap (orders, then seeds)"


@dataclass(frozen=True)
class Interval:
    """low..high contains the mean difference with probability `LEVEL`; nan where a single pair gives none."""

    low: float
    high: float
    kind: str

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class SignificanceTest:
    """Two-sided p of "no difference", and the smallest p that this number of pairs can give at all."""

    kind: str
    pairs: int
    p: float
    smallest_p: float


@dataclass(frozen=True)
class Ranks:
    """Average ranks over blocks, 1 = best, and the Nemenyi critical difference at `ALPHA`.

    `rank` and `interquartile_mean` are indexed by method, best rank first. Two methods whose ranks differ by less than
    `critical_difference` are not told apart; `cliques` lists the maximal runs of such methods (two or more): the bars
    of the diagram. `friedman_p` tests that all methods are alike. `left_out` names methods and `blocks_left_out` counts
    blocks that lack values.
    """

    rank: pd.Series
    interquartile_mean: pd.Series
    critical_difference: float
    friedman_p: float
    blocks: int
    block_kind: str
    cliques: tuple[tuple[str, ...], ...]
    left_out: tuple[str, ...]
    blocks_left_out: int


# --- intervals and tests ----------------------------------------------------------------------------------------------


def mean_interval(differences: npt.ArrayLike, orders: Sequence[Hashable], seed: int = 0) -> Interval:
    """Interval of the mean of paired differences, one per run, with the class order of each.

    From 10 pairs on, with at least 3 orders of at least 5 seeds each: percentile bootstrap over orders, then over seeds
    within an order (deterministic by `seed`). Otherwise paired t, which takes pairs as independent.
    """
    from scipy import stats

    d = np.asarray(differences, dtype=np.float64)
    by_order = _split(d, orders)
    smallest = min((len(part) for part in by_order), default=0)
    if len(d) >= PAIRS_FOR_BOOTSTRAP and len(by_order) >= ORDERS_FOR_BOOTSTRAP and smallest >= SEEDS_FOR_BOOTSTRAP:
        low, high = np.quantile(_bootstrap_means(by_order, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(float(low), float(high), BOOTSTRAP)
    if len(d) < 2:
        return Interval(float("nan"), float("nan"), PAIRED_T)
    half = stats.t.ppf((1 + LEVEL) / 2, len(d) - 1) * standard_error(d)
    return Interval(float(d.mean() - half), float(d.mean() + half), PAIRED_T)


def standard_deviation(values: npt.ArrayLike) -> float:
    """Sample standard deviation (n - 1); nan for fewer than two values."""
    v = np.asarray(values, dtype=np.float64)
    return float(v.std(ddof=1)) if len(v) > 1 else float("nan")


def standard_error(values: npt.ArrayLike) -> float:
    """Standard error of the mean: standard deviation (n - 1) / sqrt(n)."""
    return standard_deviation(values) / float(np.sqrt(len(np.asarray(values))))


def paired_test(differences: npt.ArrayLike) -> SignificanceTest:
    """Two-sided test that paired differences are symmetric around 0.

    Up to 30 non-zero differences: sign-flip test of the mean, every one of the 2^n assignments counted, so that its
    smallest p is 2 / 2^n. Beyond: Wilcoxon's signed ranks.
    """
    from scipy import stats

    d = np.asarray(differences, dtype=np.float64)
    nonzero = np.abs(d[d != 0])
    if len(nonzero) == 0:
        return SignificanceTest("sign-flip", len(d), 1.0, 1.0)
    if len(nonzero) > EXACT_PAIRS:
        smallest = float(stats.wilcoxon(nonzero).pvalue)
        return SignificanceTest("Wilcoxon", len(d), float(stats.wilcoxon(d).pvalue), smallest)
    # Sums of all sign assignments in two halves: for each of the first, count the second that reach the observed sum.
    observed = abs(float(d.sum()))
    tolerance = 1e-9 * float(nonzero.sum())  # sums that are equal but for rounding are equal
    half = len(nonzero) // 2
    first, second = _signed_sums(nonzero[:half]), np.sort(_signed_sums(nonzero[half:]))
    above = len(second) - np.searchsorted(second, observed - tolerance - first)
    below = np.searchsorted(second, -observed + tolerance - first, side="right")
    total = 2.0 ** len(nonzero)
    p = min(1.0, float(above.sum() + below.sum()) / total)
    return SignificanceTest("sign-flip", len(d), p, 2.0 / total)


def holm(p_values: npt.ArrayLike) -> FloatArray:
    """Holm's adjusted p-values, in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


# --- many methods at once ---------------------------------------------------------------------------------------------


def interquartile_mean(values: npt.ArrayLike) -> float:
    """Mean of the middle half: the lowest and highest floor(n / 4) values are left out; nan without values."""
    from scipy import stats

    v = np.asarray(values, dtype=np.float64)
    return float(stats.trim_mean(v, 0.25)) if len(v) else float("nan")


def average_ranks(scores: pd.DataFrame, lower_is_better: bool = False, blocks: str = "run") -> Ranks:
    """Rank the methods in every block, average, and say how far apart two average ranks must be.

    Parameters: `scores` as from `results.pairs.paired_scores`; `blocks`, "run": every (setting, order, seed) is a
    block, which speaks about these settings; "setting": means over runs, one block per setting, which speaks about
    settings like these (Demšar) and needs many. Only complete blocks count: the emptiest method or block goes first.

    Raises
    ------
    UserError : fewer than two methods or blocks are complete.
    """
    import pandas as pd
    from scipy import stats

    table = scores if blocks == "run" else scores.groupby(level="setting", sort=False).mean()
    complete = _complete(table)
    methods, number = list(complete.columns), len(complete)
    if len(methods) < 2 or number < 2:
        raise UserError("Average ranks need at least two methods that both finished the same two runs.")
    ranked = complete.rank(axis=1, ascending=lower_is_better)
    rank = ranked.mean().sort_values(kind="stable")
    k = len(methods)
    q = float(stats.studentized_range.ppf(1 - ALPHA, k, np.inf)) / np.sqrt(2)
    return Ranks(
        rank=rank,
        interquartile_mean=pd.Series({name: interquartile_mean(complete[name]) for name in rank.index}),
        critical_difference=float(q * np.sqrt(k * (k + 1) / (6 * number))),
        friedman_p=_friedman_p(ranked.to_numpy()),
        blocks=number,
        block_kind="(setting, order, seed)" if blocks == "run" else "setting",
        cliques=_cliques(rank, float(q * np.sqrt(k * (k + 1) / (6 * number)))),
        left_out=tuple(name for name in scores.columns if name not in methods),
        blocks_left_out=len(table) - number,
    )


def variance_split(scores: pd.DataFrame) -> pd.DataFrame:
    """What the results of one setting vary with: method, order, seed (within an order), method x order, and the rest.

    `scores` as from `results.pairs.paired_scores`, of one setting; methods or (order, seed) pairs with gaps are left
    out. One row per source, with df, share (of the total sum of squares; shares add up to 1) and sd (of that source
    alone, by the method of moments: 0 where noise explains all of it, nan without degrees of freedom). With one seed
    per order, "order" holds both.
    """
    import pandas as pd

    complete = _complete(scores)
    y = complete.to_numpy()
    parts = _split(y, list(complete.index.get_level_values("order")))
    n, m, o = len(y), y.shape[1] if y.ndim == 2 else 0, len(parts)
    if n == 0 or m < 2:
        raise UserError("A split of variance needs at least two methods that finished the same run.")
    grand, method_means, pair_means = y.mean(), y.mean(axis=0), y.mean(axis=1)
    sizes = np.array([len(part) for part in parts])
    order_means = np.array([part.mean() for part in parts])
    cell_means = np.array([part.mean(axis=0) for part in parts])  # (orders, methods)
    squares = {
        "method": n * ((method_means - grand) ** 2).sum(),
        "order": m * (sizes * (order_means - grand) ** 2).sum(),
        "seed": m * ((pair_means - grand) ** 2).sum() - m * (sizes * (order_means - grand) ** 2).sum(),
        "method x order": (sizes[:, None] * (cell_means - method_means - order_means[:, None] + grand) ** 2).sum(),
    }
    total = ((y - grand) ** 2).sum()
    squares["rest"] = total - sum(squares.values())
    df = {"method": m - 1, "order": o - 1, "seed": n - o, "method x order": (m - 1) * (o - 1)}
    df["rest"] = (m - 1) * (n - o)
    mean_square = {name: squares[name] / df[name] if df[name] else float("nan") for name in df}
    # Expected mean squares of the nested layout; per_order is the effective number of seeds of an order.
    per_order = (n - (sizes**2).sum() / n) / (o - 1) if o > 1 else float("nan")
    rest, interaction = mean_square["rest"], mean_square["method x order"]
    noise = rest if df["rest"] else 0.0
    variance = {
        "method": (mean_square["method"] - (interaction if df["method x order"] else noise)) / n,
        "order": (mean_square["order"] - (mean_square["seed"] if df["seed"] else 0.0)) / (m * per_order),
        "seed": (mean_square["seed"] - noise) / m,
        "method x order": (interaction - noise) / per_order,
        "rest": rest,
    }
    return pd.DataFrame(
        {
            "df": pd.Series(df),
            "share": pd.Series(
                {name: max(0.0, value) / total if total > 0 else np.nan for name, value in squares.items()}
            ),
            "sd": pd.Series({name: np.sqrt(max(0.0, v)) if v == v else np.nan for name, v in variance.items()}),
        }
    )


# --- details ----------------------------------------------------------------------------------------------------------


def _split(values: FloatArray, orders: Sequence[Hashable]) -> list[FloatArray]:
    """The values of each order, in the order of first appearance."""
    names = list(dict.fromkeys(orders))
    place = np.array([names.index(order) for order in orders], dtype=np.int64)
    return [values[place == i] for i in range(len(names))]


def _bootstrap_means(by_order: Sequence[FloatArray], seed: int) -> FloatArray:
    """Means of resampled data: orders with replacement, then pairs of each drawn order with replacement."""
    rng = np.random.default_rng(seed)
    number = len(by_order)
    drawn = rng.integers(number, size=(RESAMPLES, number))
    sums, counts = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for i, part in enumerate(by_order):
        resampled = part[rng.integers(len(part), size=(RESAMPLES, number, len(part)))].sum(axis=2)
        chosen = drawn == i
        sums += (resampled * chosen).sum(axis=1)
        counts += chosen.sum(axis=1) * len(part)
    return sums / counts


def _signed_sums(values: FloatArray) -> FloatArray:
    """The 2^n sums of `values` under every assignment of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _complete(table: pd.DataFrame) -> pd.DataFrame:
    """Without gaps: the column or row with the largest share of them goes first, until none is left."""
    table = table.dropna(axis=1, how="all")
    while table.isna().to_numpy().any():
        columns, rows = table.isna().mean(), table.isna().mean(axis=1)
        table = table.drop(columns=columns.idxmax()) if columns.max() >= rows.max() else table.drop(index=rows.idxmax())
    return table


def _friedman_p(ranked: FloatArray) -> float:
    """Friedman's chi-squared p, corrected for ties (scipy's own function wants three methods; this form takes two)."""
    from scipy import stats

    n, k = ranked.shape
    spread = ((ranked - (k + 1) / 2) ** 2).sum()
    if spread == 0:
        return 1.0
    statistic = (k - 1) * ((ranked.sum(axis=0) - n * (k + 1) / 2) ** 2).sum() / spread
    return float(stats.chi2.sf(statistic, k - 1))


def _cliques(rank: pd.Series, critical_difference: float) -> tuple[tuple[str, ...], ...]:
    """Maximal runs of two or more methods, sorted by rank, whose first and last are closer than the difference."""
    names, values = [str(name) for name in rank.index], rank.to_numpy()
    found: list[tuple[str, ...]] = []
    reached = 0
    for i in range(len(names)):
        end = int(np.searchsorted(values, values[i] + critical_difference))
        if end > max(reached, i + 1):
            found.append(tuple(names[i:end]))
            reached = end
    return tuple(found)
