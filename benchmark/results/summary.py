"""Run folders -> summary.csv (one row per run and classifier) and curves.csv (one row per run, classifier, experience).

Both depend on the run folders only: rows sorted by run and classifier, floats in their shortest exact form, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmark import datasets
from benchmark.config.schema import NOT_SCIENCE, RunConfig
from benchmark.metrics import multi_label, single_label
from benchmark.results import small_batches
from benchmark.storage.files import DamagedFile, config_hash, mapping, read_json, write_text
from benchmark.storage.records import RunRecord, load_runs
from benchmark.storage.text import printable, to_csv
from benchmark.streams.split import fixes_tasks

if TYPE_CHECKING:
    import pandas as pd

# Column -> where config.json holds it.
PROTOCOL = {
    "dataset": "dataset.name",
    "classes": "dataset.classes",  # how many; empty: all
    "protocol": "stream.protocol",
    "tasks": "stream.tasks",
    "profile": "stream.profile",
    "rho": "stream.rho",
    "max_count": "stream.max_count",
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
CELLS = [(column, *path.split(".")) for column, path in PROTOCOL.items() if path]  # (column, section, key)
IDENTITY = ("run", "status", "strategy", "classifier", "task_kind")
INTEGERS = (
    "classes",
    "tasks",
    "max_count",
    "order_seed",
    "subset_seed",
    "rank_seed",
    "training_seed",
    "memory_budget",
    "memory_held",
    "epochs",
)

Options = tuple[tuple[str, str], ...]


def summarise(directory: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(summary, curves) of the runs under DIR/runs, and of those that DIR/sweep.json plans; see `summarise_runs`.

    Raises UserError when DIR holds no runs.
    """
    return summarise_runs(all_runs(directory))


def all_runs(directory: str | Path) -> list[RunRecord]:
    """The runs under DIR/runs and those that DIR/sweep.json plans but nobody has started, sorted by name.

    Raises UserError when DIR holds no runs.
    """
    records = load_runs(directory)
    return sorted([*records, *_not_started(directory, records)], key=lambda record: record.name)


def summarise_runs(records: Sequence[RunRecord]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(summary, curves) of loaded runs.

    Every run has a row in `summary`, whatever its status: one without a result leaves classifier and metrics empty.
    `curves` holds finished runs only. Multi-label metrics follow the single-label columns; unknown names come last.
    Both carry `find_variants(records)` in `.attrs["variants"]`, for tables and figures, and in `.attrs["runs"]` the
    folder of the runs, for metrics that are computed from them. `.attrs["held_out"]`: some are trials (`imcil tune`).
    `.attrs["small_batches"]`: `last_batch.find_small(records)`.
    """
    abouts: list[dict[str, Any]] = []
    values: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for record in records:
        about = _about(record)
        classifiers = (record.result or {}).get("classifiers", {})
        for name in sorted(classifiers):
            found = mapping(classifiers[name])
            abouts.append({**about, "classifier": name})
            values.append(mapping(found.get("summary")))
            curves.append(mapping(found.get("curves")))
        if not classifiers:
            abouts.append({**about, "classifier": None})
            values.append({})
            curves.append({})
    frames = _summary_frame(abouts, values), _curves_frame(abouts, curves)
    variants, small = find_variants(records), small_batches.find_small(records)
    for frame in frames:
        frame.attrs["variants"], frame.attrs["small_batches"] = variants, small
        if records:
            frame.attrs["runs"] = str(records[0].path.parent)
            frame.attrs["held_out"] = any(
                mapping(record.config.get("stream")).get("evaluate") == "holdout" for record in records
            )
    return frames


def write_summary(directory: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write DIR/summary.csv and DIR/curves.csv; returns both frames."""
    summary, curves = summarise(directory)
    for name, frame in (("summary.csv", summary), ("curves.csv", curves)):
        write_text(Path(directory) / name, to_csv(frame))
    return summary, curves


def short_name(value: Any) -> Any:
    """A config value as a cell: a list or section is "custom", `path/to/file.py:Class` is "Class" (paths differ)."""
    if isinstance(value, list | dict):
        return "custom"
    if isinstance(value, str):
        return printable(value.rpartition(":")[2] if ".py:" in value else value)
    return value


def find_variants(records: Sequence[RunRecord]) -> dict[str, str]:
    """Run name -> the options, outside the summary's columns, in which runs of one method and setting differ.

    A grid over `strategy.temperature` gives {"…": "temperature=1", "…": "temperature=2"}; usually there are none.
    """
    runs: dict[Options, list[str]] = {}  # few distinct ones: runs differ in their seeds above all
    seen: dict[tuple[str, str], Options] = {}
    for record in records:
        if record.config:
            runs.setdefault(_options(record.config, seen), []).append(record.name)
    flat = {options: dict(options) for options in runs}
    columns = {"strategy.name", *filter(None, PROTOCOL.values())}
    by = ["strategy.name", *sorted(columns)]

    def as_column(options: Options, path: str) -> str:
        value = flat[options].get(path, "")
        return value.partition("#")[0] if path in columns else value

    groups: dict[tuple[str, ...], list[Options]] = {}
    for options in flat:
        groups.setdefault(tuple(as_column(options, path) for path in by), []).append(options)
    differing: dict[str, set[str]] = {}
    for (strategy, *_), group in groups.items():
        keys = {key for options in group for key in flat[options]}
        found = {key for key in keys if len({flat[options].get(key) for options in group}) > 1}
        differing.setdefault(strategy, set()).update(found)
    variants: dict[str, str] = {}
    for options, names in runs.items():
        if keys := differing[as_column(options, "strategy.name")]:
            parts = [
                f"{key.removeprefix('strategy.').removeprefix('training.')}={flat[options].get(key, 'default')}"
                for key in sorted(keys)
            ]
            variants |= dict.fromkeys(names, ", ".join(parts))
    return variants


def text(value: Any) -> str:
    """A cell value as people write it: 100.0 -> "100", a missing one -> "-"."""
    if value is None or str(value) == "<NA>" or value != value:
        return "-"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _not_started(directory: str | Path, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs of DIR/sweep.json, {"runs": {name: config}}, that have no folder yet; [] when it cannot be read."""
    try:
        plan = read_json(Path(directory) / "sweep.json")
    except (OSError, DamagedFile):
        return []
    planned = mapping(mapping(plan).get("runs"))
    names = set(planned) - {record.name for record in records}
    runs = Path(directory) / "runs"
    return [RunRecord(name, runs / name, "pending", mapping(planned[name]), {}, {}, None, {}) for name in names]


def _about(record: RunRecord) -> dict[str, Any]:
    """The columns that say which run this is."""
    result = record.result or {}
    resolved = mapping(record.environment.get("resolved"))
    about: dict[str, Any] = {
        "run": record.name,
        "status": record.state,
        "strategy": short_name(mapping(record.config.get("strategy")).get("name")),
        "task_kind": _task_kind(record) if record.config else None,
    }
    sections = {section: mapping(record.config.get(section)) for _, section, _ in CELLS}
    about |= {column: short_name(sections[section].get(key)) for column, section, key in CELLS}
    classes = sections["dataset"].get("classes")
    about["classes"] = len(classes) if isinstance(classes, list) else classes
    if fixes_tasks(text(about["protocol"])):
        about["tasks"] = None
    for column in ("precision", "compile"):
        asked = short_name(sections["training"].get(column))
        about[column] = resolved.get(column, None if asked == "auto" else asked)
    held = result.get("memory_held")
    about["memory_held"] = sum(n for n in held if isinstance(n, int)) if isinstance(held, list) else None
    return about


def _task_kind(record: RunRecord) -> str:
    """Of a run without result, that of its dataset."""
    if record.result is not None:
        return str(record.result.get("task_kind", "single"))
    dataset = mapping(record.config.get("dataset")).get("name")
    return datasets.task_kind(dataset) if dataset in datasets.names() else "single"


def _summary_frame(abouts: list[dict[str, Any]], values: list[dict[str, Any]]) -> pd.DataFrame:
    frame = _typed(abouts, [*IDENTITY, *PROTOCOL])
    for name in _names(single_label.SUMMARY, multi_label.SUMMARY, values):
        frame[name] = _floats([row.get(name) for row in values])
    return frame


def _curves_frame(abouts: list[dict[str, Any]], curves: list[dict[str, Any]]) -> pd.DataFrame:
    protocol = [column for column in PROTOCOL if column != "memory_held"]
    about = _typed(abouts, ["run", "classifier", "strategy", *protocol])
    curves = [{name: series for name, series in c.items() if isinstance(series, list)} for c in curves]
    lengths = np.array([max(map(len, c.values()), default=0) for c in curves], dtype=np.int64)
    frame = about.iloc[np.repeat(np.arange(len(about)), lengths)].reset_index(drop=True)
    frame["experience"] = np.concatenate([np.arange(n) for n in lengths]) if len(lengths) else lengths
    for name in _names(single_label.CURVES, multi_label.CURVES, curves):
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


def _names(standard: Sequence[str], known: Sequence[str], found: list[dict[str, Any]]) -> list[str]:
    """`standard`, then what was found besides: names in `known` in its order, others sorted."""
    names = {name for values in found for name in values} - set(standard)
    return [*standard, *(name for name in known if name in names), *sorted(names - set(known))]


def _floats(values: list[Any]) -> npt.NDArray[np.float64]:
    """Finite numbers, nan for anything else: what a foreign file may hold besides is no result."""
    numbers = [value if type(value) in (float, int) else None for value in values]
    array = np.array(numbers, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def _options(config: Mapping[str, Any], seen: dict[tuple[str, str], Options]) -> Options:
    """(dotted key, text) of every option that is no seed and can change a result; `seen` keeps those of a section.

    What the summary abbreviates (a list, a file) is its short form, "#" and a hash, so that two of them stay apart.
    A run from before an option existed has its default.
    """
    options: Options = ()
    defaults = _defaults()
    for section, values in config.items():
        known = (section, repr(values))
        if known not in seen:
            found = []
            given = {**defaults.get(section, {}), **values} if isinstance(values, Mapping) else {}
            for key, value in given.items():
                path = f"{section}.{key}"
                if not key.endswith("seed") and path not in NOT_SCIENCE:
                    short = len(value) if path == "dataset.classes" and isinstance(value, list) else short_name(value)
                    whole = short == value
                    found.append((path, text(value) if whole else f"{text(short)}#{config_hash({'': value})[:6]}"))
            seen[known] = tuple(found)
        options += seen[known]
    return options


@cache
def _defaults() -> dict[str, dict[str, Any]]:
    content = RunConfig().model_dump(mode="json")
    return {section: values for section, values in content.items() if section != "strategy"}
