"""`imcil compare DIR`: published numbers beside ours, with the difference and what it may come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError
from benchmark.results.labels import check_comparable, label_rows, protocol_name, setting_order
from benchmark.results.published import Number, load
from benchmark.storage.text import printable
from benchmark.tables.cells import EMPTY, percent
from benchmark.tables.notes import about
from benchmark.tables.render import print_table

if TYPE_CHECKING:
    import pandas as pd

# A metric whose source does not say over what it averages -> ours over images, and over experiences.
UNSTATED = {
    "average_accuracy": ("average_accuracy_seen", "average_accuracy_tasks"),
    "last_accuracy": ("last_accuracy_seen", "last_accuracy_tasks"),
}
# Column of the protocol -> what it is called where it differs. Memory and averaging are told apart.
NAMED = {
    "backbone": "backbone",
    "epochs": "epochs",
    "augmentation": "augmentation",
    "holdout": "hold-out",
    "order": "class order",
    "ranks": "ranks",
}
LARGEST = {"cifar100": 500, "food101": 750, "imagenet_subset": 1300, "imagenet_full": 1300}  # images of a class
MARKS = {"read": "", "secondary": " *", "unverified": " ?"}
COLUMNS = (
    "metric",
    "ours",
    "sd",
    "n",
    "over_tasks",
    "published",
    "difference",
    "provenance",
    "paper",
    "printed_as",
    "source",
    "reasons",
)


def comparison(
    summary: pd.DataFrame, classes: Mapping[str, int], options: Mapping[str, str] = MappingProxyType({})
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(numbers, table): our means beside the published numbers of the same method on the same stream, in percent.

    Parameters: `summary` of `results.summary`; by run name, `classes`, the number of classes of its stream, and
    `options`, those of its method that the config gives ("temperature=2").
    The same stream: dataset, all of its classes, protocol, tasks, balanced or rho, and ordered or not. Whatever else
    differs is a reason: it has a number in the table and its sentence in the notes. Both are empty without a match.
    """
    import pandas as pd

    if summary.attrs.get("held_out"):
        raise UserError("These are trials of imcil tune, on held-out images: published numbers are of test sets.")
    rows = label_rows(summary)
    rows = rows[rows["status"] == "done"]
    published = [number for number in load() if number.strategy and not number.pretrained]
    found: list[dict[str, Any]] = []
    for setting in setting_order(rows):
        for method, runs in rows[rows["setting"] == setting].groupby("method", sort=True):
            check_comparable(runs, str(method), setting)
            ours = {str(column): value for column, value in runs.iloc[0].items()}
            beside = [n for n in published if _same_stream(n, ours, classes.get(str(ours["run"])))]
            labels = {"method": method, "setting": setting}
            own = options.get(str(ours["run"]), "")
            found += [{**labels, **row} for number in beside if (row := _row(number, ours, runs, own))]
    numbers = pd.DataFrame(found, columns=["method", "setting", *COLUMNS])
    return numbers.assign(reasons=numbers["reasons"].map("; ".join)), _table(numbers, about(summary))


def _row(number: Number, ours: Mapping[str, Any], runs: pd.DataFrame, options: str) -> dict[str, Any] | None:
    """One published number beside the runs of one method and setting; None where the runs lack the metric."""
    seen, tasks = UNSTATED.get(number.metric, (number.metric, None))
    if seen not in runs or runs[seen].isna().all():
        return None
    values = 100 * runs[seen].dropna().astype(float)
    is_open = tasks is not None and number.protocol == "lfh"  # with equal experiences both averages agree
    nan = float("nan")
    return {
        "metric": number.metric,
        "ours": values.mean(),
        "sd": values.std(ddof=1) if len(values) > 1 else nan,
        "n": len(values),
        "over_tasks": 100 * runs[tasks].astype(float).mean() if is_open else nan,
        "published": number.value,
        "difference": values.mean() - number.value if number.is_target else nan,
        "provenance": number.provenance,
        "paper": number.paper,
        "printed_as": number.method,
        "source": number.source,
        "reasons": _reasons(number, ours, is_open, options),
    }


def _same_stream(number: Number, ours: Mapping[str, Any], classes: int | None) -> bool:
    """Whether a number is of the method, classifier and stream of one of our rows."""
    if (number.strategy, number.classifier) != (ours["strategy"], ours["classifier"]):
        return False
    if (number.dataset, number.classes) != (ours["dataset"], classes):
        return False
    if number.protocol.lower() != str(ours["protocol"]).lower() or number.tasks not in (None, ours["tasks"]):
        return False
    if number.rho is None:  # multi-label: the images as they are
        return ours["task_kind"] == "multi"
    rho = 1.0 if ours["profile"] == "conventional" else ours["rho"]
    if rho == 1 or number.rho == 1:
        return bool(number.rho == rho)
    is_ordered = (number.order == "ordered", ours["order"] == "ordered")
    return bool((number.profile, number.rho) == (ours["profile"], rho) and is_ordered[0] == is_ordered[1])


def _reasons(number: Number, ours: Mapping[str, Any], is_open: bool, options: str) -> list[str]:
    """Why the two may differ, from the protocol of both: what is unlike, then what the source does not say."""
    unlike, unstated = [], []
    for column, name in NAMED.items():
        there, here = getattr(number, column), ours.get(column)
        if column == "ranks" and number.rho in (None, 1):
            continue
        if there in ("", None):
            unstated.append(name)
        elif there != here:
            unlike.append(f"{name} {_text(there)} there, {_text(here)} here")
    there, here = _memory(number.memory_mode, number.memory_budget), _memory(ours["memory_mode"], ours["memory_budget"])
    if number.memory_budget is None:
        unstated.append("memory")
    elif there != here:
        unlike.append(f"memory {there} there, {here} here")
    most = LARGEST.get(number.dataset)
    if most and isinstance(ours["max_count"], int) and ours["max_count"] < most:
        unlike.append(f"at most {most} images a class there, {ours['max_count']} here")
    if options:
        unlike.append(f"options of the method's own here: {options}")
    if is_open:
        unlike.append(
            "averaging not stated there, over all images of seen classes here (over_tasks in published.csv: the other)"
        )
    if number.note:
        unlike.append(f"{number.paper}: {number.note}")
    return [*unlike, *([f"not stated there: {', '.join(unstated)}"] if unstated else [])]


def _table(numbers: pd.DataFrame, protocol: list[str]) -> pd.DataFrame:
    """The numbers as text, in percent."""
    import pandas as pd

    def points(value: float) -> str:
        return percent(value / 100)

    rows = numbers.to_dict("records")
    reasons = list(dict.fromkeys(reason for row in rows for reason in row["reasons"]))
    cells = [
        {
            "setting": row["setting"],
            "metric": row["metric"].replace("_accuracy", "").replace("_", " "),
            "ours": points(row["ours"]) + (f" ± {points(row['sd'])}" if row["n"] > 1 else ""),
            "published": f"{row['published']:.2f}{MARKS[row['provenance']]}",
            "difference": f"{'+' if row['difference'] > 0 else ''}{points(row['difference'])}",
            "paper": row["paper"],
            "may differ by": ", ".join(map(str, sorted(1 + reasons.index(reason) for reason in row["reasons"])))
            or EMPTY,
        }
        for row in rows
    ]
    table = pd.DataFrame(cells, index=pd.Index([row["method"] for row in rows], name="method"))
    counts = sorted({row["n"] for row in rows})
    n = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "0"
    notes = [
        f"Ours: mean ± standard deviation (n - 1) over n = {n} runs. Difference: ours minus published, in points.",
        "Metric: average over experiences or last; a number without mark was read in its paper, or in the code or "
        "thread that made it; *: quoted elsewhere; ?: unverified, from memory, never a target.",
        *(f"{place}: {reason}." for place, reason in enumerate(reasons, start=1)),
        *protocol,
    ]
    table.attrs = {"title": "Published numbers beside ours. In percent.", "notes": notes, "bold": []}
    return table


def print_comparison(directory: Path) -> None:
    """Write DIR/tables/published.csv, .md and .tex and show the table, or say that no published number fits."""
    from benchmark.results.summary import all_runs, summarise_runs
    from benchmark.tables.tables import tables_folder, write_table

    records = all_runs(directory)
    summary, _ = summarise_runs(records)
    classes = {record.name: len(record.stream.get("class_order") or ()) for record in records}
    given = {record.name: record.config.get("strategy") for record in records}
    options = {
        run: ", ".join(f"{key}={printable(str(value))}" for key, value in strategy.items() if key != "name")
        for run, strategy in given.items()
        if isinstance(strategy, dict)
    }
    built = comparison(summary, classes, options)
    if built[0].empty:
        done = summary.loc[summary["status"] == "done", ["run", "dataset", "protocol", "tasks"]].values.tolist()
        streams = {f"{name} ({classes[run]} classes) {protocol_name(*split)}" for run, name, *split in done}
        print(
            f"No published number is of these streams and methods: {', '.join(sorted(streams)) or 'no finished run'}. "
            "Papers use all classes of a dataset; `imcil list published` shows what they report."
        )
        return
    paths = write_table(tables_folder(directory), "published", built)
    print_table(built[1])
    print(f"Written: {paths[0].with_suffix('')}.csv, .md, .tex")


def _memory(mode: Any, budget: Any) -> str:
    if budget != budget or not budget:
        return "none"
    return f"{_text(budget)} {'in total' if mode == 'total' else 'per class'}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
