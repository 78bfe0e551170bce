"""Lines against the number of classes seen: one panel per setting, one line per method and classifier.

A line is the mean over seeds, with a band of ± one standard deviation. More lines than a panel can hold are shared
among rows of panels, the others of each row grey behind its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError
from benchmark.figures import style
from benchmark.results.labels import check_comparable, label_rows, protocol_notes, setting_order, trials
from benchmark.results.results import renamed
from benchmark.results.summary import text

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
MOST_LINES, ROW_OF_LINES = 16, 10  # if a panel had more, they are drawn in rows of panels, so many in each
BEHIND = {"color": "0.85", "linewidth": 0.8, "zorder": 1}  # a line of another row


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
    rows = label_rows(curves)
    rows = rows[rows[metric].notna()]
    if rows.empty:
        raise UserError(f"There is no finished run with {metric} to draw.")
    for cell, runs in rows.drop_duplicates(["run", "method"]).groupby(["method", "setting"]):
        method, setting = map(str, cell)
        check_comparable(runs, method, setting)
    methods = _legend_order(rows, metric, order, best_is_low=metric == "forgetting")
    labels = {method: renamed(method, rename or {}) for method in methods}
    lines = rows.groupby("setting")["method"].nunique().max()
    return (_one_legend if lines <= MOST_LINES else _rows_of_panels)(rows, metric, labels)


def _one_legend(rows: pd.DataFrame, metric: str, labels: Mapping[str, str]) -> Figure:
    """A panel per setting, with all methods."""
    settings, looks = setting_order(rows), style.methods(labels)
    columns = min(len(settings), 2 if len(settings) == 4 else 3)
    height = style.legend_height(len(labels))  # which may be more than the panels need
    band = len(labels) <= MOST_BANDS
    with style.styled():
        rest = max(0.0, height - 2.35 * -(-len(settings) // columns) - 0.1)
        figure, axes = style.panels(len(settings), columns, (2.6, 2.35), extra=(1.75, 0.1 + rest), sharey=True)
        for i, (axis, setting) in enumerate(zip(axes, settings, strict=True)):
            part = rows[rows["setting"] == setting]
            for method in reversed(list(labels)):  # the best method is drawn last, on top
                draw(axis, part[part["method"] == method], metric, looks[method], band)
            _about(axis, part, setting, metric if i % columns == 0 else None)
        legend(figure, labels, looks)
        style.note(figure, band_note(rows, band), *_protocol(rows))
    return figure


def _rows_of_panels(rows: pd.DataFrame, metric: str, labels: Mapping[str, str]) -> Figure:
    """Panels as of `_one_legend` for each ten methods, best first, with a legend beside them; the others in grey."""
    looks, methods = style.methods(labels), list(labels)
    number = -(-len(methods) // ROW_OF_LINES)
    groups = [methods[len(methods) * k // number : len(methods) * (k + 1) // number] for k in range(number)]
    columns = min(len(setting_order(rows)), 3)
    panels = []  # of every row: its methods, its settings, whether it has their legend
    for group in groups:
        shown = setting_order(rows[rows["method"].isin(group)])
        for start in range(0, len(shown), columns):
            panels.append((group, shown[start : start + columns], start == 0))
    with style.styled():
        from matplotlib.figure import Figure

        widths = [2.6] * columns + [style.legend_width(labels.values())]
        figure = Figure(figsize=(sum(widths), 2.35 * len(panels) + 0.1), layout="constrained")
        grid = figure.subplots(len(panels), columns + 1, squeeze=False, gridspec_kw={"width_ratios": widths})
        for axes, (group, shown, first) in zip(grid, panels, strict=True):
            for axis in axes:
                axis.set_visible(False)
            for axis, setting in zip(axes, shown, strict=False):
                axis.set_visible(True)
                axis.sharey(grid[0, 0])
                part = rows[rows["setting"] == setting]
                for method in methods:
                    if method not in group:
                        draw(axis, part[part["method"] == method], metric, BEHIND, band=False)
                for method in reversed(group):
                    draw(axis, part[part["method"] == method], metric, looks[method])
                _about(axis, part, setting, metric if axis is axes[0] else None)
            if first:
                axes[-1].set_visible(True)
                axes[-1].set_axis_off()
                handles = _handles({method: labels[method] for method in group}, looks)
                axes[-1].legend(handles=handles, loc="center left", frameon=False, handlelength=2.6, borderaxespad=0)
        style.note(figure, f"{band_note(rows)} Grey: the methods of the other rows.", *_protocol(rows))
    return figure


def _about(axis: Any, part: pd.DataFrame, setting: str, metric: str | None) -> None:
    """Title and axes of the panel of a setting; `metric` names its y axis, None leaves it to the panel on the left."""
    title = _panel_title(part, setting)
    axis.set_title(title.replace(", ", ",\n", 1) if len(title) > LONGEST_TITLE else title)
    classes_seen(axis)
    if metric is not None:
        axis.set_ylabel(LABELS.get(metric, f"{metric.replace('_', ' ').capitalize()} (%)"))


def draw(axis: Any, runs: pd.DataFrame, metric: str, look: Mapping[str, Any], band: bool = True) -> None:
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


def classes_seen(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlabel("Classes seen")
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axis.margins(x=0.03)


def legend(figure: Figure, labels: Mapping[str, str], looks: Mapping[str, Any], title: str | None = None) -> None:
    handles = _handles(labels, looks)
    figure.legend(handles=handles, loc="outside right center", frameon=False, handlelength=2.6, title=title)


def _handles(labels: Mapping[str, str], looks: Mapping[str, Any]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], label=label, **looks[method]) for method, label in labels.items()]


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


def band_note(rows: pd.DataFrame, drawn: bool = True) -> str:
    """What line and band are, with the number of runs behind them."""
    counts = sorted(set(rows.groupby(["method", "setting"])["run"].nunique()))
    runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    band = "; band: ± 1 standard deviation" if counts[-1] > 1 and drawn else ""
    return f"Line: mean over {runs} seed{'s' if counts != [1] else ''}{band}."


def _protocol(rows: pd.DataFrame) -> list[str]:
    return [" ".join(protocol_notes(rows)), *trials(rows)]
