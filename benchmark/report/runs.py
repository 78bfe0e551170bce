"""The runs of the page: what each one is, its metrics, curves and per-class results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmark.report.confusion import ConfusionSum, pack_all
from benchmark.results.summary import PROTOCOL, text
from benchmark.storage.records import (
    RunRecord,
    Unreadable,
    last_confusion,
    last_recalls,
    progress,
    recalls_of,
    stream_of,
)

if TYPE_CHECKING:
    import pandas as pd

TRACEBACK, CELL = 4_000, 300  # characters of a traceback's end, and of any other text from a results folder
CONFUSIONS = 1_500_000  # characters for all confusion matrices
RECALLS = 300_000  # per-class values; beyond them only the first run of every cell keeps its own


class Interned:
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


def list_runs(
    records: Sequence[RunRecord], rows: pd.DataFrame, settings: Sequence[str], interned: Interned
) -> list[dict[str, Any]]:
    """One entry per run, finished or not: its place in the tables, config, environment, and what went wrong."""
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
            "name": cut(record.name),
            "state": record.state,
            "method": cut(label["base"]) if label else "",
            "s": place[label["setting"]] if label else None,
            "seeds": seeds,
            "config": config,
            "environment": interned.add("environments", _flat(record.environment)) if record.environment else None,
            "failure": "",
            "problems": [cut(problem) for problem in record.problems],
        }
        if record.state not in ("done", "pending"):
            run["progress"] = progress(record)
        if record.state == "failed":
            run["failure"] = cut(record.failure.get("exception") or "no reason recorded")
            trace = record.failure.get("traceback")
            run["traceback"] = trace[-TRACEBACK:] if isinstance(trace, str) else ""
            run["attempt"] = cut(record.failure.get("attempt", ""))
        found.append(run)
    for run in found:  # what all configs share is written once
        run["config"] = interned.add("configs", {k: v for k, v in run["config"].items() if not k.endswith("seed")})
    return found


def list_results(
    finished: pd.DataFrame,
    place: Mapping[str, int],
    methods: Sequence[Mapping[str, Any]],
    settings: Sequence[str],
    metrics: Sequence[str],
    curves: pd.DataFrame,
    drawn: Sequence[str],
    interned: Interned,
) -> list[dict[str, Any]]:
    """One entry per finished run and classifier: its `metrics` and `drawn` curves, in hundredths of a percent."""
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
            "values": [hundredths(row[name]) for name in metrics],
            "curves": {},
        }
        if part is not None:
            entry["steps"] = interned.add(
                "steps", [None if v != v else int(v) for v in part["num_seen_classes"].astype(float)]
            )
            entry["curves"] = {
                name: [hundredths(value) for value in part[name]] for name in drawn if part[name].notna().any()
            }
        found.append(entry)
    return found


def hundredths(value: float) -> int | None:
    return round(10_000 * value) if math.isfinite(value) else None


def _flat(content: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key -> value as text."""
    flat = {}
    for section, values in content.items():
        inner = values.items() if isinstance(values, dict) else [("", values)]
        for key, value in inner:
            flat[cut(f"{section}.{key}" if key else section)] = cut(value)
    return flat


def cut(value: Any) -> str:
    """`value` as text of bounded length."""
    if isinstance(value, list | dict):
        try:
            value = json.dumps(value)
        except (ValueError, RecursionError):
            value = "?"
    shown = text(value)
    return shown if len(shown) <= CELL else f"{shown[:CELL]}… ({len(shown):,} characters)"


# --- classes ----------------------------------------------------------------------------------------------------------


def add_classes(
    records: Sequence[RunRecord],
    runs: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    interned: Interned,
) -> list[dict[str, Any]]:
    """The confusion matrices of every cell. Gives the results their "recalls", and runs their problems."""
    sums: dict[tuple[int, int], ConfusionSum] = {}
    by_run: dict[int, list[dict[str, Any]]] = {}
    for entry in results:
        by_run.setdefault(entry["run"], []).append(entry)
    for i, entries in by_run.items():
        try:
            stream = stream_of(records[i])
            runs[i]["stream"] = interned.add("streams", stream)
            if (records[i].result or {}).get("task_kind", "single") == "single":
                _read_run(records[i], runs[i], entries, stream["images"], sums)
        except Unreadable as error:
            runs[i]["problems"].append(cut(f"no per-class results: {error}"))
    total = 0
    seen = set()
    for entry in results:
        total += len(entry.get("recalls", []))
        if total > RECALLS and (entry["m"], entry["s"]) in seen:
            del entry["recalls"]
        seen.add((entry["m"], entry["s"]))
    packed = pack_all(sums, CONFUSIONS)
    return [{"m": m, "s": s, **content} for (m, s), content in sorted(packed.items())]


def _read_run(
    record: RunRecord,
    run: dict[str, Any],
    entries: Sequence[dict[str, Any]],
    images: Sequence[int],
    sums: dict[tuple[int, int], ConfusionSum],
) -> None:
    """Recalls and confusion of one run: from its confusion file, else the recalls from metrics.jsonl."""
    num_classes = len(images)
    try:
        confusions = last_confusion(record, num_classes)
    except Unreadable as error:
        run["problems"].append(cut(f"no confusion matrix: {error}"))
        recalls = last_recalls(record, num_classes)
        for entry in entries:
            if entry["classifier"] in recalls:
                entry["recalls"] = recalls[entry["classifier"]]
        return
    for entry in entries:
        if entry["classifier"] in confusions:
            confusion = confusions[entry["classifier"]]
            entry["recalls"] = recalls_of(confusion)
            cell = (entry["m"], entry["s"])
            total = sums.setdefault(cell, ConfusionSum.of(num_classes))
            if len(total.by_arrival) == -(-num_classes // total.block):
                total.add(confusion, images)
