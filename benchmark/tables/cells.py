"""Averages as the text of table cells: numbers, signs for missing ones, order of rows, bold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmark.metrics.catalogue import BOUNDS, LOWER_IS_BETTER, TITLES
from benchmark.results.pairs import PAIRS_FOR_BOLD, is_told_apart, paired_scores

if TYPE_CHECKING:
    import pandas as pd

EMPTY = "–"
Show = Callable[[float], str]


def percent(fraction: float) -> str:
    """0.4512 -> "45.12"; a missing value is a dash."""
    if fraction != fraction:
        return EMPTY
    shown = f"{100 * fraction:.2f}"
    return "0.00" if shown == "-0.00" else shown


def count(number: float) -> str:
    """A number of things: "325", or "325.7" for a mean that is not whole."""
    return EMPTY if number != number else f"{number:.1f}".removesuffix(".0")


def lower_is_better(summary: pd.DataFrame, metric: str) -> bool:
    """Whether the best row of a metric is the lowest."""
    return metric in LOWER_IS_BETTER or metric in summary.attrs.get("lower_is_better", ())


def title(summary: pd.DataFrame, metric: str) -> str:
    """What a metric is, in words."""
    titles = {**summary.attrs.get("titles", {}), **TITLES}
    return titles.get(metric, metric.replace("_", " ").capitalize()) + (f" ({metric})" if metric in titles else "")


def pivot(found: pd.DataFrame, methods: list[str], show: Show = percent) -> pd.DataFrame:
    """Cells as text, methods by settings."""
    numbers = found[["mean", "sd", "n", "done", "expected", "failed"]].itertuples(index=False, name=None)
    table = found.assign(cell=[_cell(show, *row) for row in numbers])
    table = table.pivot(index="method", columns="setting", values="cell")
    table = table.reindex(index=methods, columns=list(dict.fromkeys(found["setting"])))
    table.columns.name = None
    return table


def row_order(found: pd.DataFrame, order: Sequence[str], ascending: bool, column: str = "setting") -> list[str]:
    """Methods by the place of their strategy in `order`, then by their mean, best first; ties by name.

    Averaged is what a cell is above the mean of its column: a method with runs in a hard setting more is no worse.
    """
    above = found["mean"] - found.groupby(column)["mean"].transform("mean")
    means = above.groupby(found["method"]).mean()
    strategy = dict(zip(found["method"], found["strategy"], strict=True))

    def key(method: str) -> tuple[int, bool, float, str]:
        mean = float(means[method])
        place = list(order).index(strategy[method]) if strategy[method] in order else len(order)
        return place, mean != mean, 0.0 if mean != mean else mean if ascending else -mean, method

    return sorted(strategy, key=key)


def bold_cells(summary: pd.DataFrame, found: pd.DataFrame, metric: str) -> list[tuple[str, str]]:
    """(method, setting) of every best cell that at least 5 pairs set apart from the runner-up; see `results.pairs`.

    Methods of `BOUNDS` do not take part.
    """
    competing = found[~found["strategy"].isin(BOUNDS) & (found["n"] >= PAIRS_FOR_BOLD)]
    if competing.empty:
        return []
    scores = paired_scores(summary, metric)
    lower = lower_is_better(summary, metric)
    bold = []
    for setting in dict.fromkeys(competing["setting"]):
        part = found[(found["setting"] == setting) & (found["n"] > 0) & ~found["strategy"].isin(BOUNDS)]
        best = part.sort_values("mean", ascending=lower, kind="stable")["method"].tolist()[:2]
        if len(best) == 2 and is_told_apart(scores.loc[[setting]], best[0], best[1], lower):
            bold.append((best[0], setting))
    return bold


def _cell(show: Show, mean: float, sd: float, n: int, done: int, expected: int, failed: int) -> str:
    value = EMPTY if n == 0 else f"{show(mean)} ± {show(sd)}" if n > 1 else show(mean)
    if done == expected:
        return value
    return f"{value} ({done}/{expected}{f', {failed} failed' if failed else ''})"
