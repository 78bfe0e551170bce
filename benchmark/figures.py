"""curves.csv -> figures for a paper: accuracy and forgetting against the number of classes seen, PNG and PDF.

One panel per setting; one line per method and classifier: the mean over seeds, with a band of ± one standard deviation.
Colours are seaborn's colour-blind safe palette; markers and dashes tell lines apart without colour. The files carry no
date, so that the same results give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import grouping
from benchmark.errors import UserError
from benchmark.store import write_bytes
from benchmark.summary import summarise, text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "d")  # 11 against 10 colours: pairs return after 110
PALETTE = (0, 1, 2, 3, 4, 9, 5, 7, 6)  # of seaborn's ten, without the yellow that vanishes on white; and black
DASHES = ("-", (0, (4, 1.2)), (0, (1, 1)), (0, (5, 1.2, 1, 1.2)))
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "0.3",
    "xtick.color": "0.3",
    "ytick.color": "0.3",
    "pdf.fonttype": 42,  # editable text; journals refuse type 3 fonts
}


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
    names = {
        "accuracy_seen": "Accuracy on seen classes (%)",
        "accuracy_tasks": "Mean accuracy of experiences (%)",
        "accuracy_class_mean": "Mean per-class accuracy (%)",
        "map": "Mean average precision on seen classes (%)",
    }
    label = names.get(metric, f"{metric.replace('_', ' ').capitalize()} (%)")
    return _save(_curves_figure(curves, metric, label, order, best_is_low=False), path_stem)


def forgetting_curves(curves: pd.DataFrame, path_stem: str | Path, *, order: Sequence[str] = ()) -> list[Path]:
    """Forgetting (max form) from the second experience on, in percent; else as `accuracy_curves`.

    Returns [] when no run has a second experience.
    """
    if curves["forgetting"].isna().all():
        return []
    return _save(_curves_figure(curves, "forgetting", "Forgetting (%)", order, best_is_low=True), path_stem)


def write_figures(directory: str | Path, order: Sequence[str] = ()) -> list[Path]:
    """Write DIR/figures/accuracy.*, forgetting.* and, of multi-label runs, map.*; returns the paths.

    Draws nothing without results. Raises UserError when runs of one line must not be averaged.
    """
    _, curves = summarise(directory)
    folder = Path(directory) / "figures"
    written = forgetting_curves(curves, folder / "forgetting", order=order)
    for name, metric in (("accuracy", "accuracy_seen"), ("map", "map")):
        if metric in curves.columns and curves[metric].notna().any():
            written += accuracy_curves(curves, folder / name, metric=metric, order=order)
    return written


def _curves_figure(
    curves: pd.DataFrame,
    metric: str,
    label: str,
    order: Sequence[str],
    best_is_low: bool,
) -> Figure:
    import matplotlib as mpl
    from matplotlib.figure import Figure

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
    methods = _legend_order(rows, metric, order, best_is_low)
    styles = _styles(sorted(methods))
    num_columns = min(len(settings), 2 if len(settings) == 4 else 3)
    num_rows = -(-len(settings) // num_columns)
    with mpl.rc_context(STYLE):
        # Figure without pyplot: no global state, no display, always the Agg canvas.
        height = max(0.55 + 2.35 * num_rows, 0.4 + 0.17 * len(methods))  # inches: of the panels, of the legend
        figure = Figure(figsize=(1.75 + 2.6 * num_columns, height), layout="constrained")
        axes = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True).ravel()
        for axis, setting in zip(axes, settings, strict=False):
            part = rows[rows["setting"] == setting]
            for method in reversed(methods):  # the best method is drawn last, on top
                _draw(axis, part[part["method"] == method], metric, styles[method])
            axis.set_title(_panel_title(part, setting))
            axis.set_xlabel("Classes seen")
            axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
            axis.margins(x=0.03)
        for axis in axes[len(settings) :]:
            axis.set_visible(False)
        for axis in axes[::num_columns]:
            axis.set_ylabel(label)
        handles = [mpl.lines.Line2D([], [], label=method, **styles[method]) for method in methods]
        figure.legend(handles=handles, loc="outside right center", frameon=False, handlelength=2.6)
        figure.supxlabel(_caption(rows), fontsize=7, color="0.3")
    return figure


def _draw(axis: Any, runs: pd.DataFrame, metric: str, style: Mapping[str, Any]) -> None:
    """Mean line and band of one method in one panel; nothing when it has no run there."""
    if runs.empty:
        return
    by_step = 100 * runs.set_index("num_seen_classes")[metric].astype(float)
    grouped = by_step.groupby(level=0)
    mean, sd = grouped.mean(), grouped.std(ddof=1).fillna(0.0)
    x = mean.index.to_numpy(dtype=float)
    axis.fill_between(x, (mean - sd).to_numpy(), (mean + sd).to_numpy(), color=style["color"], alpha=0.15, linewidth=0)
    axis.plot(x, mean.to_numpy(), **style)


def _styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes by place in the alphabet: a method looks the same in every figure of a sweep.

    From the eleventh method on, colours return with dashed lines and hollow markers.
    """
    import seaborn as sns

    named = sns.color_palette("colorblind", 10).as_hex()
    palette = [*(named[i] for i in PALETTE), "#222222"]
    styles: dict[str, dict[str, Any]] = {}
    for i, method in enumerate(methods):
        color, again = palette[i % len(palette)], i // len(palette)
        styles[method] = {
            "color": color,
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": DASHES[again % len(DASHES)],
            "linewidth": 1.3,
            "markersize": 4.5,
            "markerfacecolor": "white" if again else color,
            "markeredgecolor": color if again else "white",
            "markeredgewidth": 0.9 if again else 0.4,
        }
    return styles


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


def _caption(rows: pd.DataFrame) -> str:
    """What line and band are, with the number of runs behind them."""
    counts = sorted(set(rows.groupby(["method", "setting"])["run"].nunique()))
    runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    band = "; band: ± 1 standard deviation" if counts[-1] > 1 else ""
    return f"line: mean over {runs} seed{'s' if counts != [1] else ''}{band}"


def _save(figure: Figure, path_stem: str | Path) -> list[Path]:
    """Write PNG and PDF without dates or versions in them."""
    stem = Path(path_stem)
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "pdf")]
    nothing = ({"Software": None}, {"CreationDate": None, "Producer": None, "Creator": None})
    for path, about in zip(paths, nothing, strict=True):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix[1:], dpi=200, metadata=about)
        write_bytes(path, buffer.getvalue())
    return paths
