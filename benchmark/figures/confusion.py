"""Which class is taken for which: confusion matrices after the last experience (LUCIR, Fig. 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.figures import style
from benchmark.results.results import NotDrawn, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 8  # methods


def confusion(results: Results) -> Figure:
    """Confusion matrices with entries log(1 + x), mean over seeds, classes in order of arrival (LUCIR, Fig. 9).

    Of the setting with two experiences where there is one, else of that with most methods.
    """
    part = results.one_step
    matrices = part.confusions()
    if not matrices:
        raise NotDrawn("no run kept its confusion matrices")
    methods = [name for name in part.methods() if name in matrices][:MOST]
    means = {method: matrices[method].mean(axis=0) for method in methods}
    shown = {method: np.log1p(mean) for method, mean in means.items()}
    largest = max(matrix.max() for matrix in shown.values())
    borders = np.cumsum(part.sizes[:-1]) - 0.5
    with style.styled():
        columns = style.columns(f"{method}: 00.0 %" for method in methods)
        figure, axes = style.panels(len(methods), columns, (6.6 / columns, 6.6 / columns + 0.2), extra=(0.6, 0.15))
        for axis, method in zip(axes, methods, strict=True):
            image = axis.imshow(shown[method], vmin=0, vmax=largest, cmap=style.SEQUENTIAL, interpolation="nearest")
            axis.grid(False)
            axis.spines[:].set_visible(False)
            axis.tick_params(length=2)
            for border in borders:
                axis.axvline(border, color="white", linewidth=0.7, linestyle=(0, (3, 2)))
                axis.axhline(border, color="white", linewidth=0.7, linestyle=(0, (3, 2)))
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.yaxis.get_major_locator().set_params(integer=True)
            style.title(axis, method, f"{100 * np.trace(means[method]) / means[method].sum():.1f} %")
        for axis in axes[::columns]:
            axis.set_ylabel("True class")
        for axis in axes[-columns:]:
            axis.set_xlabel("Predicted class")
        bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.02)
        bar.set_label("log(1 + images)")
        bar.outline.set_visible(False)
        style.note(
            figure,
            f"Classes in order of arrival, dashed: borders of experiences; mean over "
            f"{style.seeds({len(matrices[method]) for method in methods})}; in the titles the accuracy on all classes.",
            *part.notes(),
        )
    return figure
