"""Curves against the number of classes seen: accuracy and forgetting of every method, and the papers' comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.figures import style
from benchmark.figures.lines import LABELS, band_note, classes_seen, curves_figure, draw, legend
from benchmark.results.labels import label_rows, own_rows
from benchmark.results.results import NotDrawn, Results, renamed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DISTILLATION = {
    "dgr_no_kd": "none",
    "dgr_feature_kd": "feature",
    "dgr_vanilla_kd": "vanilla",
    "dgr_mixed_kd": "DAKD, R = 0",
    "dgr": "DAKD",
}
LADDER = {
    "icarl": "linear head + KD",
    "lucir_cn": "CN",
    "lucir_cn_lc": "CN + LC",
    "lucir_constant": "CN + LC + IS, constant λ",
    "lucir": "CN + LC + IS",
    "lucir_cbf": "CN + LC + IS + CBF",
}  # LUCIR's ablation; a row without a run is left out


def accuracy_curves(
    curves: pd.DataFrame,
    path_stem: str | Path,
    *,
    metric: str = "accuracy_seen",
    order: Sequence[str] = (),
) -> list[Path]:
    """Accuracy after each experience, in percent. Writes `path_stem`.png and .pdf; returns the paths.

    Parameters: `curves`, from `results.summary`; `metric`, accuracy_seen, accuracy_tasks or accuracy_class_mean;
    `order`, strategies in the order of the legend, else best last value first.
    Raises UserError when there is no finished run or no such metric, or runs of one line must not be averaged.
    """
    return style.save(curves_figure(curves, metric, order=order), path_stem)


def forgetting_curves(curves: pd.DataFrame, path_stem: str | Path, *, order: Sequence[str] = ()) -> list[Path]:
    """Forgetting (max form) from the second experience on, in percent; else as `accuracy_curves`.

    Returns [] when no run has a second experience.
    """
    if curves["forgetting"].isna().all():
        return []
    return style.save(curves_figure(curves, "forgetting", order=order), path_stem)


def accuracy(results: Results) -> Figure:
    """Accuracy on the test images of all seen classes, every method and setting."""
    return _of(results, "accuracy_seen")


def forgetting(results: Results) -> Figure:
    """Forgetting (max form), every method and setting."""
    return _of(results, "forgetting")


def mean_average_precision(results: Results) -> Figure:
    """Mean average precision on seen classes, of multi-label runs."""
    return _of(results, "map")


def memory(results: Results) -> Figure:
    """Accuracy against classes seen, one panel per memory budget (GR, Fig. 4; LUCIR, Figs. 5 and 6)."""
    return curves_figure(own_rows(results.varying("memory_budget").curves), "accuracy_seen")


def rho(results: Results) -> Figure:
    """Accuracy against classes seen, one panel per imbalance factor (GR, Fig. 4)."""
    return curves_figure(own_rows(results.varying("rho").curves), "accuracy_seen")


def lucir_ladder(results: Results) -> Figure:
    """LUCIR's components added one by one, and its constant lambda (LUCIR, Fig. 7)."""
    found = results.strategies(*LADDER)
    settings = [part for part in found.settings if len(part.methods()) > 2]
    if not settings:
        raise NotDrawn("no setting has runs of three of " + ", ".join(LADDER))
    part = settings[0]
    rows = part.curves[part.curves["classifier"] == "head"]
    rows.attrs = part.curves.attrs
    return curves_figure(rows, "accuracy_seen", order=list(LADDER), rename=LADDER)


def distillation(results: Results) -> Figure:
    """Forgetting per step, in its two forms, of DGR with different distillation (GR, Fig. 5)."""
    settings = [part for part in results.strategies(*DISTILLATION).settings if part.curves["forgetting"].notna().any()]
    part = next((part for part in settings if len(part.methods()) > 1), None)
    if part is None:
        raise NotDrawn("no setting has runs of two of " + ", ".join(DISTILLATION))
    rows = label_rows(own_rows(part.curves))
    rows["gem_form"] = -rows["backward_transfer"]  # mean of a[k, k] - a[t, k], without the maximum
    summary = label_rows(own_rows(part.summary))
    average = summary.groupby("base")["average_accuracy_seen"].mean()
    names = sorted(average.index, key=lambda name: (list(DISTILLATION).index(name.partition(" ")[0]), name))
    with style.styled():
        labels = {name: f"{renamed(name, DISTILLATION)}: {100 * average[name]:.1f}" for name in names}
        beside = max(1.7, style.legend_width(labels.values()))
        rest = max(0.0, style.legend_height(len(names)) - 2.45)
        figure, axes = style.panels(2, 2, (2.6, 2.35), extra=(beside, 0.1 + rest), sharey=True)
        looks = style.methods(names)
        for axis, metric, title in zip(
            axes, ("forgetting", "gem_form"), ("from the best accuracy (max form)", "from the first (GEM form)"),
            strict=True,
        ):  # fmt: skip
            for name in names:
                draw(axis, rows[(rows["base"] == name) & rows[metric].notna()], metric, looks[name])
            axis.set_title(title)
            classes_seen(axis)
        axes[0].set_ylabel(LABELS["forgetting"])
        legend(figure, labels, looks, title="distillation: average\naccuracy (seen, %)")
        style.note(figure, band_note(rows), *part.notes())
    return figure


def _of(results: Results, metric: str) -> Figure:
    if metric not in results.curves.columns or results.curves[metric].isna().all():
        label = LABELS[metric].removesuffix(" (%)")
        raise NotDrawn(f"no finished run has {label[0].lower()}{label[1:]}")
    return curves_figure(results.curves, metric)
