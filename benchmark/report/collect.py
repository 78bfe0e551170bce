"""Run folders -> what the page shows, as JSON: every number that a reader can ask for, once, without a clock.

Methods, settings and cells are those of the tables (`benchmark.grouping`). A cell whose runs must not be averaged
carries the reason in place of numbers; a run that cannot be read says which file is at fault.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import grouping, palette
from benchmark.cells import BOUNDS, LOWER_IS_BETTER, TITLES, trials
from benchmark.errors import UserError
from benchmark.pairs import paired_scores, score_differences
from benchmark.report import classes
from benchmark.status import STYLES, progress
from benchmark.store import DamagedFile, RunRecord, read_json
from benchmark.summary import IDENTITY, PROTOCOL, text
from benchmark.tables import WRITTEN, WRITTEN_MULTI
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
TRACEBACK, CELL = 4_000, 300  # characters of a traceback's end, and of any other text from a results folder
CONFUSIONS = 1_500_000  # characters for all confusion matrices
BASELINES = 8  # methods that the others are compared with, best first; fewer when there were more than
COMPARISONS = 2_000  # (method, setting, baseline, metric) to compute
RECALLS = 300_000  # per-class values; beyond them only the first run of every cell keeps its own


def collect(
    directory: str | Path, records: Sequence[RunRecord], summary: pd.DataFrame, curves: pd.DataFrame
) -> dict[str, Any]:
    """The page's data. `records` are all runs of `directory`, `summary` and `curves` those of `summarise_runs`."""
    rows = grouping.label_rows(summary)
    rows.attrs = {}  # pandas copies them with every operation
    settings = grouping.setting_order(rows)
    methods = _methods(rows)
    metrics = [c for c in summary.columns if c not in (*IDENTITY, *PROTOCOL) and summary[c].notna().any()]
    cells, shown = _cells(rows, methods, settings, metrics)
    interned = _Interned()
    runs = _runs(records, rows, settings, interned)
    place = {record.name: i for i, record in enumerate(records)}
    results = _results(shown, place, methods, settings, metrics, curves, interned)
    confusions = _per_class(records, runs, results, interned)
    return {
        "name": Path(directory).resolve().name,
        "states": {state: count for state in STATES if (count := sum(record.state == state for record in records))},
        "problems": _plan_problem(directory),
        "protocol": [*trials(summary), *grouping.protocol_notes(rows)] if len(rows) else [],
        "seeds": grouping.seeds_note(rows),
        "groups": _groups(records),
        "metrics": [_about_metric(name) for name in metrics],
        "curves": [
            {"key": key, "label": label}
            for key, label in CURVES.items()
            if key in curves.columns and curves[key].notna().any()
        ],
        "settings": [
            {"name": name, "protocol": grouping.protocol_notes(rows[rows["setting"] == name])} for name in settings
        ],
        "methods": methods,
        "cells": cells,
        "differences": _differences(summary, rows, cells, methods, settings, metrics),
        "runs": runs,
        "results": results,
        "confusions": confusions,
        **interned.lists,
    }


class _Interned:
    """Lists of values that many runs share, each value once; `add` returns its place."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Any]] = {"streams": [], "environments": [], "steps": [], "configs": []}
        self._places: dict[tuple[str, str], int] = {}

    def add(self, name: str, value: Any) -> int:
        key = (name, json.dumps(value, sort_keys=True))
        if key not in self._places:
            self._places[key] = len(self.lists[name])
            self.lists[name].append(value)
        return self._places[key]


# --- methods, cells ---------------------------------------------------------------------------------------------------


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
                    grouping.check_comparable(part, method["name"], setting)
                    cell["stats"] = [_statistics(part[name]) for name in metrics]
                except UserError as error:
                    cell["why"] = _cut(str(error))
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
    """Paired differences (`benchmark.pairs`) to the best methods, for the metrics that have a table of their own."""
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
                    "difference": _hundredths(row["difference"]),
                    "low": _hundredths(row["low"]),
                    "high": _hundredths(row["high"]),
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


# --- runs -------------------------------------------------------------------------------------------------------------


def _runs(
    records: Sequence[RunRecord], rows: pd.DataFrame, settings: Sequence[str], interned: _Interned
) -> list[dict[str, Any]]:
    first = rows.drop_duplicates("run").set_index("run")
    labels = first[["base", "setting"]].to_dict("index")
    place = {setting: i for i, setting in enumerate(settings)}
    found = []
    for record in records:
        label = labels.get(record.name)
        config = _flat(record.config)
        seeds = {
            key.removesuffix("_seed"): config[path]
            for key, path in PROTOCOL.items()
            if key.endswith("_seed") and path in config
        }
        run: dict[str, Any] = {
            "name": _cut(record.name),
            "state": record.state,
            "method": _cut(label["base"]) if label else "",
            "s": place[label["setting"]] if label else None,
            "seeds": seeds,
            "config": config,
            "environment": interned.add("environments", _flat(record.environment)) if record.environment else None,
            "failure": "",
            "problems": [_cut(problem) for problem in record.problems],
        }
        if record.state not in ("done", "pending"):
            run["progress"] = progress(record)
        if record.state == "failed":
            run["failure"] = _cut(record.failure.get("exception") or "no reason recorded")
            trace = record.failure.get("traceback")
            run["traceback"] = trace[-TRACEBACK:] if isinstance(trace, str) else ""
            run["attempt"] = _cut(record.failure.get("attempt", ""))
        found.append(run)
    for run in found:  # what all configs share is written once
        run["config"] = interned.add("configs", {k: v for k, v in run["config"].items() if not k.endswith("seed")})
    return found


def _results(
    finished: pd.DataFrame,
    place: Mapping[str, int],
    methods: Sequence[Mapping[str, Any]],
    settings: Sequence[str],
    metrics: Sequence[str],
    curves: pd.DataFrame,
    interned: _Interned,
) -> list[dict[str, Any]]:
    """One entry per finished run and classifier: its metrics and curves, in hundredths of a percent."""
    names = [name for name in CURVES if name in curves.columns]
    by_result = dict(iter(curves.groupby(["run", "classifier"], sort=False)))
    method_place = {method["name"]: i for i, method in enumerate(methods)}
    setting_place = {setting: i for i, setting in enumerate(settings)}
    found = []
    for row in finished[finished["classifier"].notna()].to_dict("records"):
        part = by_result.get((row["run"], row["classifier"]))
        entry: dict[str, Any] = {
            "run": place[row["run"]],
            "m": method_place[row["method"]],
            "s": setting_place[row["setting"]],
            "classifier": row["classifier"],
            "values": [_hundredths(row[name]) for name in metrics],
            "curves": {},
        }
        if part is not None:
            entry["steps"] = interned.add(
                "steps", [None if v != v else int(v) for v in part["num_seen_classes"].astype(float)]
            )
            entry["curves"] = {
                name: [_hundredths(value) for value in part[name]] for name in names if part[name].notna().any()
            }
        found.append(entry)
    return found


def _hundredths(value: float) -> int | None:
    return round(10_000 * value) if math.isfinite(value) else None


def _flat(content: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key -> value as text."""
    flat = {}
    for section, values in content.items():
        inner = values.items() if isinstance(values, dict) else [("", values)]
        for key, value in inner:
            flat[_cut(f"{section}.{key}" if key else section)] = _cut(value)
    return flat


def _cut(value: Any) -> str:
    """`value` as text of bounded length."""
    if isinstance(value, list | dict):
        try:
            value = json.dumps(value)
        except (ValueError, RecursionError):
            value = "?"
    shown = text(value)
    return shown if len(shown) <= CELL else f"{shown[:CELL]}… ({len(shown):,} characters)"


# --- classes ----------------------------------------------------------------------------------------------------------


def _per_class(
    records: Sequence[RunRecord],
    runs: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    interned: _Interned,
) -> list[dict[str, Any]]:
    """The confusion matrices of every cell. Gives the results their "recalls", and runs their problems."""
    sums: dict[tuple[int, int], classes.ConfusionSum] = {}
    by_run: dict[int, list[dict[str, Any]]] = {}
    for entry in results:
        by_run.setdefault(entry["run"], []).append(entry)
    for i, entries in by_run.items():
        try:
            stream = classes.stream_of(records[i])
            runs[i]["stream"] = interned.add("streams", stream)
            if (records[i].result or {}).get("task_kind", "single") == "single":
                _read_run(records[i], runs[i], entries, stream["images"], sums)
        except classes.Unreadable as error:
            runs[i]["problems"].append(_cut(f"no per-class results: {error}"))
    total = 0
    seen = set()
    for entry in results:
        total += len(entry.get("recalls", []))
        if total > RECALLS and (entry["m"], entry["s"]) in seen:
            del entry["recalls"]
        seen.add((entry["m"], entry["s"]))
    packed = classes.pack_all(sums, CONFUSIONS)
    return [{"m": m, "s": s, **content} for (m, s), content in sorted(packed.items())]


def _read_run(
    record: RunRecord,
    run: dict[str, Any],
    entries: Sequence[dict[str, Any]],
    images: Sequence[int],
    sums: dict[tuple[int, int], classes.ConfusionSum],
) -> None:
    """Recalls and confusion of one run: from its confusion file, else the recalls from metrics.jsonl."""
    num_classes = len(images)
    try:
        confusions = classes.last_confusion(record, num_classes)
    except classes.Unreadable as error:
        run["problems"].append(_cut(f"no confusion matrix: {error}"))
        recalls = classes.last_recalls(record, num_classes)
        for entry in entries:
            if entry["classifier"] in recalls:
                entry["recalls"] = recalls[entry["classifier"]]
        return
    for entry in entries:
        if entry["classifier"] in confusions:
            confusion = confusions[entry["classifier"]]
            entry["recalls"] = classes.recalls_of(confusion)
            cell = (entry["m"], entry["s"])
            total = sums.setdefault(cell, classes.ConfusionSum.of(num_classes))
            if len(total.by_arrival) == -(-num_classes // total.block):
                total.add(confusion, images)


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
