"""How much cross-entropy gradient every class receives while a plain method trains (GR, Fig. 2)."""

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

MOST = 3  # experiences, as in the paper: the first, one in the middle, the last


def gradients(results: Results) -> Figure:
    """Mean norm of the head's gradient per class, by experience, with the images behind it (GR, Fig. 2).

    Of replay where it ran with diagnostics, else of the first method that did. Classes are sorted by their images in
    every run of its own, old and new apart; bars are means over seeds, whiskers ± one standard deviation.
    """
    runs, method, recorded = _recorded(results)
    sizes, several = runs.sizes, len(runs.records) > 1
    with style.styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2.4 * len(recorded), 3.5), layout="constrained")
        axes = figure.subplots(
            2, len(recorded), squeeze=False, sharex="col", sharey="row", gridspec_kw={"height_ratios": [2, 1]}
        )
        for (above, below), (t, norms) in zip(axes.T, recorded.items(), strict=True):
            old, seen = sum(sizes[:t]), sum(sizes[: t + 1])
            images = np.stack([_images(record, old, seen) for record in runs.records])
            order = np.stack([_most_first(row, old) for row in images])
            images, norms = np.take_along_axis(images, order, axis=1), np.take_along_axis(norms, order, axis=1)
            colours = [style.OLD] * old + [style.NEW] * (seen - old)
            x = np.arange(seen)
            spread = norms.std(axis=0, ddof=1) if several else None
            whiskers = {"ecolor": "0.3", "elinewidth": 0.7}
            above.bar(x, norms.mean(axis=0), width=0.85, color=colours, yerr=spread, error_kw=whiskers)
            below.bar(x, images.mean(axis=0), width=0.85, color=colours)
            style.count_axis(below, max(image_counts(record).max() for record in runs.records))
            below.set_xticks([])
            below.set_xlabel("Classes, most images first")
            above.set_title(f"experience {t + 1} of {len(sizes)}")
        axes[0, 0].set_ylabel("Mean gradient norm\nof the class's weights")
        axes[1, 0].set_ylabel("Images")
        style.colours(figure, {"old classes (exemplars)": style.OLD, "new classes": style.NEW})
        alike = share_order(runs.records)
        places = "" if alike else " A bar is a place in the order by images, which every run has of its own."
        style.note(
            figure,
            f"Cross-entropy gradient of {method}, mean over the steps of an experience and "
            f"{style.seeds(len(runs.records))}.{places}",
            *runs.notes(),
        )
    return figure


def _recorded(results: Results) -> tuple[Results, str, dict[int, FloatArray]]:
    """The runs of one method in one setting, its label, and experience -> their norms, (runs, classes)."""
    for part in results.streams:
        shown = np.unique(np.linspace(0, part.tasks - 1, min(MOST, part.tasks)).round().astype(int)).tolist()
        found = {t: part.diagnosed(t, "ce_gradient_norm") for t in shown}
        complete = set.intersection(*map(set, found.values()))
        if complete:
            method = next(name for name in part.methods() if name in {part.labels[run] for run in complete})
            runs = part.only({run for run in complete if part.labels[run] == method})
            return runs, method, {t: np.stack([found[t][r.name] for r in runs.records]) for t in shown}
    raise NotDrawn("no run recorded gradient norms; run the sweep with metrics.diagnostics=true")


def _images(record: RunRecord, old: int, seen: int) -> FloatArray:
    """Images that a run trains on in an experience: exemplars of old classes, all of new ones."""
    return np.concatenate([exemplars(record, old), image_counts(record)[old:seen]])


def _most_first(images: FloatArray, old: int) -> npt.NDArray[np.intp]:
    """Places of the old classes by their images, then of the new ones."""
    new = old + np.argsort(-images[old:], kind="stable")
    return np.concatenate([np.argsort(-images[:old], kind="stable"), new])
