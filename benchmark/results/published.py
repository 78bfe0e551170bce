"""Numbers that papers print, `results/published/*.csv`; `benchmark.tables.published` puts them beside ours.

One row a number. Its protocol stands in columns named as in summary.csv; an empty one means that the source does not
say. `value` is in percent, as printed. `metric` is a column of summary.csv, or average_accuracy and last_accuracy where
the source does not say over what it averages. `provenance` is "read" (in the paper, or in the code or thread that made
the number), "secondary" (quoted by another source) or "unverified" (from memory: shown, marked, never a target).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmark.errors import UserError

PROVENANCES = ("read", "secondary", "unverified")
# The columns that tell one experiment from another, beside its stream.
PROTOCOL = (
    "backbone",
    "pretrained",
    "memory_mode",
    "memory_budget",
    "epochs",
    "augmentation",
    "holdout",
    "order",
    "ranks",
)


@dataclass(frozen=True)
class Number:
    """One published number; an empty text or None is something its source does not say."""

    paper: str
    table: str
    dataset: str
    classes: int | None
    protocol: str
    tasks: int | None
    profile: str
    rho: float | None
    ranks: str
    order: str
    backbone: str
    pretrained: str  # on what, for a network that does not start from scratch
    memory_mode: str
    memory_budget: int | None
    epochs: int | None
    augmentation: str
    holdout: float | None
    method: str  # as the paper prints it
    strategy: str  # what it is called here, "" for a method that is not here
    classifier: str
    metric: str
    value: float
    provenance: str
    source: str
    note: str

    @property
    def is_target(self) -> bool:
        """Whether results may be measured against it: an unverified number never is one."""
        return self.provenance != "unverified"

    @property
    def setting(self) -> str:
        """The stream in words: "cifar100 LFH-10, rho 100, ordered"."""
        parts = [" ".join(filter(None, (self.dataset, stream_name(self.protocol, self.tasks))))]
        if self.rho is not None:
            parts.append("balanced" if self.rho == 1 else f"rho {self.rho:g}")
        if self.order == "ordered":
            parts.append("ordered")
        return ", ".join(parts)


def folder() -> Path:
    """Where the files are: in the installed package, or in the checkout."""
    packaged = Path(__file__).parents[1] / "published_numbers"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "results" / "published"


def load(directory: Path | None = None) -> list[Number]:
    """Every number of the files of `directory`, in file order. Raises UserError naming the file and line at fault."""
    numbers = []
    for path in sorted((directory or folder()).glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != [field.name for field in fields(Number)]:
                raise UserError(
                    f"{path} does not have the columns of benchmark.results.published.Number, in their order."
                )
            for row in reader:
                try:
                    numbers.append(_number(row))
                except (TypeError, ValueError) as error:
                    raise UserError(f"{path}, line {reader.line_num}: {error}.") from error
    return numbers


def contradictions(numbers: Iterable[Number]) -> list[str]:
    """One sentence per cell with several values that are not told apart by their sources; [] is as it should be.

    A cell is a method and metric on a stream. Two values are told apart when both rows name a source, and one source
    does not give two values for one protocol.
    """
    found = []
    cells: dict[tuple[str, str, str], list[Number]] = {}
    for number in numbers:
        cells.setdefault((number.setting, number.method, number.metric), []).append(number)
    for cell, rows in cells.items():
        if len({row.value for row in rows}) == 1:
            continue
        where = ", ".join(cell)
        if not all(row.source for row in rows):
            found.append(f"{where}: several values, and a row without a source.")
        by_source: dict[tuple[Any, ...], set[float]] = {}
        for row in rows:
            key = (row.paper, row.source, *(getattr(row, column) for column in PROTOCOL))
            by_source.setdefault(key, set()).add(row.value)
        found += [f"{where}: {k[1]} gives {sorted(v)} for {k[0]}." for k, v in by_source.items() if len(v) > 1]
    return found


def descriptions() -> list[tuple[str, str]]:
    """(paper, what the files have of it) for `imcil list published`."""
    papers: dict[str, list[Number]] = {}
    for number in load():
        papers.setdefault(number.paper, []).append(number)
    lines = []
    for paper, numbers in papers.items():
        streams = list(dict.fromkeys(number.setting for number in numbers))
        shown = "; ".join(streams[:3]) + (f"; … ({len(streams) - 3} more)" if len(streams) > 3 else "")
        kinds = ", ".join(
            f"{count} {kind}" for kind in PROVENANCES if (count := sum(n.provenance == kind for n in numbers))
        )
        lines.append((paper, f"{shown}: {kinds}"))
    return lines


def stream_name(protocol: Any, tasks: Any) -> str:
    """ "LFH-10"; the protocol alone where it has no number of tasks."""
    return str(protocol).upper() + (f"-{int(tasks)}" if tasks not in ("", None) else "")


def _number(row: Mapping[str, Any]) -> Number:
    """A row with its types; raises ValueError or TypeError."""
    if None in row or None in row.values():
        raise ValueError("the row has too many or too few cells")
    typed: dict[str, Any] = dict(row)
    for column in ("classes", "tasks", "memory_budget", "epochs"):
        typed[column] = int(row[column]) if row[column] else None
    for column in ("rho", "holdout"):
        typed[column] = float(row[column]) if row[column] else None
    typed["value"] = float(row["value"])
    if row["provenance"] not in PROVENANCES:
        raise ValueError(f'provenance "{row["provenance"]}" is none of {", ".join(PROVENANCES)}')
    if row["provenance"] != "unverified" and not row["source"]:
        raise ValueError("a number that is not unverified needs its source")
    return Number(**typed)
