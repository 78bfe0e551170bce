"""A picture of a stream: training images per class in order of arrival."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import UserError
from benchmark.storage.files import write_bytes
from benchmark.streams.info import FEW, MANY, StreamInfo

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".pdf", ".png", ".svg")
COLOURS = ("#0072B2", "#E69F00")  # Okabe-Ito blue and orange: told apart with any colour vision, and in grey
NUMBERED = 30  # at most about this many experiences carry their number
NAMED = 25  # with at most this many classes each bar carries its class's name


def plot_stream(info: StreamInfo, path: str | Path) -> Path:
    """Draw the training images per class (log scale, before any hold-out) to `path`: .png, .pdf or .svg.

    Neighbouring experiences alternate between two colours and carry their number on top; dashed lines separate the
    many, medium and few groups. Returns the path; raises UserError on another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f'A figure cannot be written as "{path.name}": use one of {", ".join(SUFFIXES)}.')
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    total = sum(info.sizes)
    figure = Figure(figsize=(min(12.0, max(6.5, 0.09 * total)), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_bars(axes, info)
    _draw_groups(axes, total)
    axes.set_xlabel("class, in order of arrival (on top: its experience)")
    counted = "training images" if info.task_kind == "single" else "positives in training"
    axes.set_ylabel(counted)
    counts = info.profile_counts
    sizes = f"{sum(counts):,} {counted}, {max(counts):,} to {min(counts):,} per class"
    title = f"{info.dataset}, {info.protocol}, {info.tasks} experiences: {sizes}"
    axes.set_title(title, fontsize=10, loc="left", pad=16)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=160)
    write_bytes(path, buffer.getvalue())
    return path


def _draw_bars(axes: Axes, info: StreamInfo) -> None:
    """One bar per class, coloured and numbered by experience."""
    for number, columns in enumerate(info.columns()):
        counts = [info.profile_counts[column] for column in columns]
        axes.bar(list(columns), counts, width=0.85, color=COLOURS[number % 2])
        if number % (1 + info.tasks // NUMBERED) == 0:
            middle = (columns[0] + columns[-1]) / 2
            above = axes.get_xaxis_transform()
            axes.text(middle, 1.01, str(number), transform=above, ha="center", fontsize=8, color=COLOURS[number % 2])
    axes.set_yscale("log")
    axes.set_ylim(0.8, 1.6 * max(*info.profile_counts, MANY))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(-0.8, sum(info.sizes) - 0.2)
    if len(info.class_names) <= NAMED:
        axes.set_xticks(range(len(info.class_names)), info.class_names, rotation=45, ha="right", fontsize=8)


def _draw_groups(axes: Axes, total: int) -> None:
    """Lines at the bounds of the frequency groups, labelled at the right edge."""
    for bound in (MANY, FEW):
        axes.axhline(bound, color="0.25", linewidth=0.8, linestyle="--", zorder=3)
    middle = (MANY * FEW) ** 0.5
    places = {f"many (> {MANY})": 1.6 * MANY, f"medium ({FEW} to {MANY})": middle, f"few (< {FEW})": 0.3 * FEW}
    for label, height in places.items():
        axes.text(total, height, label, fontsize=8, color="0.25", va="center", ha="left")
