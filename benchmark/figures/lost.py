"""Imbalanced forgetting: do classes that lost more training images forget more?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from benchmark.figures import style
from benchmark.figures.stream import exemplars
from benchmark.results.results import FloatArray, NotDrawn, Results, image_counts, share_order
from benchmark.storage.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 8  # methods


def lost_samples(results: Results) -> Figure:
    """Forgetting of every old class against the training images it lost, by method.

    Forgetting: best recall before the last experience minus recall after it. Lost: images of its own experience minus
    exemplars. In the title Spearman's rank correlation. One dot a class, mean over seeds; where the class order differs
    between runs, one dot a class of a run, and the mean of the runs' correlations.
    """
    part, recalls = _recorded(results)
    runs = part.only(set(recalls)).records
    num_old, together = sum(part.sizes[:-1]), share_order(runs)
    lost = {record.name: _lost(record, num_old) for record in runs}
    by_method = part.by_method({name: (lost[name], recalls[name]) for name in recalls})
    methods = [name for name in part.methods() if name in by_method][:MOST]
    largest = max(float(values.max()) for values in lost.values())
    with style.styled():
        columns = style.columns(f"{method}: +0.00" for method in methods)
        figure, axes = style.panels(
            len(methods), columns, (7.2 / columns, 1.8), extra=(0.0, 0.2), sharex=True, sharey=True
        )
        for axis, method in zip(axes, methods, strict=True):
            x, tables = map(np.stack, zip(*by_method[method], strict=True))
            y = class_forgetting(tables, num_old)
            if together:
                x, y = x[:1], y.mean(axis=0, keepdims=True)
            y = 100 * y
            axis.axhline(0, color="0.3", linewidth=0.6)
            size, alpha = (16, 0.8) if together else (9, 0.5)
            axis.scatter(x[np.isfinite(y)], y[np.isfinite(y)], s=size, color=style.OLD, alpha=alpha, linewidth=0)
            axis.set_xscale("symlog", linthresh=10, linscale=0.6)
            axis.set_xlim(-2, 1.5 * max(10.0, largest))
            axis.xaxis.set_major_formatter("{x:g}")
            ranks = [rank for rank in map(correlation, x, y) if rank is not None]
            shown = f"{round(float(np.mean(ranks)), 2) + 0.0:+.2f}".replace("-", "−") if ranks else "–"
            style.title(axis, method, shown)
        for axis in axes[::columns]:
            axis.set_ylabel("Forgetting (points)")
        for axis in axes[-columns:]:
            axis.set_xlabel("Lost images")
        style.note(figure, _caption({len(by_method[method]) for method in methods}, together), *part.notes())
    return figure


def _caption(counts: set[int], together: bool) -> str:
    if together:
        return f"Dot: a class, mean over {style.seeds(counts)}; in the titles Spearman's rank correlation over classes."
    return (
        f"Dot: a class of one run; {style.seeds(counts)}, whose class orders differ; in the titles Spearman's rank "
        "correlation over the classes of a run, mean over runs."
    )


def _lost(record: RunRecord, num_old: int) -> FloatArray:
    """Images of each old class that are no exemplars at the end."""
    return image_counts(record)[:num_old] - exemplars(record, num_old)


def correlation(lost: FloatArray, forgotten: FloatArray) -> float | None:
    """Spearman's rank correlation over classes with a known value; None where one of the two does not vary."""
    from scipy import stats

    forgotten = np.round(forgotten, 9)  # recalls are ratios of counts: what differs less is equal
    known = np.isfinite(forgotten)
    if len(set(lost[known])) < 2 or len(set(forgotten[known])) < 2:
        return None
    return float(stats.spearmanr(lost[known], forgotten[known]).statistic)


def class_forgetting(recalls: FloatArray, num_old: int) -> FloatArray:
    """Best recall before the last experience minus the last: (runs, experiences, classes) -> (runs, num_old)."""
    before: npt.NDArray[np.float64] = np.fmax.reduce(recalls[:, :-1, :num_old], axis=1)
    return before - recalls[:, -1, :num_old]


def _recorded(results: Results) -> tuple[Results, dict[str, FloatArray]]:
    """A setting of two experiences or more, and the recalls of its runs."""
    for part in results.streams:
        recalls = part.recalls() if part.tasks > 1 else {}
        if recalls:
            return part, recalls
    raise NotDrawn("no run of two or more experiences kept its metrics.jsonl, which holds the recall of every class")
