"""What the classifier's rows look like at the end: norms per class (GR, Fig. 6), old against new (LUCIR, Fig. 3).

The norm that counts in a linear head is that of the row; in a cosine head every row acts with norm 1, times a scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.figures import style
from benchmark.results.results import Classes, FloatArray, NotDrawn, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 8  # methods


def head_norms(results: Results) -> Figure:
    """Norm of every class's row of the head after the last experience, over its mean (GR, Fig. 6).

    Of the setting with two experiences where there is one, else of that with most methods. Classes in order of
    arrival; dots are means over seeds, bars ± one standard deviation.
    """
    part, norms = _recorded(results)
    sizes = part.sizes
    methods = [name for name in part.methods() if name in norms][:MOST]
    with style.styled():
        columns = style.columns(f"{method}: spread 00 %" for method in methods)
        figure, axes = style.panels(
            len(methods), columns, (7.2 / columns, 1.65), extra=(0.0, 0.4), sharex=True, sharey=True
        )
        for axis, method in zip(axes, methods, strict=True):
            relative = norms[method] / norms[method].mean(axis=1, keepdims=True)
            mean, x = relative.mean(axis=0), np.arange(relative.shape[1])
            spread = relative.std(axis=0, ddof=1) if len(relative) > 1 else np.zeros(len(x))
            newest = x >= sum(sizes[:-1])
            for chosen, colour in ((~newest, style.OLD), (newest, style.NEW)):
                axis.errorbar(x[chosen], mean[chosen], spread[chosen], fmt="o", color=colour, ms=3, elinewidth=0.8)
            for border in np.cumsum(sizes[:-1]):
                axis.axvline(border - 0.5, color="0.6", linewidth=0.6, linestyle=(0, (2, 2)))
            axis.axhline(1, color="0.3", linewidth=0.6)
            style.title(axis, method, f"spread {100 * mean.std():.0f} %", longest=30)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_xlim(-0.8, sum(sizes) - 0.2)
        axes[0].set_ylim(bottom=0)
        for axis in axes[::columns]:
            axis.set_ylabel("Norm / mean norm")
        for axis in axes[-columns:]:
            axis.set_xlabel("Class, in order of arrival")
        style.colours(figure, {"old classes": style.OLD, "classes of the last experience": style.NEW})
        style.note(
            figure,
            "Spread: standard deviation over classes of the mean norm, in percent of the mean norm. Rows of a cosine "
            f"head are normalised: their norm is one. Mean over {style.seeds(_runs(norms, methods))}.",
            *part.notes(),
        )
    return figure


def weights_biases(results: Results) -> Figure:
    """Norms and biases of old and new classes after the last experience, by method (LUCIR, Fig. 3)."""
    part, norms = _recorded(results)
    biases = part.diagnostics(-1, "bias")
    methods = [name for name in part.methods() if name in norms][:MOST]
    num_old = sum(part.sizes[:-1])
    with style.styled():
        figure, (above, below) = style.panels(2, 1, (7.2, 1.7), extra=(0.0, 0.4), sharex=True)
        for i, method in enumerate(methods):
            _old_and_new(above, i, norms[method].mean(axis=0), num_old)
            if method in biases:
                _old_and_new(below, i, biases[method].mean(axis=0), num_old)
            else:
                below.text(i, 0, "no bias", ha="center", va="center", color="0.4", fontsize=8)
        above.set_ylabel("Weight norm")
        below.set_ylabel("Bias")
        below.axhline(0, color="0.3", linewidth=0.6, zorder=0)
        below.set_xticks(range(len(methods)), methods)
        below.set_xlim(-0.6, len(methods) - 0.4)
        style.colours(figure, {"old classes": style.OLD, "classes of the last experience": style.NEW})
        style.note(
            figure,
            f"Dot: a class by place of arrival, mean over {style.seeds(_runs(norms, methods))}; line: mean of the "
            "group. The rows of a cosine head are normalised: every norm is its learned scale. bic's correction comes "
            "after these logits.",
            *part.notes(),
        )
    return figure


def _old_and_new(axis: object, place: int, values: FloatArray, num_old: int) -> None:
    """Two columns of dots around `place`, spread a little sideways in order of arrival."""
    for group, colour, shift in ((values[:num_old], style.OLD, -0.2), (values[num_old:], style.NEW, 0.2)):
        x = place + shift + np.linspace(-0.1, 0.1, len(group))
        axis.scatter(x, group, s=9, color=colour, alpha=0.7, linewidth=0)  # type: ignore[attr-defined]
        axis.hlines(group.mean(), place + shift - 0.15, place + shift + 0.15, color=colour, linewidth=1.6)  # type: ignore[attr-defined]


def _recorded(results: Results) -> tuple[Results, Classes]:
    """A setting whose runs recorded norms, and the norms that act: (runs, classes) per method."""
    for part in (results.one_step, *results.streams):
        norms = part.diagnostics(-1, "weight_norm")
        if norms and part.tasks > 1:
            return part, {method: _acting(part, method, values) for method, values in norms.items()}
    raise NotDrawn("no run of two or more experiences recorded head norms; run with metrics.diagnostics=true")


def _acting(part: Results, method: str, norms: FloatArray) -> FloatArray:
    """Rows of a cosine head have norm 1, times the learned scale."""
    scales = part.scales().get(method)
    return norms if scales is None else np.repeat(scales[:, None], norms.shape[1], axis=1)


def _runs(norms: Classes, methods: list[str]) -> set[int]:
    return {len(norms[method]) for method in methods}
