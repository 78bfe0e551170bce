"""summary.csv -> tables of methods by settings: mean ± standard deviation over seeds, in percent.

Every table says what it averages, over how many runs, and under which protocol. A cell of a sweep that is not finished
shows how many of its runs it holds; nothing is averaged over runs that differ in more than their seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import grouping
from benchmark.errors import UserError, did_you_mean
from benchmark.grouping import label_rows
from benchmark.markup import to_latex, to_markdown
from benchmark.store import write_text
from benchmark.summary import IDENTITY, PROTOCOL, summarise

if TYPE_CHECKING:
    import pandas as pd

SEEN = "accuracy on all test images of seen classes"
TASKS = "unweighted mean over experiences of their test accuracy"
CLASS_MEAN = "mean of the per-class recalls of seen classes"
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
}
LOWER_IS_BETTER = ("forgetting",)
WRITTEN = ("average_accuracy_seen", "last_accuracy_seen", "forgetting")
WRITTEN_MULTI = ("average_map", "last_map")
GROUPS = ("many", "medium", "few")
EMPTY = "–"


def cells(
    summary: pd.DataFrame,
    metric: str = "average_accuracy_seen",
) -> pd.DataFrame:
    """One row per method and setting: method, strategy, setting, mean, sd, n, done, expected, failed; fractions.

    `summary` is as from `benchmark.summary`; sd divides by n - 1; `expected` counts the runs of any status.
    Raises UserError on an unknown metric, on runs of one cell with unlike precision or compile, or with equal seeds.
    """
    import pandas as pd

    metrics = [column for column in summary.columns if column not in (*IDENTITY, *PROTOCOL)]
    if metric not in metrics:
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


def main_table(
    summary: pd.DataFrame,
    metric: str = "average_accuracy_seen",
    *,
    order: Sequence[str] = (),
) -> pd.DataFrame:
    """Methods x settings as text, "45.12 ± 0.31" in percent; "(2/3)" follows where runs of the cell are missing.

    Rows follow `order` (strategy names), then the mean over settings, best first. `.attrs` holds "title" and "notes",
    the lines to print under the table. Parameters and errors as for `cells`.
    """
    found = cells(summary, metric)
    table = _pivot(found, _row_order(found, order, ascending=metric in LOWER_IS_BETTER))
    table.attrs = {"title": f"{_title(metric)}. In percent.", "notes": _notes(summary, found)}
    return table


def groups_table(
    summary: pd.DataFrame,
    *,
    order: Sequence[str] = (),
) -> pd.DataFrame:
    """Methods x (setting, many | medium | few): last-step accuracy of each group of classes; else as `main_table`."""
    import pandas as pd

    found = {name: cells(summary, f"{name}_accuracy") for name in GROUPS}
    overall = cells(summary, "last_accuracy_class_mean")
    methods = _row_order(overall, order, ascending=False)
    parts = {name: _pivot(part, methods) for name, part in found.items()}
    settings = list(parts["many"].columns)
    table = pd.concat([parts[name][setting] for setting in settings for name in GROUPS], axis=1)
    table.columns = pd.MultiIndex.from_product([settings, GROUPS], names=["setting", "group"])
    table.attrs = {
        "title": f"Accuracy of many-, medium- and few-shot classes: {LAST} {CLASS_MEAN}, by group. In percent.",
        "notes": [
            "Groups by training images of the profile before hold-out; by default many > 100, medium 20-100, few < 20.",
            *_notes(summary, overall),
        ],
    }
    return table


def load_table(directory: str | Path, metric: str = "average_accuracy_seen", order: Sequence[str] = ()) -> pd.DataFrame:
    """The printed table of one metric, or of "groups", straight from the run folders of DIR."""
    summary, _ = summarise(directory)
    return groups_table(summary, order=order) if metric == "groups" else main_table(summary, metric, order=order)


def write_all_tables(directory: str | Path, summary: pd.DataFrame, order: Sequence[str] = ()) -> list[Path]:
    """Write the comparison of three metrics, and of groups, to DIR/tables/<name>.csv, .md and .tex; returns the paths.

    The CSV files hold numbers, one row per cell (`cells`); the others the printed table. Multi-label results give
    average_map and last_map instead.
    """
    import pandas as pd

    folder = Path(directory) / "tables"
    written: list[Path] = []

    def write(name: str, numbers: pd.DataFrame, table: pd.DataFrame) -> None:
        written.extend(folder / f"{name}.{suffix}" for suffix in ("csv", "md", "tex"))
        contents = (numbers.to_csv(index=False, lineterminator="\n"), to_markdown(table), to_latex(table, name))
        for path, content in zip(written[-3:], contents, strict=True):
            write_text(path, content)

    for kind in sorted(set(summary["task_kind"].dropna()) or {"single"}):
        part = summary[summary["task_kind"] == kind]
        for metric in WRITTEN if kind == "single" else WRITTEN_MULTI:
            if metric in part.columns:
                write(metric, cells(part, metric), main_table(part, metric, order=order))
        if kind == "single":
            numbers = [cells(part, f"{name}_accuracy").assign(group=name) for name in GROUPS]
            write("groups", pd.concat(numbers, ignore_index=True), groups_table(part, order=order))
    return written


def print_table(table: pd.DataFrame) -> None:
    """Show a table in the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table()
    shown.add_column("method", no_wrap=True)
    for column in table.columns:
        shown.add_column(Text(" ".join(column) if isinstance(column, tuple) else str(column)), justify="right")
    for name, row in zip(table.index, table.to_numpy().tolist(), strict=True):
        shown.add_row(Text(str(name)), *(Text(cell) for cell in row))
    console = Console()
    console.print(Text(table.attrs["title"], style="bold"), shown, Text("\n".join(table.attrs["notes"])), sep="\n")


def print_main_table(directory: str | Path, summary: pd.DataFrame) -> None:
    """Show the main comparison in the terminal, and where the tables are."""
    print_table(main_table(summary))
    print(f"All tables: {Path(directory) / 'tables'}")


def _pivot(found: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """Cells as text, methods by settings."""
    numbers = found[["mean", "sd", "n", "done", "expected", "failed"]].itertuples(index=False, name=None)
    table = found.assign(cell=[_cell(*row) for row in numbers]).pivot(index="method", columns="setting", values="cell")
    table = table.reindex(index=methods, columns=list(dict.fromkeys(found["setting"])))
    table.columns.name = None
    return table


def _cell(mean: float, sd: float, n: int, done: int, expected: int, failed: int) -> str:
    value = EMPTY if n == 0 else f"{_percent(mean)} ± {_percent(sd)}" if n > 1 else _percent(mean)
    if done == expected:
        return value
    return f"{value} ({done}/{expected}{f', {failed} failed' if failed else ''})"


def _percent(fraction: float) -> str:
    shown = f"{100 * fraction:.2f}"
    return "0.00" if shown == "-0.00" else shown


def _row_order(found: pd.DataFrame, order: Sequence[str], ascending: bool) -> list[str]:
    """Methods by the place of their strategy in `order`, then by mean over settings, best first; ties by name."""
    means = found.groupby("method")["mean"].mean()
    strategy = dict(zip(found["method"], found["strategy"], strict=True))

    def key(method: str) -> tuple[int, bool, float, str]:
        mean = float(means[method])
        place = list(order).index(strategy[method]) if strategy[method] in order else len(order)
        return place, mean != mean, 0.0 if mean != mean else mean if ascending else -mean, method

    return sorted(strategy, key=key)


def _title(metric: str) -> str:
    return TITLES.get(metric, metric.replace("_", " ").capitalize()) + (f" ({metric})" if metric in TITLES else "")


def _notes(summary: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """What stands under a table: the averaging, what is missing, the protocol."""
    rows = label_rows(summary)
    complete = found[(found["done"] == found["expected"]) & (found["n"] > 0)]
    counts = sorted(set(complete["n"])) or [0]
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    notes = [f"Mean ± standard deviation (n - 1) over n = {n} seeds ({grouping.seeds_note(rows)})."]
    if (found["done"] < found["expected"]).any():
        notes.append("(a/b): a of the b runs of this cell are finished.")
    damaged = sorted(set(summary.loc[summary["status"] == "damaged", "run"]))
    if damaged:
        notes.append(
            f"{len(damaged)} run folder{'s' * (len(damaged) > 1)} could not be read: {', '.join(damaged[:3])}."
        )
    return [*notes, *grouping.protocol_notes(rows), "Classifier: the network's head, unless the method names another."]
