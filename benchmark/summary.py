"""Run folders -> summary.csv (one row per run and classifier) and curves.csv (one row per run, classifier, experience).

Both depend on the run folders only: rows sorted by run and classifier, floats in their shortest exact form, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmark import metrics
from benchmark.store import RunRecord, load_runs, write_text

if TYPE_CHECKING:
    import pandas as pd

# Column -> where config.json holds it.
PROTOCOL = {
    "dataset": "dataset.name",
    "protocol": "stream.protocol",
    "tasks": "stream.tasks",
    "profile": "stream.profile",
    "rho": "stream.rho",
    "ranks": "stream.ranks",
    "order": "stream.order",
    "order_seed": "stream.order_seed",
    "subset_seed": "stream.subset_seed",
    "rank_seed": "stream.rank_seed",
    "training_seed": "training.seed",
    "holdout": "stream.holdout",
    "memory_mode": "memory.mode",
    "memory_budget": "memory.budget",
    "memory_held": "",  # result.json: exemplars held at the end
    "backbone": "training.backbone",
    "augmentation": "training.augmentation",
    "epochs": "training.epochs",
    "precision": "",  # environment.json: as resolved
    "compile": "",
}
IDENTITY = ("run", "status", "strategy", "classifier", "task_kind")
INTEGERS = (
    "tasks",
    "order_seed",
    "subset_seed",
    "rank_seed",
    "training_seed",
    "memory_budget",
    "memory_held",
    "epochs",
)


def summarise(directory: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(summary, curves) of the runs under DIR/runs; see `summarise_runs`. Raises UserError without such a folder."""
    return summarise_runs(load_runs(directory))


def summarise_runs(records: Sequence[RunRecord]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(summary, curves) of loaded runs.

    Every run has a row in `summary`, whatever its status: one without a result leaves classifier and metrics empty.
    `curves` holds finished runs only. Metrics of other task kinds follow the single-label columns in sorted order.
    """
    abouts: list[dict[str, Any]] = []
    values: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for record in records:
        about = _about(record)
        classifiers = (record.result or {}).get("classifiers", {})
        for name in sorted(classifiers):
            found = _mapping(classifiers[name])
            abouts.append({**about, "classifier": name})
            values.append(_mapping(found.get("summary")))
            curves.append(_mapping(found.get("curves")))
        if not classifiers:
            abouts.append({**about, "classifier": None})
            values.append({})
            curves.append({})
    return _summary_frame(abouts, values), _curves_frame(abouts, curves)


def write_summary(directory: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write DIR/summary.csv and DIR/curves.csv; returns both frames."""
    summary, curves = summarise(directory)
    for name, frame in (("summary.csv", summary), ("curves.csv", curves)):
        write_text(Path(directory) / name, frame.to_csv(index=False, lineterminator="\n"))
    return summary, curves


def short_name(value: Any) -> Any:
    """A config value as a cell: a list or section is "custom", `path/to/file.py:Class` is "Class" (paths differ)."""
    if isinstance(value, list | dict):
        return "custom"
    return value.rpartition(":")[2] if isinstance(value, str) and ".py:" in value else value


def _about(record: RunRecord) -> dict[str, Any]:
    """The columns that say which run this is."""
    result = record.result or {}
    resolved = _mapping(record.environment.get("resolved"))
    about: dict[str, Any] = {
        "run": record.name,
        "status": record.state,
        "strategy": _lookup(record.config, "strategy.name"),
        "task_kind": result.get("task_kind", "single") if record.config else None,
    }
    about |= {column: _lookup(record.config, path) for column, path in PROTOCOL.items() if path}
    for column in ("precision", "compile"):
        asked = _lookup(record.config, f"training.{column}")
        about[column] = resolved.get(column, None if asked == "auto" else asked)
    held = result.get("memory_held")
    about["memory_held"] = sum(n for n in held if isinstance(n, int)) if isinstance(held, list) else None
    return about


def _summary_frame(abouts: list[dict[str, Any]], values: list[dict[str, Any]]) -> pd.DataFrame:
    frame = _typed(abouts, [*IDENTITY, *PROTOCOL])
    for name in _names(metrics.SUMMARY, values):
        frame[name] = _floats([row.get(name) for row in values])
    return frame


def _curves_frame(abouts: list[dict[str, Any]], curves: list[dict[str, Any]]) -> pd.DataFrame:
    protocol = [column for column in PROTOCOL if column != "memory_held"]
    about = _typed(abouts, ["run", "classifier", "strategy", *protocol])
    curves = [{name: series for name, series in c.items() if isinstance(series, list)} for c in curves]
    lengths = np.array([max(map(len, c.values()), default=0) for c in curves], dtype=np.int64)
    frame = about.iloc[np.repeat(np.arange(len(about)), lengths)].reset_index(drop=True)
    frame["experience"] = np.concatenate([np.arange(n) for n in lengths]) if len(lengths) else lengths
    for name in _names(metrics.CURVES, curves):
        flat: list[Any] = []
        for c, length in zip(curves, lengths, strict=True):
            series = c.get(name, [])
            flat += series + [None] * (length - len(series))
        frame[name] = _floats(flat)
    frame["num_seen_classes"] = frame["num_seen_classes"].round().astype("Int64")
    return frame


def _typed(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """Rows with exactly these columns; integers stay integers where a cell is empty."""
    import pandas as pd

    frame = pd.DataFrame({column: pd.Series([row[column] for row in rows], dtype=object) for column in columns})
    for column in set(INTEGERS) & set(columns):
        if all(value is None or type(value) is int for value in frame[column]):
            frame[column] = frame[column].astype("Int64")
    return frame


def _names(standard: Sequence[str], found: list[dict[str, Any]]) -> list[str]:
    return [*standard, *sorted({name for values in found for name in values} - set(standard))]


def _floats(values: list[Any]) -> npt.NDArray[np.float64]:
    """Finite numbers, nan for anything else: what a foreign file may hold besides is no result."""
    numbers = [value if type(value) in (float, int) else None for value in values]
    array = np.array(numbers, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def _lookup(config: dict[str, Any], path: str) -> Any:
    """The value at a dotted path in its short form, None when absent."""
    section, _, key = path.partition(".")
    return short_name(_mapping(config.get(section)).get(key))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
