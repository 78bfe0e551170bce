"""Cells of a table: the runs of one method in one setting, their mean and standard deviation, as numbers and text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmark import grouping, last_batch
from benchmark.errors import UserError, did_you_mean
from benchmark.grouping import label_rows
from benchmark.metrics import GROUPS
from benchmark.metrics_multilabel import LABELS, THRESHOLDS
from benchmark.pairs import PAIRS_FOR_BOLD, is_told_apart, paired_scores
from benchmark.summary import IDENTITY, PROTOCOL

if TYPE_CHECKING:
    import pandas as pd

SEEN = "accuracy on all test images of seen classes"
TASKS = "unweighted mean over experiences of their test accuracy"
CLASS_MEAN = "mean of the per-class recalls of seen classes"
MAP = "mean over seen classes of average precision on test images that show one of them"
AVERAGE, LAST = "mean over experiences, base included, of the", "after the last experience,"
TITLES = {
    "average_accuracy_seen": f"Average incremental accuracy (seen): {AVERAGE} {SEEN}",
    "average_accuracy_tasks": f"Average incremental accuracy (tasks): {AVERAGE} {TASKS}",
    "average_accuracy_class_mean": f"Average incremental accuracy (class mean): {AVERAGE} {CLASS_MEAN}",
    "last_accuracy_seen": f"Last accuracy (seen): {LAST} {SEEN}",
    "last_accuracy_tasks": f"Last accuracy (tasks): {LAST} {TASKS}",
    "last_accuracy_class_mean": f"Last accuracy (class mean): {LAST} {CLASS_MEAN}",
    "forgetting": f"Forgetting: {LAST} mean over old experiences of best minus current accuracy; lower is better",
    "backward_transfer": f"Backward transfer: {LAST} mean over old experiences of current minus first accuracy",
    "average_map": f"Average mAP: {AVERAGE} {MAP}",
    "last_map": f"Last mAP: {LAST} {MAP}",
    **{
        f"{name}_at_{threshold}": text.format(LAST, threshold)
        for threshold in THRESHOLDS
        for name, text in {
            "cf1": "CF1: {} mean over seen classes of F1, positive above {}",
            "cf1_of_means": "CF1 of means: {} F1 of mean precision and recall over seen classes, positive above {}",
            "of1": "OF1: {} F1 of all images and seen classes, positive above {}",
            "fpr": "False-positive rate: {} share of absent seen classes predicted above {}; lower is better",
            "memory_fpr": "False-positive rate on exemplars: {} share of absent seen classes predicted above {}; lower "
            "is better",
        }.items()
    },
}
LOWER_IS_BETTER = (
    "forgetting",
    *(f"{group}_forgetting" for group in GROUPS),
    *(f"{name}_at_{threshold}" for name in ("fpr", "memory_fpr") for threshold in THRESHOLDS),
    *(name for name in LABELS if "fpr" in name or "fnr" in name),
)
# They keep all data or know all labels, so they neither win a column nor are its runner-up.
BOUNDS = ("joint", "joint_bsce", "ml_joint", "ml_oracle")
EMPTY = "–"
TRIALS = "Trials of imcil tune: their test images are images held out of training, not the test set."
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


def metric_names(summary: pd.DataFrame) -> list[str]:
    """The columns of a summary that hold figures."""
    return [column for column in summary.columns if column not in (*IDENTITY, *PROTOCOL)]


def cells(summary: pd.DataFrame, metric: str = "average_accuracy_seen") -> pd.DataFrame:
    """One row per method and setting: method, strategy, setting, mean, sd, n, done, expected, failed; fractions.

    `summary` is as from `benchmark.summary`; `metric` one of its columns of figures, or memory_held; sd divides by
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
        for setting in grouping.setting_order(rows):
            done = rows[(rows["method"] == method) & (rows["setting"] == setting) & (rows["status"] == "done")]
            grouping.check_comparable(done, method, setting)
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
    """(method, setting) of every best cell that at least 5 pairs set apart from the runner-up; see `benchmark.pairs`.

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


def competitors(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows that are ranked: one classifier a method, see `grouping.own_rows`, and no bound."""
    kept = grouping.own_rows(summary)
    kept = kept[~kept["strategy"].isin(BOUNDS)]
    kept.attrs = summary.attrs
    return kept


def notes(summary: pd.DataFrame, found: pd.DataFrame, bold: bool = False) -> list[str]:
    """What stands under a table: the averaging, what bold means, what is missing, the protocol."""
    rows = label_rows(summary)
    begun = found[found["n"] > 0]
    complete = begun[begun["done"] == begun["expected"]]  # the others say their number in the cell
    counts = sorted(set((complete if len(complete) else begun)["n"])) or [0]
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    lines = [f"Mean ± standard deviation (n - 1) over n = {n} seeds ({grouping.seeds_note(rows)})."]
    if n in ("0", "1"):
        lines = ["One run a cell: no standard deviation." if n == "1" else "No run is finished."]
    if bold:
        lines.append(
            "Bold: the best of a column where the 95 % interval of its paired difference to the runner-up excludes 0 "
            f"(at least {PAIRS_FOR_BOLD} pairs); joint training is no competitor."
        )
    if (found["done"] < found["expected"]).any():
        lines.append("(a/b): a of the b runs of this cell are finished.")
    lines += _fewer(complete)
    return [*lines, *about(summary)]


def _fewer(found: pd.DataFrame) -> list[str]:
    """Which methods have fewer seeds than the others of their setting: their means are over other streams."""
    short = found[found["n"] < found.groupby("setting")["n"].transform("max")]
    told = [f"{n}: {', '.join(sorted(set(part['method'])))}" for n, part in short.groupby("n")]
    if not told:
        return []
    return [f"Fewer seeds than others of their column, to be compared by paired differences ({'; '.join(told)})."]


def about(summary: pd.DataFrame) -> list[str]:
    """What holds for every table of these results: folders that could not be read, and the protocol."""
    damaged = sorted(set(summary.loc[summary["status"] == "damaged", "run"]))
    lines = []
    if damaged:
        more = ", …" if len(damaged) > 3 else ""
        lines.append(
            f"{len(damaged)} run folder{'s' * (len(damaged) > 1)} could not be read: {', '.join(damaged[:3])}{more}."
        )
    if summary.attrs.get("where"):
        lines.append(f"Only runs with {' and '.join(summary.attrs['where'])}.")
    lines += trials(summary)
    rows = label_rows(summary)
    lines += [_unlike(rows, c) for c in grouping.RESOLVED if rows.groupby("setting")[c].nunique().max() > 1]
    protocol = grouping.protocol_notes(rows)
    classifier = "Classifier: the network's head, unless the method names another."
    return [*lines, *protocol, classifier, *last_batch.note(summary)]


def _unlike(rows: pd.DataFrame, column: str) -> str:
    """Which methods ran with what, the most frequent last and without their names; with the setting if it depends."""
    rows = rows.dropna(subset=[column])
    one = rows.groupby("method")[column].nunique().eq(1)[rows["method"]].to_numpy()
    names = rows["method"].where(one, rows["method"] + " " + rows["setting"])
    methods = names.groupby(rows[column]).unique().map(sorted)
    *named, usual = sorted(methods.items(), key=lambda item: (len(item[1]), item[0]))
    told = "; ".join(f"{value}: {', '.join(among)}" for value, among in named)
    return f"Unlike {column} may be part of a difference ({told}; all others: {usual[0]})."


def trials(frame: pd.DataFrame) -> list[str]:
    """What is said of a summary or curves frame with trials in it, [] of any other."""
    return [TRIALS] if frame.attrs.get("held_out") else []


def _cell(show: Show, mean: float, sd: float, n: int, done: int, expected: int, failed: int) -> str:
    value = EMPTY if n == 0 else f"{show(mean)} ± {show(sd)}" if n > 1 else show(mean)
    if done == expected:
        return value
    return f"{value} ({done}/{expected}{f', {failed} failed' if failed else ''})"
