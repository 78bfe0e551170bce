"""One finished run as a metric sees it, and metrics that people bring: any function of such a run.

    def worst_class(run):
        "Recall of the worst class after the last experience."
        return (run.confusion.diagonal() / run.confusion.sum(axis=1)).min()

A function returns a fraction (tables show percent) or nan; its name is the name of the metric, the first line of its
docstring the title of its table. `worst_class.lower_is_better = True` turns the order of rows around.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmark.errors import UserError, place
from benchmark.storage.files import DamagedFile, mapping, read_bytes, read_jsonl
from benchmark.storage.folder import RunFolder
from benchmark.storage.records import load_runs

if TYPE_CHECKING:
    import pandas as pd


class NotKept(ValueError):
    """The run does not hold what was asked for, as a committed reference run keeps less than a run of one's own."""


@dataclass(frozen=True)
class RunData:
    """A finished run and one of its classifiers; classes stand in order of arrival, accuracies are fractions.

    `config`, `stream`: the content of config.json and stream.json; `summary`: metric -> value; `curves`: metric -> one
    value per experience; `memory_held`: exemplars per class after the last experience.
    """

    name: str
    classifier: str
    path: Path
    config: dict[str, Any]
    stream: dict[str, Any]
    summary: dict[str, float]
    curves: dict[str, list[float]]
    memory_held: list[int]

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """(C, C) test images after the last experience kept, true class by predicted class. Raises NotKept."""
        files = sorted(RunFolder(self.path).confusion.glob("[0-9]*.npz"))
        try:
            with np.load(io.BytesIO(read_bytes(files[-1])), allow_pickle=False) as content:
                return np.asarray(content[self.classifier], dtype=np.int64)
        except Exception as error:  # numpy raises what its zip and header readers raise
            raise NotKept(f"{self.name} holds no readable confusion matrix of {self.classifier}.") from error

    @cached_property
    def records(self) -> list[dict[str, npt.NDArray[np.int64]]]:
        """{"correct", "total"} per seen class, after each experience: metrics.jsonl. Raises NotKept."""
        try:
            lines = read_jsonl(RunFolder(self.path).metrics)
            found = [line["classifiers"][self.classifier] for line in lines]
            records = [{key: np.asarray(part[key], dtype=np.int64) for key in ("correct", "total")} for part in found]
        except (OSError, DamagedFile, KeyError, TypeError, ValueError) as error:
            raise NotKept(f"{self.name} holds no readable metrics.jsonl.") from error
        if not records:
            raise NotKept(f"{self.name} holds no metrics.jsonl.")
        return records


Metric = Callable[[RunData], float]


def load_metric(name: str) -> Metric:
    """The function of `path/to/file.py:function`; its file is imported. Raises UserError."""
    from strategies.user_code import import_file

    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UserError(f'The metric file "{file}" does not exist.')
    try:
        module = import_file(path)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}{place(error, [file])}"
        raise UserError(f'The metric file "{file}" cannot be imported: {reason}.') from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(f'"{file}" has no function "{attribute}".')
    return function


def with_metric(summary: pd.DataFrame, function: Metric) -> pd.DataFrame:
    """A copy of a summary with one more column, named and titled after `function`; empty where a run keeps too little.

    `summary` comes from `benchmark.results.summary.summarise`, which notes where the runs are.

    Raises
    ------
    UserError : the function raised, returned no number, or has the name of a column that is there.
    """
    name, code = function.__name__, getattr(function, "__code__", None)
    files = [code.co_filename] if code else []
    result = with_columns(summary, name, (name,), lambda run: {name: function(run)}, files)
    first_line = (function.__doc__ or name.replace("_", " ").capitalize()).strip().splitlines()[0].rstrip(".")
    result.attrs["titles"] = {**summary.attrs.get("titles", {}), name: first_line}
    if getattr(function, "lower_is_better", False):
        result.attrs["lower_is_better"] = (*summary.attrs.get("lower_is_better", ()), name)
    return result


def with_columns(
    summary: pd.DataFrame,
    what: str,
    names: Sequence[str],
    function: Callable[[RunData], Mapping[str, float]],
    files: Sequence[str] = (),
) -> pd.DataFrame:
    """A copy of a summary with the columns `names` that `function` computes for a run.

    `what` names it in errors, which tell a line of one of its `files`.
    """
    for name in names:
        if name in summary.columns:
            raise UserError(f'There is a column "{name}" already: give the metric function another name.')
    if "runs" not in summary.attrs:
        raise UserError(
            "A metric function needs the run folders: take the summary from benchmark.results.summary.summarise."
        )
    wanted = set(summary["run"])
    values: dict[tuple[str, str], Mapping[str, float]] = {}
    for run in run_data(summary.attrs["runs"]):
        if run.name not in wanted:
            continue
        try:
            values[run.name, run.classifier] = {name: _number(value) for name, value in function(run).items()}
        except NotKept:
            continue
        except Exception as error:
            reason = str(error) if isinstance(error, NoNumber) else f"{type(error).__name__}: {error}"
            raise UserError(f"The metric {what} failed on {run.name}: {reason}{place(error, files)}.") from error
    keys = list(zip(summary["run"], summary["classifier"], strict=True))
    columns = {name: [values.get(key, {}).get(name, float("nan")) for key in keys] for name in names}
    result = summary.assign(**columns)
    result.attrs = dict(summary.attrs)
    return result


def run_data(runs: str | Path) -> list[RunData]:
    """Every finished run under the folder `runs`, once per classifier."""
    found = []
    for record in load_runs(Path(runs).parent):
        result = record.result if record.state == "done" else None
        for classifier, content in sorted((result or {}).get("classifiers", {}).items()):
            content = mapping(content)
            found.append(
                RunData(
                    name=record.name,
                    classifier=classifier,
                    path=record.path,
                    config=record.config,
                    stream=record.stream,
                    summary=_numbers(content.get("summary")),
                    curves={key: _floats(value) for key, value in mapping(content.get("curves")).items()},
                    memory_held=[int(n) for n in _floats((result or {}).get("memory_held")) if n == n],
                )
            )
    return found


class NoNumber(TypeError):
    """A metric function returned something else."""


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        shown = repr(value) if value is None or isinstance(value, str) else type(value).__name__
        raise NoNumber(f"it returned {shown}, not a number") from None


def _numbers(value: Any) -> dict[str, float]:
    return dict(zip(mapping(value), _floats(list(mapping(value).values())), strict=True))


def _floats(value: Any) -> list[float]:
    """Numbers as floats, nan for anything else."""
    items = value if isinstance(value, list) else []
    return [float(item) if type(item) in (int, float) else float("nan") for item in items]
