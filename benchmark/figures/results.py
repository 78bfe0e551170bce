"""What figures are drawn from: the finished runs of a results folder, and how one picks among them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmark import grouping
from benchmark.accounting import run_cost
from benchmark.errors import UserError
from benchmark.figures.style import PRINCIPAL
from benchmark.overrides import parse_override
from benchmark.store import DamagedFile, RunFolder, RunRecord, load_runs, read_bytes, read_jsonl
from benchmark.summary import summarise_runs, text

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]
Classes = dict[str, FloatArray]  # method -> (runs, classes), classes in order of arrival

# Methods whose paper classifies by nearest mean of exemplars; elsewhere the head speaks for the method.
BY_MEANS = ("icarl", "icarl_bsce")


class NotDrawn(Exception):
    """A figure whose data are absent; the message is one sentence that says what is missing."""


@dataclass(frozen=True)
class Results:
    """The finished runs of one folder, or of a part of it; frames and files are read when asked for."""

    records: tuple[RunRecord, ...]

    @classmethod
    def load(cls, directory: str | Path, where: Sequence[str] = ()) -> Results:
        """The finished runs of DIR whose config agrees with every `key=value`; a list of values means any of them.

        Raises
        ------
        UserError : DIR holds no results, or a condition is no key=value.
        """
        conditions = [parse_override(condition) for condition in where]
        records = [record for record in load_runs(directory) if record.state == "done"]
        return cls(tuple(record for record in records if all(_agrees(record, *c) for c in conditions)))

    @cached_property
    def summary(self) -> pd.DataFrame:
        """As from `benchmark.summary`."""
        return summarise_runs(self.records)[0]

    @cached_property
    def curves(self) -> pd.DataFrame:
        """As from `benchmark.summary`."""
        return summarise_runs(self.records)[1]

    def only(self, runs: set[str]) -> Results:
        """The part with these runs."""
        return Results(tuple(record for record in self.records if record.name in runs))

    def strategies(self, *names: str) -> Results:
        """The part with these strategies, whatever their options."""
        return Results(tuple(record for record in self.records if strategy_of(record) in names))

    # --- picking ------------------------------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> list[Results]:
        """One part per setting (dataset, stream, memory, training), the one with most methods and runs first."""
        groups: dict[tuple[str, ...], set[str]] = {}
        for row in self.summary.to_dict("records"):
            groups.setdefault(tuple(text(row[column]) for column in grouping.SETTING), set()).add(row["run"])
        parts = [self.only(runs) for runs in groups.values()]
        return sorted(parts, key=lambda part: (-part.summary["strategy"].nunique(), -len(part.records)))

    @property
    def main(self) -> Results:
        """The setting with most methods. Raises NotDrawn without a finished run."""
        if not self.settings:
            raise NotDrawn("there is no finished run")
        return self.settings[0]

    @property
    def one_step(self) -> Results:
        """The setting with two experiences if two methods have run there, else `main`."""
        short = [part for part in self.settings if part.tasks == 2 and part.summary["strategy"].nunique() > 1]
        return short[0] if short else self.main

    def varying(self, column: str) -> Results:
        """The settings that differ in `column` alone, with the methods that ran under more than one of its values.

        Raises NotDrawn when no method did.
        """
        rest = [name for name in grouping.SETTING if name != column]
        groups: dict[tuple[str, ...], dict[str, dict[str, set[str]]]] = {}
        for row in self.summary.to_dict("records"):
            group = groups.setdefault(tuple(text(row[name]) for name in rest), {})
            group.setdefault(row["strategy"], {}).setdefault(text(row[column]), set()).add(row["run"])
        best: dict[str, dict[str, set[str]]] = {}
        for group in groups.values():
            varied = {strategy: by_value for strategy, by_value in group.items() if len(by_value) > 1}
            if sum(map(len, varied.values())) > sum(map(len, best.values())):
                best = varied
        if not best:
            raise NotDrawn(f"no method ran with more than one {column.replace('_', ' ')}")
        return self.only({run for by_value in best.values() for runs in by_value.values() for run in runs})

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> int:
        """Experiences of the first run."""
        return len(self.sizes)

    @property
    def stream(self) -> dict[str, Any]:
        """stream.json of the first run."""
        return self.records[0].stream

    @property
    def sizes(self) -> list[int]:
        """Classes per experience of the first run."""
        return [int(size) for size in self.stream["sizes"]]

    @property
    def image_counts(self) -> FloatArray:
        """Training images per class in order of arrival, of the first run."""
        return np.asarray(self.stream.get("train_counts") or self.stream["profile_counts"], dtype=np.float64)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Run -> method's label, without its classifier."""
        rows = grouping.label_rows(self.summary)
        return dict(zip(rows["run"], rows["base"], strict=True))

    def methods(self, limit: int | None = None) -> list[str]:
        """Labels of the methods, the principal ones first; at most `limit`."""
        strategy = {self.labels[record.name]: strategy_of(record) for record in self.records}

        def place(label: str) -> tuple[int, str]:
            known = strategy[label] in PRINCIPAL
            return (PRINCIPAL.index(strategy[label]) if known else len(PRINCIPAL)), label

        return sorted(strategy, key=place)[:limit]

    def diagnostics(self, experience: int, key: str) -> Classes:
        """One recorded list per class after an experience (-1: the last), of the methods that have it."""
        found: dict[str, list[list[float]]] = {}
        for record in self.records:
            try:
                lines = RunFolder(record.path).read_diagnostics()
                value = lines[experience][key]
            except (OSError, DamagedFile, IndexError, KeyError):
                continue
            if isinstance(value, list):
                found.setdefault(self.labels[record.name], []).append(value)
        return {method: np.asarray(values, dtype=np.float64) for method, values in found.items() if _is_table(values)}

    def scales(self) -> dict[str, FloatArray]:
        """The learned scale of cosine heads after the last experience, (runs,) per method that has one."""
        found: dict[str, list[float]] = {}
        for record in self.records:
            try:
                scale = RunFolder(record.path).read_diagnostics()[-1]["scale"]
            except (OSError, DamagedFile, IndexError, KeyError):
                continue
            if isinstance(scale, int | float):
                found.setdefault(self.labels[record.name], []).append(float(scale))
        return {method: np.asarray(values) for method, values in found.items()}

    def costs(self, name: str) -> dict[str, list[float]]:
        """A figure of `accounting.run_cost` of every run that has it, by method."""
        found: dict[str, list[float]] = {}
        for record in self.records:
            try:
                value = run_cost(read_jsonl(RunFolder(record.path).cost)).get(name)
            except (OSError, DamagedFile, KeyError, TypeError, ValueError):
                continue
            if value is not None:
                found.setdefault(self.labels[record.name], []).append(float(value))
        return found

    def recalls(self) -> dict[str, FloatArray]:
        """Method -> (runs, experiences, classes), nan for classes not seen yet, by the method's own classifier."""
        found: dict[str, list[FloatArray]] = {}
        for record in self.records:
            try:
                lines = read_jsonl(RunFolder(record.path).metrics)
                table = np.full((len(lines), sum(self.sizes)), np.nan)
                for t, line in enumerate(lines):
                    counted = line["classifiers"][own_classifier(record, line["classifiers"])]
                    correct, total = np.asarray(counted["correct"], float), np.asarray(counted["total"], float)
                    table[t, : len(total)] = np.where(total > 0, correct / np.maximum(total, 1), np.nan)
            except (OSError, DamagedFile, KeyError, ValueError, TypeError):
                continue
            if len(lines) == self.tasks:
                found.setdefault(self.labels[record.name], []).append(table)
        return {method: np.stack(tables) for method, tables in found.items()}

    def confusions(self) -> dict[str, FloatArray]:
        """Method -> mean over runs of the last confusion matrix (true, predicted) in images, by its own classifier."""
        found: dict[str, list[FloatArray]] = {}
        for record in self.records:
            files = sorted(RunFolder(record.path).confusion.glob("*.npz"))
            try:
                with np.load(io.BytesIO(read_bytes(files[-1])), allow_pickle=False) as arrays:
                    matrix = np.asarray(arrays[own_classifier(record, arrays)], dtype=np.float64)
            except (OSError, IndexError, KeyError, ValueError):
                continue
            if matrix.shape == (sum(self.sizes),) * 2:
                found.setdefault(self.labels[record.name], []).append(matrix)
        return {method: np.mean(matrices, axis=0) for method, matrices in found.items()}

    def protocol(self) -> str:
        """Dataset and protocol in one sentence."""
        rows = grouping.label_rows(self.summary)
        stream, training = grouping.protocol_notes(rows)
        classes = sorted({sum(record.stream["sizes"]) for record in self.records})
        dataset = rows["dataset"].map(text).iloc[0]
        if rows["dataset"].nunique() == 1:
            stream = stream.replace(dataset, f"{dataset} ({' / '.join(map(str, classes))} classes)", 1)
        return f"{stream.removeprefix('Stream: ').rstrip('.')}; {training.removeprefix('Training: ')}"


def own_classifier(record: RunRecord, found: Mapping[str, Any] | Any) -> str:
    """The classifier that a method's paper reports: nearest means for iCaRL, else the head, else the first."""
    names = sorted(found)
    if strategy_of(record) in BY_MEANS and "nme" in names:
        return "nme"
    return "head" if "head" in names else names[0]


def own_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """A summary or curves frame with one classifier per strategy, see `own_classifier`."""
    several = frame.groupby("run")["classifier"].transform("nunique") > 1
    means = frame["strategy"].isin(BY_MEANS)
    own = (frame["classifier"] == "nme").where(means, frame["classifier"] == "head")
    kept = frame[~several | own]
    kept.attrs = frame.attrs
    return kept


def strategy_of(record: RunRecord) -> str:
    """Name of the strategy of a run."""
    section = record.config.get("strategy")
    return str(section.get("name")) if isinstance(section, Mapping) else str(section)


def _agrees(record: RunRecord, key: str, value: Any) -> bool:
    section, _, field = (f"{key}.name" if key in ("strategy", "dataset") else key).partition(".")
    content = record.config.get(section)
    if not isinstance(content, Mapping) or not field:
        raise UserError(f'"{key}" selects no runs: name a field of a section, for example memory.budget=20.')
    found = content.get(field)
    return found in value if isinstance(value, list) and not isinstance(found, list) else found == value


def _is_table(values: Sequence[Sequence[Any]]) -> bool:
    """Rows of one length, numbers only."""
    numbers = all(isinstance(v, int | float) for row in values for v in row)
    return numbers and len({len(row) for row in values}) == 1
