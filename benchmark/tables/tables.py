"""summary.csv -> tables for a paper: mean ± standard deviation over seeds, in percent; differences; ranks.

Every table says what it averages, over how many runs, and under which protocol. A cell of a sweep that is not finished
shows how many of its runs it holds; nothing is averaged over runs that differ in more than their seeds. Each function
gives a pandas DataFrame of text whose `.attrs` hold "title", "notes" (the lines to print under it) and "bold" (cells);
`benchmark.tables.render` makes Markdown and LaTeX of it, `cells` the numbers behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import UserError, did_you_mean
from benchmark.metrics.catalogue import AVERAGE, CLASS_MEAN, LAST, SEEN, WRITTEN, WRITTEN_MULTI
from benchmark.metrics.single_label import GROUPS, group_forgetting
from benchmark.results.averages import cells, metric_names
from benchmark.results.filters import select
from benchmark.results.summary import all_runs, summarise_runs
from benchmark.results.user_metrics import Metric, NotKept, RunData, load_metric, with_columns, with_metric
from benchmark.storage.files import unlinked, write_text
from benchmark.storage.text import to_csv
from benchmark.tables import comparisons, costs, multilabel
from benchmark.tables.cells import bold_cells, count, lower_is_better, pivot, row_order, title
from benchmark.tables.notes import notes
from benchmark.tables.render import print_table, to_latex, to_markdown
from benchmark.tables.side_by_side import GROUPS_NOTE, side_by_side

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.tables.side_by_side import Built


def default_metric(summary: pd.DataFrame) -> str:
    """What a table shows unless told otherwise: average mAP where every run is multi-label, else average accuracy."""
    return WRITTEN_MULTI[0] if set(summary["task_kind"].dropna()) == {"multi"} else WRITTEN[0]


def main_table(
    summary: pd.DataFrame,
    metric: str | Metric | None = None,
    *,
    order: Sequence[str] = (),
) -> pd.DataFrame:
    """Methods x settings as text, "45.12 ± 0.31" in percent; "(2/3)" follows where runs of the cell are missing.

    `metric` is a column of the summary, a function of a run (`user_metrics`), or None for the default. Rows follow
    `order` (strategy names), then `cells.row_order`, best first. Raises UserError as `cells` and
    `rundata.with_metric` do.
    """
    return _main(summary, metric, order)[1]


def groups_table(summary: pd.DataFrame, *, order: Sequence[str] = ()) -> pd.DataFrame:
    """Methods x (setting, many | medium | few): last-step accuracy of each group of classes; else as `main_table`."""
    return _groups(summary, order)[1]


def group_forgetting_table(summary: pd.DataFrame, *, order: Sequence[str] = ()) -> pd.DataFrame:
    """Methods x (setting, many | medium | few): forgetting of each group; dashes for runs without metrics.jsonl."""
    return _group_forgetting(summary, order)[1]


def old_new_table(summary: pd.DataFrame, *, order: Sequence[str] = ()) -> pd.DataFrame:
    """Methods x (setting, old | new): last-step accuracy on classes of earlier experiences and of the last one."""
    return _old_new(summary, order)[1]


def class_mean_table(summary: pd.DataFrame, *, order: Sequence[str] = ()) -> pd.DataFrame:
    """Methods x (setting, images | classes): plain beside mean per-class accuracy, for a test set without balance."""
    return _class_mean(summary, order)[1]


def memory_table(summary: pd.DataFrame, *, order: Sequence[str] = ()) -> pd.DataFrame:
    """Methods x settings: exemplars really held after the last experience, in images."""
    return _memory(summary, order)[1]


def differences_table(summary: pd.DataFrame, baseline: str, metric: str | Metric | None = None) -> pd.DataFrame:
    """An ablation: every row's paired difference to the row `baseline`, with interval, pairs, p and verdict."""
    summary, name = _resolved(summary, metric)
    return comparisons.differences_table(summary, baseline, name)[1]


def ranks_table(summary: pd.DataFrame, metric: str | Metric = "average_accuracy_seen") -> pd.DataFrame:
    """Methods by average rank, with interquartile mean; the critical difference stands in the notes."""
    return comparisons.ranks_table(*_resolved(summary, metric))[1]


def variance_table(summary: pd.DataFrame, metric: str | Metric = "average_accuracy_seen") -> pd.DataFrame:
    """Settings x (method, order, seed, method x order, rest): shares of the variation."""
    return comparisons.variance_table(*_resolved(summary, metric))[1]


def is_balanced(summary: pd.DataFrame) -> bool:
    """True when plain and mean per-class accuracy agree in every run: all classes have as many test images."""
    part = summary[["last_accuracy_seen", "last_accuracy_class_mean"]].dropna()
    return bool((part.iloc[:, 0] - part.iloc[:, 1]).abs().max() < 1e-9) if len(part) else True


# --- building ---------------------------------------------------------------------------------------------------------


def _main(summary: pd.DataFrame, metric: str | Metric | None, order: Sequence[str] = ()) -> Built:
    summary, name = _resolved(summary, metric)
    if name == "memory_held":  # images, not percent
        return _memory(summary, order)
    found = cells(summary, name)
    table = pivot(found, row_order(found, order, ascending=lower_is_better(summary, name)))
    bold = bold_cells(summary, found, name)
    lines = notes(summary, found, bool(bold))
    if name.endswith("_accuracy_seen") and not is_balanced(summary):
        lines.insert(1, "The test set is not balanced: the table class_mean has the mean per-class accuracy beside it.")
    table.attrs = {"title": f"{title(summary, name)}. In percent.", "notes": lines, "bold": bold}
    return found, table


def _groups(summary: pd.DataFrame, order: Sequence[str] = ()) -> Built:
    text = f"Accuracy of many-, medium- and few-shot classes: {LAST} {CLASS_MEAN}, by group. In percent."
    parts = {name: f"{name}_accuracy" for name in GROUPS}
    return side_by_side(summary, parts, "last_accuracy_class_mean", order, text, [GROUPS_NOTE])


def _group_forgetting(summary: pd.DataFrame, order: Sequence[str] = ()) -> Built:
    def forgotten(run: RunData) -> Mapping[str, float]:
        try:
            sizes, counts, groups = run.stream["sizes"], run.stream["profile_counts"], run.config["metrics"]["groups"]
            steps = group_forgetting(run.records, sizes, counts, groups)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise NotKept(str(error)) from error
        return {f"{name}_forgetting": float(values[-1]) for name, values in steps.items()}

    parts = {name: f"{name}_forgetting" for name in GROUPS}
    summary = with_columns(summary, "group_forgetting", list(parts.values()), forgotten)
    if summary[list(parts.values())].isna().all(axis=None):
        raise UserError("No run of these results tells the forgetting of groups: none holds its metrics.jsonl.")
    text = (
        f"Forgetting of many-, medium- and few-shot classes: {LAST} mean over old classes of best minus current "
        "recall; lower is better. In percent."
    )
    lines = [GROUPS_NOTE, "From metrics.jsonl; a dash where a run does not hold it or a group has no old class."]
    return side_by_side(summary, parts, "forgetting", order, text, lines)


def _old_new(summary: pd.DataFrame, order: Sequence[str] = ()) -> Built:
    text = f"Accuracy on old and new classes: {LAST} on test images of earlier experiences and of the last. In percent."
    return side_by_side(summary, {"old": "old_accuracy", "new": "new_accuracy"}, "last_accuracy_seen", order, text)


def _class_mean(summary: pd.DataFrame, order: Sequence[str] = ()) -> Built:
    text = f"Average incremental accuracy over images and over classes: {AVERAGE} {SEEN}, or {CLASS_MEAN}. In percent."
    parts = {"images": "average_accuracy_seen", "classes": "average_accuracy_class_mean"}
    return side_by_side(summary, parts, "average_accuracy_class_mean", order, text)


def _memory(summary: pd.DataFrame, order: Sequence[str] = ()) -> Built:
    found = cells(summary, "memory_held")
    table = pivot(found, row_order(found, order, ascending=False), count)
    more = (
        "A class with fewer training images than its share of the budget stores them all; what is left stays unused. "
        "0: no memory; joint training keeps all data instead."
    )
    table.attrs = {
        "title": "Exemplars really held after the last experience. In images.",
        "notes": [more, *notes(summary, found)],
        "bold": [],
    }
    return found, table


def _resolved(summary: pd.DataFrame, metric: str | Metric | None) -> tuple[pd.DataFrame, str]:
    """A metric function becomes a column of the summary; None is the default metric."""
    metric = metric or default_metric(summary)
    if isinstance(metric, str):
        return summary, metric
    return with_metric(summary, metric), metric.__name__


# Tables that `imcil table` writes besides the metrics of WRITTEN, for single-label results. One that has nothing to say
# raises UserError and is left out. A table of another kind, such as accuracy at matched cost, is one more line here.
TABLES: dict[str, Callable[[pd.DataFrame, Sequence[str]], Built]] = {
    "groups": _groups,
    "group_forgetting": _group_forgetting,
    "old_new": _old_new,
    "class_mean": _class_mean,
    "memory": _memory,
    "cost": costs.cost_table,
    "matched_cost": costs.matched_table,
    "ranks": lambda summary, order: comparisons.ranks_table(summary),
    "variance": lambda summary, order: comparisons.variance_table(summary),
}
TABLES_MULTI = {**multilabel.TABLES, "memory": _memory}  # the same for multi-label results


# --- reading, writing, printing ---------------------------------------------------------------------------------------


def load_table(
    directory: str | Path, metric: str | Metric | None = None, order: Sequence[str] = (), where: Sequence[str] = ()
) -> pd.DataFrame:
    """The printed table of a metric, or of a name in `TABLES` or `TABLES_MULTI`, from the run folders of DIR.

    `where` holds conditions on the runs, such as "strategy=[dgr, lucir]"; see `benchmark.results.filters`.
    """
    return any_table(chosen(directory, where), metric, order)


def chosen(directory: str | Path, where: Sequence[str] = ()) -> pd.DataFrame:
    """The summary of the runs that agree with `where`. Raises UserError as `summarise` and `selection.select` do."""
    summary, _ = summarise_runs(select(all_runs(directory), where))
    summary.attrs["where"] = tuple(where)
    return summary


def any_table(summary: pd.DataFrame, metric: str | Metric | None = None, order: Sequence[str] = ()) -> pd.DataFrame:
    """The printed table of a metric, or of a name in `TABLES` or `TABLES_MULTI`."""
    tables = {**TABLES_MULTI, **TABLES}
    if isinstance(metric, str) and metric in tables:
        return tables[metric](summary, order)[1]
    return main_table(summary, metric, order=order)


def tables_folder(directory: str | Path) -> Path:
    """DIR/tables. Raises UserError if it is a symbolic link."""
    return unlinked(Path(directory) / "tables")


def write_all_tables(folder: Path, summary: pd.DataFrame, order: Sequence[str] = ()) -> list[Path]:
    """Write every table that applies to FOLDER/<name>.csv, .md and .tex; returns the paths.

    The CSV files hold numbers, one row per cell; the others the printed table. Multi-label results get tables of their
    own. Mean per-class accuracy is a table of its own only where the test set is not balanced.
    """
    written: list[Path] = []
    for kind in sorted(set(summary["task_kind"].dropna()) or {"single"}):
        part = summary[
            summary["task_kind"].isin([kind]) | summary["task_kind"].isna()
        ]  # the latter: damaged, named below
        for metric in WRITTEN if kind == "single" else WRITTEN_MULTI:
            if metric in part.columns:
                written += write_table(folder, metric, _main(part, metric, order))
        for name, build in (TABLES if kind == "single" else TABLES_MULTI).items():
            if name == "class_mean" and is_balanced(part):
                continue
            with suppress(UserError):  # too few runs yet
                written += write_table(folder, name, build(part, order))
    return written


def write_table(folder: Path, name: str, built: Built) -> list[Path]:
    """Write (numbers, table) to FOLDER/<name>.csv, .md and .tex; characters unfit for a file name become "_"."""
    numbers, table = built
    stem = re.sub(r"\W+", "_", name).strip("_")
    paths = [folder / f"{stem}.{suffix}" for suffix in ("csv", "md", "tex")]
    contents = (to_csv(numbers), to_markdown(table), to_latex(table, stem))
    for path, content in zip(paths, contents, strict=True):
        write_text(path, content)
    return paths


def print_all_tables(folder: Path, summary: pd.DataFrame) -> None:
    """Write every table to FOLDER, show the main comparison in the terminal, and say where the others are."""
    write_all_tables(folder, summary)
    print_table(main_table(summary))
    print(f"All tables: {folder}")


def print_one(
    directory: str | Path,
    metric: str | None = None,
    baseline: str | None = None,
    where: Sequence[str] = (),
    out: Path | None = None,
) -> None:
    """Show one table: a metric, a name of `load_table`, or the differences to a baseline.

    It is written to `out`, else to DIR/tables; one of some runs only, by `where`, to `out` or nowhere. `metric` None is
    the default; it may be `path/to/file.py:function`, whose file is imported. Raises UserError on an unknown name.
    """
    summary = chosen(directory, where)
    metric, tables = metric or default_metric(summary), {**TABLES_MULTI, **TABLES}
    _check_name(summary, metric, bool(baseline))
    built = tables[metric](summary, ()) if metric in tables and not baseline else None
    if built is None:
        summary, metric = _resolved(summary, load_metric(metric) if ".py:" in metric else metric)
        built = comparisons.differences_table(summary, baseline, metric) if baseline else _main(summary, metric)
    paths: list[Path] = []
    if out or not where:
        name = f"{metric}_vs_{baseline}" if baseline else metric
        paths = write_table(out or tables_folder(directory), name, built)
    print_table(built[1])
    print(f"Written: {paths[0].with_suffix('')}.csv, .md, .tex" if paths else "Not written: --out FOLDER does that.")


def _check_name(summary: pd.DataFrame, metric: str, differences: bool) -> None:
    """Raise UserError unless these results have a metric, or where no `differences` are asked for a table, so named."""
    metrics = [*metric_names(summary), "memory_held"]
    kinds = {"single": TABLES, "multi": TABLES_MULTI}
    named = {name for kind in kinds if kind in set(summary["task_kind"]) for name in kinds[kind]}
    if ".py:" in metric or metric in metrics or (not differences and metric in {**TABLES, **TABLES_MULTI}):
        return
    if metric.endswith(".py"):
        raise UserError(f'"{metric}" names a file without its function: write {metric}:FUNCTION.')
    what = "metric" if differences else "metric or table"
    choices = metrics if differences else {*metrics, *named}
    raise UserError(f'There is no {what} "{metric}" in these results.{did_you_mean(metric, choices)}')
