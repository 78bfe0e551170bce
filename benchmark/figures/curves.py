"""Curves against the number of classes seen: accuracy and forgetting of every method, and the papers' comparisons.

One panel per setting; one line per method and classifier: the mean over seeds, with a band of ± one standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import grouping
from benchmark.cells import trials
from benchmark.errors import UserError
from benchmark.figures import style
from benchmark.figures.results import NotDrawn, Results, renamed
from benchmark.summary import text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LABELS = {
    "accuracy_seen": "Accuracy on seen classes (%)",
    "accuracy_tasks": "Mean accuracy of experiences (%)",
    "accuracy_class_mean": "Mean per-class accuracy (%)",
    "map": "mAP on seen classes (%)",
    "forgetting": "Forgetting (%)",
}
LONGEST_TITLE = 32  # characters: a longer one takes two lines, or it would touch its neighbour
MOST_BANDS = 12  # more methods are drawn without, for bands would cover the lines
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

    Parameters: `curves`, from `benchmark.summary`; `metric`, accuracy_seen, accuracy_tasks or accuracy_class_mean;
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
    return curves_figure(grouping.own_rows(results.varying("memory_budget").curves), "accuracy_seen")


def rho(results: Results) -> Figure:
    """Accuracy against classes seen, one panel per imbalance factor (GR, Fig. 4)."""
    return curves_figure(grouping.own_rows(results.varying("rho").curves), "accuracy_seen")


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
    rows = grouping.label_rows(grouping.own_rows(part.curves))
    rows["gem_form"] = -rows["backward_transfer"]  # mean of a[k, k] - a[t, k], without the maximum
    summary = grouping.label_rows(grouping.own_rows(part.summary))
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
                _draw(axis, rows[(rows["base"] == name) & rows[metric].notna()], metric, looks[name])
            axis.set_title(title)
            _classes_seen(axis)
        axes[0].set_ylabel(LABELS["forgetting"])
        _legend(figure, labels, looks, title="distillation: average\naccuracy (seen, %)")
        style.note(figure, _band(rows), *part.notes())
    return figure


def _of(results: Results, metric: str) -> Figure:
    if metric not in results.curves.columns or results.curves[metric].isna().all():
        label = LABELS[metric].removesuffix(" (%)")
        raise NotDrawn(f"no finished run has {label[0].lower()}{label[1:]}")
    return curves_figure(results.curves, metric)


def curves_figure(
    curves: pd.DataFrame,
    metric: str,
    *,
    order: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> Figure:
    """Mean and band of `metric` against classes seen, a panel per setting, best method first in the legend.

    `rename` gives strategies another name in the legend. Raises UserError as `accuracy_curves` says.
    """
    if metric not in curves.columns:
        raise UserError(f'The curves hold no metric "{metric}".')
    rows = grouping.label_rows(curves)
    rows = rows[rows[metric].notna()]
    if rows.empty:
        raise UserError(f"There is no finished run with {metric} to draw.")
    for cell, runs in rows.drop_duplicates(["run", "method"]).groupby(["method", "setting"]):
        method, setting = map(str, cell)
        grouping.check_comparable(runs, method, setting)
    settings = grouping.setting_order(rows)
    methods = _legend_order(rows, metric, order, best_is_low=metric == "forgetting")
    looks = style.methods(methods)
    columns = min(len(settings), 2 if len(settings) == 4 else 3)
    height = style.legend_height(len(methods))  # which may be more than the panels need
    with style.styled():
        rest = max(0.0, height - 2.35 * -(-len(settings) // columns) - 0.1)
        figure, axes = style.panels(len(settings), columns, (2.6, 2.35), extra=(1.75, 0.1 + rest), sharey=True)
        for i, (axis, setting) in enumerate(zip(axes, settings, strict=True)):
            part = rows[rows["setting"] == setting]
            for method in reversed(methods):  # the best method is drawn last, on top
                _draw(axis, part[part["method"] == method], metric, looks[method], band=len(methods) <= MOST_BANDS)
            title = _panel_title(part, setting)
            axis.set_title(title.replace(", ", ",\n", 1) if len(title) > LONGEST_TITLE else title)
            _classes_seen(axis)
            if i % columns == 0:
                axis.set_ylabel(LABELS.get(metric, f"{metric.replace('_', ' ').capitalize()} (%)"))
        _legend(figure, {method: renamed(method, rename or {}) for method in methods}, looks)
        style.note(figure, _band(rows, len(methods) <= MOST_BANDS), *_protocol(rows))
    return figure


def _draw(axis: Any, runs: pd.DataFrame, metric: str, look: Mapping[str, Any], band: bool = True) -> None:
    """Mean line and band of one method in one panel; nothing when it has no run there."""
    if runs.empty:
        return
    by_step = 100 * runs.set_index("num_seen_classes")[metric].astype(float)
    grouped = by_step.groupby(level=0)
    mean, sd = grouped.mean(), grouped.std(ddof=1).fillna(0.0)
    x = mean.index.to_numpy(dtype=float)
    if band:
        high = (mean + sd).clip(upper=100)  # beyond which no accuracy can be, whatever the deviation
        axis.fill_between(x, (mean - sd).to_numpy(), high.to_numpy(), color=look["color"], alpha=0.15, linewidth=0)
    axis.plot(x, mean.to_numpy(), **look)


def _classes_seen(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlabel("Classes seen")
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axis.margins(x=0.03)


def _legend(figure: Figure, labels: Mapping[str, str], looks: Mapping[str, Any], title: str | None = None) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=label, **looks[method]) for method, label in labels.items()]
    figure.legend(handles=handles, loc="outside right center", frameon=False, handlelength=2.6, title=title)


def _legend_order(rows: pd.DataFrame, metric: str, order: Sequence[str], best_is_low: bool) -> list[str]:
    """Methods by the place of their strategy in `order`, then by the mean of their last values over settings."""
    last = rows.sort_values("experience").groupby(["method", "strategy", "setting", "run"])[metric].last()
    means = last.groupby(["method", "strategy", "setting"]).mean().groupby(["method", "strategy"]).mean()

    def key(item: tuple[Any, Any]) -> tuple[int, float, str]:
        method, strategy = item
        place = list(order).index(strategy) if strategy in order else len(order)
        return place, float(means[item]) * (1 if best_is_low else -1), str(method)

    return [str(method) for method, _ in sorted(means.index.tolist(), key=key)]


def _panel_title(part: pd.DataFrame, setting: str) -> str:
    """Dataset and setting: "cifar100, LFS-10"."""
    dataset = text(part["dataset"].iloc[0])
    return setting if setting.startswith(f"{dataset} ") else f"{dataset}, {setting}"


def _band(rows: pd.DataFrame, drawn: bool = True) -> str:
    """What line and band are, with the number of runs behind them."""
    counts = sorted(set(rows.groupby(["method", "setting"])["run"].nunique()))
    runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    band = "; band: ± 1 standard deviation" if counts[-1] > 1 and drawn else ""
    return f"Line: mean over {runs} seed{'s' if counts != [1] else ''}{band}."


def _protocol(rows: pd.DataFrame) -> list[str]:
    return [" ".join(grouping.protocol_notes(rows)), *trials(rows)]
