"""How much cross-entropy gradient every class receives while a plain method trains (GR, Fig. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.figures import style
from benchmark.figures.results import NotDrawn, Results
from benchmark.figures.stream import exemplars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 3  # experiences, as in the paper: the first, one in the middle, the last


def gradients(results: Results) -> Figure:
    """Mean norm of the head's gradient per class, by experience, with the images behind it (GR, Fig. 2).

    Of replay where it ran with diagnostics, else of the first method that did. Classes are sorted by their images, old
    and new apart; bars are means over seeds, whiskers ± one standard deviation.
    """
    part = next((p for p in results.settings if p.diagnostics(0, "ce_gradient_norm")), None)
    if part is None:
        raise NotDrawn("no run recorded gradient norms; run the sweep with metrics.diagnostics=true")
    method = next(name for name in part.methods() if name in part.diagnostics(0, "ce_gradient_norm"))
    sizes = part.sizes
    shown = np.unique(np.linspace(0, len(sizes) - 1, min(MOST, len(sizes))).round().astype(int))
    with style.styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2.4 * len(shown), 3.5), layout="constrained")
        axes = figure.subplots(
            2, len(shown), squeeze=False, sharex="col", sharey="row", gridspec_kw={"height_ratios": [2, 1]}
        )
        runs = 0
        for (above, below), t in zip(axes.T, shown, strict=True):
            old, seen = sum(sizes[:t]), sum(sizes[: t + 1])
            norms = part.diagnostics(int(t), "ce_gradient_norm")[method]
            runs = len(norms)
            images = np.concatenate([exemplars(part, old), part.image_counts[old:seen]])
            order = [*np.argsort(-images[:old], kind="stable"), *(old + np.argsort(-images[old:], kind="stable"))]
            colours = [style.OLD if j < old else style.NEW for j in order]
            x = np.arange(seen)
            spread = norms.std(axis=0, ddof=1)[order] if runs > 1 else None
            whiskers = {"ecolor": "0.3", "elinewidth": 0.7}
            above.bar(x, norms.mean(axis=0)[order], width=0.85, color=colours, yerr=spread, error_kw=whiskers)
            below.bar(x, images[order], width=0.85, color=colours)
            style.count_axis(below, part.image_counts.max())
            below.set_xticks([])
            below.set_xlabel("Classes, most images first")
            above.set_title(f"experience {t + 1} of {len(sizes)}")
        axes[0, 0].set_ylabel("Mean gradient norm\nof the class's weights")
        axes[1, 0].set_ylabel("Images")
        style.colours(figure, {"old classes (exemplars)": style.OLD, "new classes": style.NEW})
        style.note(
            figure,
            f"Cross-entropy gradient of {method}, mean over the steps of an experience and {style.seeds(runs)}.",
            part.strategies(*_strategies(part, method)).protocol(),
        )
    return figure


def _strategies(part: Results, method: str) -> set[str]:
    from benchmark.figures.results import strategy_of

    return {strategy_of(record) for record in part.records if part.labels[record.name] == method}
