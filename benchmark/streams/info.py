"""StreamInfo: what a stream holds, per class in order of arrival, as data and as a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
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

    Of multi-label images the counts are positives: images that show the class and, in training, are annotated for it.
    `train_images` then holds the images of each experience; None where every image has one label.
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
    train_images: tuple[int, ...] | None = None

    @property
    def task_kind(self) -> str:
        """Labels an image has: "single" or "multi"."""
        return "single" if self.train_images is None else "multi"

    def columns(self) -> Iterator[range]:
        """The arrival columns of each experience."""
        begin = 0
        for size in self.sizes:
            yield range(begin, begin + size)
            begin += size

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings; what is None is left out."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> StreamInfo:
        """The inverse of :meth:`to_json`; keys it does not know are left aside."""
        wanted = [field.name for field in fields(cls) if field.name in record or field.default is MISSING]
        known: dict[str, Any] = {name: record[name] for name in wanted}
        for name, value in known.items():
            known[name] = tuple(value) if isinstance(value, list) else value
        return cls(**known)


def choice_hash(*streams: Sequence[Sequence[int]]) -> str:
    """sha256 of the rows chosen for each experience of each stream, whatever their order inside an experience."""
    record = [[sorted(int(row) for row in rows) for rows in stream] for stream in streams]
    return hashlib.sha256(json.dumps(record, separators=(",", ":")).encode()).hexdigest()


def stream_table(info: StreamInfo) -> Table:
    """One row per experience and a row of totals; largest, smallest and few are counted before any hold-out."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{info.dataset}, {info.protocol}, {info.tasks} experiences", show_footer=True)
    whole = _cells(info, range(sum(info.sizes)), info.train_images or ())
    table.add_column("#", "all", justify="right", no_wrap=True)
    for title, total in whole.items():
        table.add_column(title, total, justify="right", no_wrap=True)
    table.add_column("names")  # the one column that rich may narrow; its cells then end in an ellipsis
    for number, columns in enumerate(info.columns()):
        names = shorten([info.class_names[column] for column in columns])
        images = info.train_images[number : number + 1] if info.train_images else ()
        table.add_row(
            str(number), *_cells(info, columns, images).values(), Text(names, no_wrap=True, overflow="ellipsis")
        )
    return table


def _cells(info: StreamInfo, columns: range, images: Sequence[int]) -> dict[str, str]:
    """Title and value of the table's numbers, over some arrival columns; `images` of multi-label experiences."""
    part = slice(columns.start, columns.stop)
    counts = info.profile_counts[part]
    held_out = {"held out": f"{sum(info.valid_counts[part]):,}"} if any(info.valid_counts) else {}
    return {
        "classes": str(len(columns)),
        **({"images": f"{sum(images):,}"} if images else {}),
        "positives" if images else "train": f"{sum(info.train_counts[part]):,}",
        **held_out,
        "largest": str(max(counts)),
        "smallest": str(min(counts)),
        f"< {FEW}": str(sum(count < FEW for count in counts)),
        "test": f"{sum(info.test_counts[part]):,}",
    }


def shorten(names: Sequence[str], shown: int = 4) -> str:
    """'cat, dog, bird, … (7 more)'."""
    rest = len(names) - shown
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:shown])}, … ({rest} more)"
