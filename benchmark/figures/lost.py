"""Imbalanced forgetting: do classes that lost more training images forget more?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from benchmark.figures import style
from benchmark.figures.results import FloatArray, NotDrawn, Results
from benchmark.figures.stream import exemplars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 8  # methods


def lost_samples(results: Results) -> Figure:
    """Forgetting of every old class against the training images it lost, by method.

    Forgetting: best recall before the last experience minus recall after it. Lost: images of its own experience minus
    exemplars. One dot a class, mean over seeds; in the title Spearman's rank correlation.
    """
    from scipy import stats

    part, recalls = _recorded(results)
    num_old = sum(part.sizes[:-1])
    lost = part.image_counts[:num_old] - exemplars(part, num_old)
    methods = [name for name in part.methods() if name in recalls][:MOST]
    with style.styled():
        columns = style.columns(f"{method}: +0.00" for method in methods)
        figure, axes = style.panels(
            len(methods), columns, (7.2 / columns, 1.8), extra=(0.0, 0.2), sharex=True, sharey=True
        )
        for axis, method in zip(axes, methods, strict=True):
            forgotten = 100 * class_forgetting(recalls[method], num_old).mean(axis=0)
            known = np.isfinite(forgotten)
            axis.axhline(0, color="0.3", linewidth=0.6)
            axis.scatter(lost[known], forgotten[known], s=16, color=style.OLD, alpha=0.8, linewidth=0)
            axis.set_xscale("symlog", linthresh=10, linscale=0.6)
            axis.set_xlim(-2, 1.5 * max(10.0, lost.max()))
            axis.xaxis.set_major_formatter("{x:g}")
            with np.errstate(invalid="ignore"):
                varies = len(set(lost[known])) > 1 and len(set(forgotten[known])) > 1
                rank = stats.spearmanr(lost[known], forgotten[known]).statistic if varies else float("nan")
            style.title(axis, method, f"{round(rank, 2) + 0.0:+.2f}".replace("-", "−") if rank == rank else "–")
        for axis in axes[::columns]:
            axis.set_ylabel("Forgetting (points)")
        for axis in axes[-columns:]:
            axis.set_xlabel("Lost images")
        style.note(
            figure,
            f"Dot: a class, mean over {style.seeds({len(recalls[method]) for method in methods})}; in the titles "
            "Spearman's rank correlation over classes.",
            part.protocol(),
        )
    return figure


def class_forgetting(recalls: FloatArray, num_old: int) -> FloatArray:
    """Best recall before the last experience minus the last: (runs, experiences, classes) -> (runs, num_old)."""
    before: npt.NDArray[np.float64] = np.fmax.reduce(recalls[:, :-1, :num_old], axis=1)
    return before - recalls[:, -1, :num_old]


def _recorded(results: Results) -> tuple[Results, dict[str, FloatArray]]:
    for part in results.settings:
        recalls = part.recalls() if part.tasks > 1 else {}
        if recalls:
            return part, recalls
    raise NotDrawn("no run of two or more experiences kept its metrics.jsonl, which holds the recall of every class")
