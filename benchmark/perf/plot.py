"""Time and memory of a long stream by experience, from the file of the part `thousand`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmark.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def growth(record: Mapping[str, Any]) -> Figure:
    """Three panels against the experience: seconds of its training and evaluation, microseconds of a training image,
    peak memory of the process.
    """
    steps = record["steps"]
    at = [step["experience"] for step in steps]
    images = _column(steps, "images")  # trained in the experience, exemplars included
    with style.styled():
        figure, (seconds, image, memory) = style.panels(3, 3, (2.3, 2.1))
        seconds.plot(at, _column(steps, "train_seconds"), color=style.NEW, label="training")
        seconds.plot(at, _column(steps, "eval_seconds"), color=style.OLD, linestyle="--", label="evaluation")
        seconds.set_ylabel("Seconds an experience")
        seconds.legend(frameon=False)
        image.plot(
            at, [1e6 * a / b for a, b in zip(_column(steps, "train_seconds"), images, strict=True)], color=style.NEW
        )
        image.set_ylabel("Training, µs an image")
        memory.plot(at, [size / 2**20 for size in _column(steps, "peak_bytes")], color="0.3")
        memory.set_ylabel("Peak memory (MiB)")
        for axis in (seconds, image, memory):
            axis.set_xlabel("Experience")
            axis.set_ylim(bottom=0)
        machine = record["environment"]["machine"]["processor"]
        style.note(figure, f"{record['what'].partition(';')[0]}; {record['mode']}, 1 thread of an {machine}.")
    return figure


def _column(steps: Any, name: str) -> list[float]:
    return [step[name] for step in steps]
