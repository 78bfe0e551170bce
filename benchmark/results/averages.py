"""Averages: the runs of one method in one setting, their mean and standard deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError, did_you_mean
from benchmark.metrics.catalogue import BOUNDS
from benchmark.results import labels
from benchmark.results.labels import label_rows
from benchmark.results.summary import IDENTITY, PROTOCOL

if TYPE_CHECKING:
    import pandas as pd


def metric_names(summary: pd.DataFrame) -> list[str]:
    """The columns of a summary that hold figures."""
    return [column for column in summary.columns if column not in (*IDENTITY, *PROTOCOL)]


def cells(summary: pd.DataFrame, metric: str = "average_accuracy_seen") -> pd.DataFrame:
    """One row per method and setting: method, strategy, setting, mean, sd, n, done, expected, failed; fractions.

    `summary` is as from `results.summary`; `metric` one of its columns of figures, or memory_held; sd divides by
    n - 1; `expected` counts the runs of any status.
    Raises UserError on an unknown metric, on runs of one cell with unlike precision or compile, or with equal seeds.
    """
    import pandas as pd

    metrics = metric_names(summary)
    if metric not in (*metrics, "memory_held"):
        raise UserError(f'There is no metric "{metric}" in these results.{did_you_mean(metric, metrics)}')
    rows = label_rows(summary)
    runs = rows.drop_duplicates("run")
    started = runs.groupby(["base", "setting"])["run"].count()
    failed = runs[runs["status"] == "failed"].groupby(["base", "setting"])["run"].count()
    finished = runs[runs["status"] == "done"].groupby(["base", "setting"])["run"].count()
    has_row = set(rows.loc[rows["classifier"].notna(), "base"])
    methods = rows[rows["classifier"].notna() | ~rows["base"].isin(has_row)].drop_duplicates("method")

    found: list[dict[str, Any]] = []
    for method, base, strategy in methods[["method", "base", "strategy"]].itertuples(index=False, name=None):
        for setting in labels.setting_order(rows):
            done = rows[(rows["method"] == method) & (rows["setting"] == setting) & (rows["status"] == "done")]
            labels.check_comparable(done, method, setting)
            values = done[metric].dropna().astype(float)
            key = (base, setting)
            found.append(
                {
                    "method": method,
                    "strategy": strategy,
                    "setting": setting,
                    "mean": values.mean() if len(values) else float("nan"),
                    "sd": values.std(ddof=1) if len(values) > 1 else float("nan"),
                    "n": len(values),
                    "done": int(finished.get(key, 0)),
                    "expected": int(started.get(key, 0)),
                    "failed": int(failed.get(key, 0)),
                }
            )
    columns = ["method", "strategy", "setting", "mean", "sd", "n", "done", "expected", "failed"]
    return pd.DataFrame(found, columns=columns)


def competitors(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows that are ranked: one classifier a method, see `grouping.own_rows`, and no bound."""
    kept = labels.own_rows(summary)
    kept = kept[~kept["strategy"].isin(BOUNDS)]
    kept.attrs = summary.attrs
    return kept
