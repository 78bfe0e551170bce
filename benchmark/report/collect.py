"""Run folders -> what the page shows, as JSON: every number that a reader can ask for, once, without a clock.

Methods, settings and cells are those of the tables (`benchmark.results.labels`). A cell whose runs must not be averaged
carries the reason in place of numbers; a run that cannot be read says which file is at fault.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError
from benchmark.figures import palette
from benchmark.metrics.catalogue import BOUNDS, LOWER_IS_BETTER, TITLES, WRITTEN, WRITTEN_MULTI
from benchmark.report.runs import Interned, add_classes, cut, hundredths, list_results, list_runs
from benchmark.results import labels
from benchmark.results.labels import trials
from benchmark.results.pairs import paired_scores, score_differences
from benchmark.results.summary import IDENTITY, PROTOCOL, text
from benchmark.storage.files import DamagedFile, read_json
from benchmark.storage.records import STYLES, RunRecord
from strategies.registry import NAMES

if TYPE_CHECKING:
    import pandas as pd

STATES = tuple(STYLES)
# Curves on the page and how their axes are labelled; the summary's metrics of the same name share the label.
CURVES = {
    "accuracy_seen": "accuracy, seen",
    "accuracy_tasks": "accuracy, tasks",
    "accuracy_class_mean": "accuracy, class mean",
    "map": "mean average precision",
    "cf1_at_0.5": "CF1 at 0.5",
    "of1_at_0.5": "OF1 at 0.5",
    "fpr_at_0.5": "false-positive rate at 0.5",
    "forgetting": "forgetting",
    "backward_transfer": "backward transfer",
    "many_accuracy": "many-shot accuracy",
    "medium_accuracy": "medium-shot accuracy",
    "few_accuracy": "few-shot accuracy",
    "old_accuracy": "accuracy, old classes",
    "new_accuracy": "accuracy, new classes",
}
BASELINES = 8  # methods that the others are compared with, best first; fewer when there were more than
COMPARISONS = 2_000  # (method, setting, baseline, metric) to compute


def collect(
    directory: str | Path, records: Sequence[RunRecord], summary: pd.DataFrame, curves: pd.DataFrame
) -> dict[str, Any]:
    """The page's data. `records` are all runs of `directory`, `summary` and `curves` those of `summarise_runs`."""
    rows = labels.label_rows(summary)
    rows.attrs = {}  # pandas copies them with every operation
    settings = labels.setting_order(rows)
    methods = _methods(rows)
    metrics = [c for c in summary.columns if c not in (*IDENTITY, *PROTOCOL) and summary[c].notna().any()]
    cells, shown = _cells(rows, methods, settings, metrics)
    interned = Interned()
    runs = list_runs(records, rows, settings, interned)
    place = {record.name: i for i, record in enumerate(records)}
    drawn = [key for key in CURVES if key in curves.columns and curves[key].notna().any()]
    results = list_results(shown, place, methods, settings, metrics, curves, drawn, interned)
    confusions = add_classes(records, runs, results, interned)
    return {
        "name": Path(directory).resolve().name,
        "states": {state: count for state in STATES if (count := sum(record.state == state for record in records))},
        "problems": _plan_problem(directory),
        "protocol": [*trials(summary), *labels.protocol_notes(rows)] if len(rows) else [],
        "seeds": labels.seeds_note(rows),
        "groups": _groups(records),
        "metrics": [_about_metric(name) for name in metrics],
        "curves": [{"key": key, "label": CURVES[key]} for key in drawn],
        "settings": [
            {"name": name, "protocol": labels.protocol_notes(rows[rows["setting"] == name])} for name in settings
        ],
        "methods": methods,
        "cells": cells,
        "differences": _differences(summary, rows, cells, methods, settings, metrics),
        "runs": runs,
        "results": results,
        "confusions": confusions,
        **interned.lists,
    }


def _methods(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry per method and classifier, and per method without a finished run, as in the tables."""
    has_row = set(rows.loc[rows["classifier"].notna(), "base"])
    kept = rows[rows["classifier"].notna() | ~rows["base"].isin(has_row)].drop_duplicates("method")
    style = palette.places(kept["method"])
    return [
        {
            "name": method,
            "base": base,
            "strategy": str(strategy),
            "classifier": text(classifier),
            "style": style[method],
            "about": NAMES.get(str(strategy), ("", ""))[1],
        }
        for method, base, strategy, classifier in kept[["method", "base", "strategy", "classifier"]].itertuples(
            index=False, name=None
        )
    ]


def _cells(
    rows: pd.DataFrame, methods: Sequence[Mapping[str, Any]], settings: Sequence[str], metrics: Sequence[str]
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """(cells, the rows of finished runs). A cell's `stats` are [mean, sd (n - 1), n] per metric, in percent."""
    runs = rows.drop_duplicates("run")
    states = {key: Counter(part) for key, part in runs.groupby(["base", "setting"])["status"]}
    finished = rows[rows["status"] == "done"]
    by_cell = dict(iter(finished.groupby(["method", "setting"])))
    cells = []
    for m, method in enumerate(methods):
        for s, setting in enumerate(settings):
            counted: Counter[Any] = states.get((method["base"], setting), Counter())
            if not counted:
                continue
            cell: dict[str, Any] = {
                "m": m,
                "s": s,
                "done": counted["done"],
                "expected": counted.total(),
                "failed": counted["failed"],
            }
            part = by_cell.get((method["name"], setting))
            if part is not None:
                try:
                    labels.check_comparable(part, method["name"], setting)
                    cell["stats"] = [_statistics(part[name]) for name in metrics]
                except UserError as error:
                    cell["why"] = cut(str(error))
            cells.append(cell)
    return cells, finished


def _statistics(values: pd.Series[Any]) -> list[float | int | None] | None:
    present = values.dropna().astype(float)
    if present.empty:
        return None
    sd = round(100 * float(present.std(ddof=1)), 2) if len(present) > 1 else None
    return [round(100 * float(present.mean()), 2), sd, len(present)]


def _differences(
    summary: pd.DataFrame,
    rows: pd.DataFrame,
    cells: Sequence[Mapping[str, Any]],
    methods: Sequence[Mapping[str, Any]],
    settings: Sequence[str],
    metrics: Sequence[str],
) -> list[dict[str, Any]]:
    """Paired differences (`results.pairs`) to the best methods, for the metrics that have a table of their own."""
    refused = {(methods[cell["m"]]["name"], settings[cell["s"]]) for cell in cells if "why" in cell}
    unusable = {
        (run, classifier)
        for run, classifier, *cell in rows[["run", "classifier", "method", "setting"]].itertuples(
            index=False, name=None
        )
        if tuple(cell) in refused
    }
    keys = zip(summary["run"], summary["classifier"], strict=True)
    usable = summary.assign(
        status=["refused" if key in unusable else s for key, s in zip(keys, summary["status"], strict=True)]
    )
    usable.attrs = summary.attrs
    method_place = {method["name"]: i for i, method in enumerate(methods)}
    setting_place = {setting: i for i, setting in enumerate(settings)}
    found = []
    main = [name for name in (*WRITTEN, *WRITTEN_MULTI) if name in metrics]
    baselines = max(1, min(BASELINES, COMPARISONS // max(1, len(cells) * len(main))))
    for metric in main:
        i = metrics.index(metric)
        scores = paired_scores(usable, metric)
        for m in _best(cells, methods, i, metric in LOWER_IS_BETTER)[:baselines]:
            numbers = score_differences(scores, methods[m]["name"], metric in LOWER_IS_BETTER)
            numbers = numbers[numbers["pairs"] > 0]
            if numbers.empty:
                continue
            shown = [
                {
                    "m": method_place[row["method"]],
                    "s": setting_place[row["setting"]],
                    "difference": hundredths(row["difference"]),
                    "low": hundredths(row["low"]),
                    "high": hundredths(row["high"]),
                    "pairs": row["pairs"],
                    "p": round(row["p_holm"], 4),
                    "verdict": row["verdict"],
                }
                for row in numbers.to_dict("records")
            ]
            kinds = {name: sorted(set(numbers[name])) for name in ("interval", "test")}
            found.append(
                {"metric": i, "baseline": m, "rows": shown, "intervals": kinds["interval"], "tests": kinds["test"]}
            )
    return found


def _best(
    cells: Sequence[Mapping[str, Any]], methods: Sequence[Mapping[str, Any]], metric: int, lower: bool
) -> list[int]:
    """Methods with results, best first as `cells.row_order` has them; joint training, which is no competitor, last."""
    found = [(c["m"], c["s"], c["stats"][metric][0]) for c in cells if "stats" in c and c["stats"][metric] is not None]
    by_setting: dict[int, list[float]] = {}
    for _, s, mean in found:
        by_setting.setdefault(s, []).append(mean)
    means: dict[int, list[float]] = {}
    for m, s, mean in found:
        means.setdefault(m, []).append(mean - sum(by_setting[s]) / len(by_setting[s]))

    def key(m: int) -> tuple[bool, float]:
        return methods[m]["strategy"] in BOUNDS, sum(means[m]) / len(means[m]) * (1 if lower else -1)

    return sorted(means, key=key)


def _about_metric(name: str) -> dict[str, Any]:
    average, _, curve = name.partition("_")
    label = f"{average} {CURVES[curve]}" if average in ("average", "last") and curve in CURVES else CURVES.get(name)
    return {
        "key": name,
        "label": label or name.replace("_", " "),
        "title": TITLES.get(name, ""),
        "lower": name in LOWER_IS_BETTER,
    }


def _groups(records: Sequence[RunRecord]) -> list[int] | None:
    """The thresholds of many, medium and few, when all runs agree on them."""
    found = {
        json.dumps(groups)
        for record in records
        if isinstance(section := record.config.get("metrics"), dict) and (groups := section.get("groups")) is not None
    }
    groups = json.loads(found.pop()) if len(found) == 1 else None
    valid = isinstance(groups, list) and len(groups) == 2 and all(type(value) is int for value in groups)
    return groups if valid else None


def _plan_problem(directory: str | Path) -> list[str]:
    path = Path(directory) / "sweep.json"
    try:
        plan = read_json(path)
        if isinstance(plan, dict) and isinstance(plan.get("runs"), dict):
            return []
    except FileNotFoundError:
        return []
    except (OSError, DamagedFile):
        pass
    return ["sweep.json is damaged: runs that it planned and nobody started are not listed."]
