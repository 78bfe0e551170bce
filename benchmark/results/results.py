"""What figures are drawn from: the finished runs of a results folder, and how one picks among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from benchmark.results import labels
from benchmark.results.costs import run_cost
from benchmark.results.filters import select
from benchmark.results.labels import trials
from benchmark.results.summary import summarise_runs, text
from benchmark.storage.files import read_jsonl
from benchmark.storage.folder import RunFolder
from benchmark.storage.records import RunRecord, Unreadable, last_confusion, load_runs, stream_of

if TYPE_CHECKING:
    import pandas as pd

PRINCIPAL = ("replay", "icarl", "bic", "wa", "lucir", "balanced_softmax", "dgr")  # drawn first where room is short
FloatArray = npt.NDArray[np.float64]
Classes = dict[str, FloatArray]  # method -> (runs, classes), classes in order of arrival
T = TypeVar("T")


class NotDrawn(Exception):
    """A figure whose data are absent; the message is one sentence that says what is missing."""


@dataclass(frozen=True)
class Results:
    """The finished runs of one folder, or of a part of it; frames and files are read when asked for."""

    records: tuple[RunRecord, ...]

    @classmethod
    def load(cls, directory: str | Path, where: Sequence[str] = ()) -> Results:
        """The finished runs of DIR whose config agrees with every `key=value`; a list of values means any of them.

        A run that names no strategy belongs to no method and is left out.

        Raises
        ------
        UserError : DIR holds no results, or a condition is no key=value, or no finished run agrees with it.
        """
        records = [record for record in load_runs(directory) if record.state == "done" and _names_strategy(record)]
        return cls(tuple(select(records, where, "finished run")))

    @cached_property
    def summary(self) -> pd.DataFrame:
        """As from `benchmark.results.summary`."""
        return summarise_runs(self.records)[0]

    @cached_property
    def curves(self) -> pd.DataFrame:
        """As from `benchmark.results.summary`."""
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
        return self._parts(lambda record: None)

    @cached_property
    def streams(self) -> list[Results]:
        """As `settings`, of the runs that say what their stream was; those with other experiences are apart.

        Raises NotDrawn without such a run.
        """
        known = Results(tuple(record for record in self.records if _has_stream(record)))
        if not known.records:
            raise NotDrawn("no finished run has a readable stream.json and a memory in its config.json")
        return known._parts(lambda record: tuple(record.stream["sizes"]))

    def _parts(self, apart: Callable[[RunRecord], Any]) -> list[Results]:
        """The settings; in each, runs of which `apart` differs go to different parts."""
        differs = {record.name: apart(record) for record in self.records}
        groups: dict[Any, set[str]] = {}
        for row in self.summary.to_dict("records"):
            setting = tuple(text(row[column]) for column in labels.SETTING)
            groups.setdefault((setting, differs[row["run"]]), set()).add(row["run"])
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
        """Of `streams`, the one with two experiences if two methods have run there, else the first."""
        short = [part for part in self.streams if part.tasks == 2 and part.summary["strategy"].nunique() > 1]
        return (short or self.streams)[0]

    def varying(self, column: str) -> Results:
        """The settings that differ in `column` alone, with the methods that ran under more than one of its values.

        Raises NotDrawn when no method did.
        """
        rest = [name for name in labels.SETTING if name != column]
        groups: dict[tuple[str, ...], dict[str, dict[str, set[str]]]] = {}
        for row in self.summary[self.summary[column].notna()].to_dict("records"):
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
    def sizes(self) -> list[int]:
        """Classes per experience of the first run."""
        return [int(size) for size in self.records[0].stream["sizes"]]

    @cached_property
    def labels(self) -> dict[str, str]:
        """Run -> method's label, without its classifier. Raises UserError when runs of one must not be averaged."""
        rows = labels.label_rows(self.summary).drop_duplicates("run")
        for cell, runs in rows.groupby(["base", "setting"]):
            labels.check_comparable(runs, *map(str, cell))
        return dict(zip(rows["run"], rows["base"], strict=True))

    def methods(self, limit: int | None = None) -> list[str]:
        """Labels of the methods, the principal ones first; at most `limit`."""
        strategy = {self.labels[record.name]: strategy_of(record) for record in self.records}

        def place(label: str) -> tuple[int, str]:
            known = strategy[label] in PRINCIPAL
            return (PRINCIPAL.index(strategy[label]) if known else len(PRINCIPAL)), label

        return sorted(strategy, key=place)[:limit]

    def read(self, of: Callable[[RunRecord], T | None]) -> dict[str, T]:
        """Run -> what `of` finds in its files; runs where these are missing, damaged or foreign are left out."""
        found: dict[str, T] = {}
        for record in self.records:
            try:
                value = of(record)
            except (OSError, LookupError, TypeError, ValueError):  # DamagedFile and Unreadable are ValueErrors
                continue
            if value is not None:
                found[record.name] = value
        return found

    def by_method(self, found: Mapping[str, T]) -> dict[str, list[T]]:
        """Method -> the values of its runs."""
        values: dict[str, list[T]] = {}
        for run, value in found.items():
            values.setdefault(self.labels[run], []).append(value)
        return values

    def diagnosed(self, experience: int, key: str) -> dict[str, FloatArray]:
        """Run -> a recorded number per class seen in an experience (-1: the last)."""
        seen = sum(self.sizes[: experience % self.tasks + 1])

        def read(record: RunRecord) -> FloatArray | None:
            values = np.asarray(self._diagnostics(record)[experience][key], dtype=np.float64)
            return values if values.shape == (seen,) else None

        return self.read(read)

    def diagnostics(self, experience: int, key: str) -> Classes:
        """As `diagnosed`, by method."""
        found = self.by_method(self.diagnosed(experience, key))
        return {method: np.stack(values) for method, values in found.items()}

    def scales(self) -> dict[str, FloatArray]:
        """The learned scale of cosine heads after the last experience, (runs,) per method that has one."""

        def read(record: RunRecord) -> float | None:
            scale = self._diagnostics(record)[-1]["scale"]
            return None if scale is None else float(scale)

        return {method: np.asarray(values) for method, values in self.by_method(self.read(read)).items()}

    def _diagnostics(self, record: RunRecord) -> list[dict[str, Any]]:
        lines = RunFolder(record.path).read_diagnostics()
        return lines if len(lines) == self.tasks else []

    def costs(self, name: str) -> dict[str, list[float]]:
        """A figure of `accounting.run_cost` of every run that has it, by method."""
        costs = self.read(lambda record: float(run_cost(read_jsonl(RunFolder(record.path).cost))[name]))
        return self.by_method(costs)

    def recalls(self) -> dict[str, FloatArray]:
        """Run -> (experiences, classes), nan for classes not seen yet, by the method's own classifier."""

        def read(record: RunRecord) -> FloatArray | None:
            lines = read_jsonl(RunFolder(record.path).metrics)
            table = np.full((len(lines), sum(self.sizes)), np.nan)
            for t, line in enumerate(lines):
                counted = line["classifiers"][own_classifier(record, line["classifiers"])]
                correct, total = np.asarray(counted["correct"], float), np.asarray(counted["total"], float)
                table[t, : len(total)] = np.where(total > 0, correct / np.maximum(total, 1), np.nan)
            return table if len(lines) == self.tasks else None

        return self.read(read)

    def confusions(self) -> dict[str, FloatArray]:
        """Method -> (runs, true, predicted): the last confusion matrices in images, by its own classifier."""

        def read(record: RunRecord) -> FloatArray:
            matrices = last_confusion(record, sum(self.sizes))
            return np.asarray(matrices[own_classifier(record, matrices)], dtype=np.float64)

        return {method: np.stack(matrices) for method, matrices in self.by_method(self.read(read)).items()}

    def notes(self) -> list[str]:
        """What stands under every figure: dataset and protocol, and whether these are trials."""
        return [self.protocol(), *trials(self.summary)]

    def protocol(self) -> str:
        """Dataset and protocol in one sentence."""
        rows = labels.label_rows(self.summary)
        stream, training = labels.protocol_notes(rows)
        classes = sorted({sum(record.stream["sizes"]) for record in self.records if _has_stream(record)})
        dataset = rows["dataset"].map(text).iloc[0]
        if classes and rows["dataset"].nunique() == 1 and rows["classes"].isna().all():  # else the notes have it
            stream = stream.replace(dataset, f"{dataset} ({' / '.join(map(str, classes))} classes)", 1)
        return f"{stream.removeprefix('Stream: ').rstrip('.')}; {training.removeprefix('Training: ')}"


def own_classifier(record: RunRecord, found: Mapping[str, Any] | Any) -> str:
    """The classifier that a method's paper reports: nearest means for iCaRL, else the head, else the first."""
    names = sorted(found)
    if strategy_of(record) in labels.BY_MEANS and "nme" in names:
        return "nme"
    return "head" if "head" in names else names[0]


def image_counts(record: RunRecord) -> FloatArray:
    """Training images per class in order of arrival."""
    return np.asarray(record.stream.get("train_counts") or record.stream["profile_counts"], dtype=np.float64)


def share_order(records: Sequence[RunRecord]) -> bool:
    """Whether the class at one place of the order of arrival is the same in all runs, and has as many images."""
    orders = {str(record.stream.get("class_order")) for record in records}
    return len(orders) == 1 and share_counts(records)


def share_counts(records: Sequence[RunRecord]) -> bool:
    """Whether the class at one place of the order of arrival has as many images in all runs."""
    return len({tuple(image_counts(record)) for record in records}) == 1


def renamed(label: str, names: Mapping[str, str]) -> str:
    """A method's label with another name for its strategy: "dgr [lr=1]" -> "DAKD [lr=1]"."""
    strategy, _, options = label.partition(" ")
    return names.get(strategy, strategy) + (f" {options}" if options else "")


def strategy_of(record: RunRecord) -> str:
    """Name of the strategy of a run."""
    section = record.config.get("strategy")
    return str(section.get("name")) if isinstance(section, Mapping) else str(section)


def _names_strategy(record: RunRecord) -> bool:
    section = record.config.get("strategy")
    return isinstance(section, Mapping) and isinstance(section.get("name"), str)


def _has_stream(record: RunRecord) -> bool:
    """Whether stream.json can be read and agrees with itself, and config.json says what memory there was."""
    memory = record.config.get("memory")
    if not isinstance(memory, Mapping) or type(memory.get("budget")) is not int or "mode" not in memory:
        return False
    try:
        sizes = stream_of(record)["sizes"]
        return min(sizes) > 0 and image_counts(record).shape == (sum(sizes),)
    except (Unreadable, TypeError, ValueError):
        return False
