"""StreamInfo: what a stream holds, per class in order of arrival, as data and as a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

FEW = 20  # a class with fewer training images than this belongs to the "few" group
MANY = 100  # and with more than this to the "many" group


@dataclass(frozen=True)
class StreamInfo:
    """A stream's order, sizes and counts; every per-class tuple is in order of arrival.

    `class_order` holds the original label of each arrival column. `profile_counts` are the training images before any
    hold-out (the frequency groups are defined on them), `train_counts` those that are left, `valid_counts` those held
    out. `tasks` is the number of experiences, the base included. `sha256` is a hash of the images chosen.
    """

    dataset: str
    protocol: str
    tasks: int
    sizes: tuple[int, ...]
    class_order: tuple[int, ...]
    class_names: tuple[str, ...]
    profile_counts: tuple[int, ...]
    train_counts: tuple[int, ...]
    valid_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    sha256: str

    def columns(self) -> Iterator[range]:
        """The arrival columns of each experience."""
        begin = 0
        for size in self.sizes:
            yield range(begin, begin + size)
            begin += size

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> StreamInfo:
        """The inverse of :meth:`to_json`; keys it does not know are left aside."""
        values = {field.name: record[field.name] for field in fields(cls)}
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def choice_hash(*streams: Sequence[Sequence[int]]) -> str:
    """sha256 of the rows chosen for each experience of each stream, whatever their order inside an experience."""
    record = [[sorted(int(row) for row in rows) for rows in stream] for stream in streams]
    return hashlib.sha256(json.dumps(record, separators=(",", ":")).encode()).hexdigest()


def stream_table(info: StreamInfo) -> Table:
    """One row per experience and a row of totals."""
    from rich.table import Table

    table = Table(title=f"{info.dataset}, {info.protocol}, {info.tasks} experiences", show_footer=True)
    small = sum(count < FEW for count in info.profile_counts)
    few = f"classes < {FEW}"
    table.add_column("experience", "total", justify="right")
    table.add_column("classes", str(sum(info.sizes)), justify="right")
    table.add_column("train images", f"{sum(info.train_counts):,}", justify="right")
    if any(info.valid_counts):
        table.add_column("held out", f"{sum(info.valid_counts):,}", justify="right")
    table.add_column("largest", str(max(info.profile_counts)), justify="right")
    table.add_column("smallest", str(min(info.profile_counts)), justify="right")
    table.add_column(few, str(small), justify="right")
    table.add_column("test images", f"{sum(info.test_counts):,}", justify="right")
    table.add_column("names")
    for number, columns in enumerate(info.columns()):
        counts = [info.profile_counts[column] for column in columns]
        cells = [str(number), str(len(columns)), f"{sum(info.train_counts[column] for column in columns):,}"]
        if any(info.valid_counts):
            cells.append(f"{sum(info.valid_counts[column] for column in columns):,}")
        cells += [str(max(counts)), str(min(counts)), str(sum(count < FEW for count in counts))]
        cells.append(f"{sum(info.test_counts[column] for column in columns):,}")
        table.add_row(*cells, shorten([info.class_names[column] for column in columns]))
    return table


def shorten(names: Sequence[str], shown: int = 4) -> str:
    """'cat, dog, bird, … (7 more)'."""
    rest = len(names) - shown
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:shown])}, … ({rest} more)"
