"""Methods as points: average accuracy of ablations, against the memory budget, against compute, and their ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import UserError
from benchmark.figures import style
from benchmark.results import labels
from benchmark.results.averages import competitors
from benchmark.results.pairs import paired_differences, paired_scores
from benchmark.results.results import NotDrawn, Results, renamed
from benchmark.results.statistics import average_ranks, mean_interval
from benchmark.results.summary import text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

METRIC, LABEL = "average_accuracy_seen", "Average accuracy (seen, %)"
DGR_ROWS = {
    "ce_kd": "CE + KD",
    "bsce_kd": "+ regularised softmax",
    "balanced_softmax": "regularised softmax, no KD",
    "gr_intra": "GR within groups, β = 1",
    "gr": "GR, one group",
    "dgr": "DGR + DAKD (the method)",
    "dgr_symmetric": "DGR, symmetric ratio",
    "dgr_no_attenuation": "no attenuation (γ = 1)",
    "dgr_no_beta": "no loss balance (β = 1)",
    "dgr_no_offset": "no regularised softmax",
    "dgr_static": "image counts for gradients",
    "dgr_no_kd": "no distillation",
    "dgr_feature_kd": "feature distillation",
    "dgr_vanilla_kd": "vanilla KD (R = 1, w = 1)",
    "dgr_mixed_kd": "DAKD with R = 0",
    "dgr_reweighted_kd": "KD rows reweighted too",
}  # the paper's ablation, specification's order


def dgr_parts(results: Results) -> Figure:
    """Average accuracy of every row of DGR's ablation, and its paired difference to DGR (GR, Table 2)."""
    found = results.strategies(*DGR_ROWS)
    part = next((p for p in found.settings if "dgr" in p.methods() and len(p.methods()) > 2), None)
    if part is None:
        raise NotDrawn("no setting has runs of dgr and of two of its ablations")
    scores = 100 * paired_scores(labels.own_rows(part.summary), METRIC)
    strategy = {label: label.split(" ")[0] for label in scores.columns}
    rows = sorted(scores.columns, key=lambda label: (list(DGR_ROWS).index(strategy[label]), label))
    with style.styled():
        figure, (left, right) = style.panels(2, 2, (3.2, 0.23 * len(rows) + 0.5), extra=(1.0, 0.1), sharey=True)
        for y, label in enumerate(rows):
            values = scores[label].dropna().to_numpy()
            colour = style.NEW if label == "dgr" else style.OLD
            left.scatter(values, np.full(len(values), y), s=8, color=colour, alpha=0.45, linewidth=0)
            left.plot(values.mean(), y, "o", color=colour, ms=5)
            pairs = paired_differences(scores, label, "dgr")
            if label == "dgr" or not len(pairs):
                continue
            interval = mean_interval(pairs.to_numpy(), list(pairs.index.get_level_values("order")))
            right.hlines(y, interval.low, interval.high, color=colour, linewidth=1.2)
            right.plot(pairs.mean(), y, "o", color=colour, ms=4)
        right.axvline(0, color=style.NEW, linewidth=1)
        left.set_yticks(range(len(rows)), [renamed(label, DGR_ROWS) for label in rows])
        left.set_ylim(len(rows) - 0.5, -0.5)
        left.set_xlabel(LABEL)
        right.set_xlabel("Difference to DGR (points)")
        style.note(
            figure,
            "Left: small dots are runs, large ones means. Right: mean of paired differences with its 95 % interval "
            f"(paired t unless there are enough orders); {style.seeds(set(scores.notna().sum()))}.",
            *part.notes(),
        )
    return figure


def exemplars(results: Results) -> Figure:
    """Average accuracy against the memory budget (LUCIR, Fig. 8) and, where it varies, against rho."""
    axes_of = {"memory_budget": "Exemplars", "rho": "Imbalance factor rho"}
    parts: dict[str, Results] = {}
    for column in axes_of:
        try:
            parts[column] = results.varying(column)
        except NotDrawn:
            continue
    if "memory_budget" not in parts:
        raise NotDrawn("no method ran with more than one memory budget")
    rows = {column: _labelled(part) for column, part in parts.items()}
    methods = list(dict.fromkeys(name for part in parts.values() for name in part.methods()))
    looks = style.methods(methods)
    with style.styled():
        figure, axes = style.panels(len(parts), 2, (2.6, 2.35), extra=(1.5, 0.1), sharey=True)
        for axis, (column, frame) in zip(axes, rows.items(), strict=True):
            for method in methods:
                grouped = 100 * frame[frame["base"] == method].groupby(column)[METRIC].agg(["mean", "std"])
                x = grouped.index.to_numpy(dtype=float)
                look = looks[method]
                low, high = grouped["mean"] - grouped["std"], grouped["mean"] + grouped["std"]
                axis.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
                axis.plot(x, grouped["mean"], **look)
            unit = {"per_class": " per class", "total": " in total"}.get(str(frame["memory_mode"].iloc[0]), "")
            axis.set_xlabel(axes_of[column] + (unit if column == "memory_budget" else ""))
            axis.set_xticks(sorted({float(value) for value in frame[column]}))
        axes[0].set_ylabel(LABEL)
        _legend(figure, methods, looks)
        counts = {int(n) for f in rows.values() for n in f.groupby(["base", "memory_budget", "rho"])["run"].nunique()}
        notes = dict.fromkeys(note for part in parts.values() for note in part.notes())
        style.note(figure, f"Line: mean over {style.seeds(counts)}; band: ± 1 standard deviation.", *notes)
    return figure


def compute(results: Results) -> Figure:
    """Average accuracy against what a run's training cost: passes of images, where they were counted, and seconds.

    Of the setting with most methods. Teacher passes and second stages are included. Passes are exact; seconds are
    those of one machine and of what else ran on it: compare within a figure only.
    """
    from matplotlib.ticker import MaxNLocator

    part = results.main
    axes_of = {"compute": "Passes per run ({} images)", "train_seconds": "Training time per run (s)"}
    costs = {name: found for name in axes_of if (found := part.costs(name))}
    if not costs:
        raise NotDrawn("no run kept its cost.jsonl")
    if part.summary[METRIC].isna().all():
        raise NotDrawn("no finished run has an average accuracy")
    rows = _labelled(part)
    methods = [name for name in part.methods() if any(name in found for found in costs.values())]
    looks = {name: {**look, "linestyle": "none", "markersize": 6} for name, look in style.methods(methods).items()}
    with style.styled():
        size = (3.6, 2.8) if len(costs) == 1 else (2.6, 2.6)
        extra = (1.6, 0.1 + max(0.0, style.legend_height(len(methods)) - size[1]))
        figure, axes = style.panels(len(costs), 2, size, extra=extra, sharey=True)
        for axis, (name, found) in zip(axes, costs.items(), strict=True):
            highest = max(float(np.mean(values)) for values in found.values())
            widest = max(
                float(np.mean(values) + np.std(values, ddof=int(len(values) > 1))) for values in found.values()
            )
            scale, unit = (1, "") if name != "compute" else (1e6, "million") if highest >= 1e6 else (1e3, "thousand")
            for method in (name for name in methods if name in found):
                accuracy = 100 * rows[rows["base"] == method][METRIC].astype(float)
                spent = np.asarray(found[method]) / scale
                sd = [values.std(ddof=1) if len(values) > 1 else None for values in (spent, accuracy)]
                look = looks[method]
                axis.errorbar(
                    spent.mean(), accuracy.mean(), xerr=sd[0], yerr=sd[1], elinewidth=0.8, ecolor=look["color"], **look
                )
            axis.set_xlim(0, min(1.5 * highest, 1.08 * widest) / scale)  # one slow run is no scale: its bar goes on
            axis.xaxis.set_major_locator(MaxNLocator(5))
            axis.set_xlabel(axes_of[name].format(unit))
        axes[0].set_ylabel(LABEL)
        _legend(figure, methods, looks)
        counts = {len(values) for found in costs.values() for values in found.values()}
        passes = " A pass: an image forward; backward counts as two more." if "compute" in costs else ""
        others = [name for name in part.methods() if name not in methods]
        passes += f" Without {', '.join(others)}, whose costs were not kept." if others else ""
        style.note(
            figure, f"Mean ± 1 standard deviation over {style.seeds(counts)}. With teachers and second stages.{passes}",
            *part.notes(),
        )  # fmt: skip
    return figure


def ranks(results: Results) -> Figure:
    """Average ranks of the methods over settings and seeds, with the critical difference (Demšar, JMLR 2006)."""
    import itertools

    summary = competitors(results.summary)
    try:
        found = average_ranks(paired_scores(summary, METRIC))
    except UserError as error:
        raise NotDrawn(str(error).rstrip(".")[0].lower() + str(error).rstrip(".")[1:]) from error
    names, values = list(found.rank.index), found.rank.to_numpy()
    half = -(-len(names) // 2)
    bars = [(found.rank[clique[0]], found.rank[clique[-1]]) for clique in found.cliques]
    top = 0.35 * len(bars)
    with style.styled():
        figure, (axis,) = style.panels(1, 1, (6.6, 0.24 * half + 0.12 * len(bars) + 0.85), extra=(0.0, 0.1))
        axis.set_xlim(0.5 - 0.28 * len(names), len(names) + 0.5 + 0.28 * len(names))
        axis.set_ylim(-top - half - 0.9, 2.2)
        axis.axis("off")
        axis.hlines(0, 1, len(names), color="0.2", linewidth=1)
        for tick in range(1, len(names) + 1):
            axis.vlines(tick, 0, 0.2, color="0.2", linewidth=1)
        for tick in range(1, len(names) + 1, -(-len(names) // 15)):  # more numbers would touch
            axis.text(tick, 0.35, str(tick), ha="center", va="bottom", fontsize=8)
        for i, (name, value) in enumerate(zip(names, values, strict=True)):
            left = i < half
            y = -top - 0.7 - (i if left else len(names) - 0.5 - i)  # between the rows of the other side
            end = 0.6 if left else len(names) + 0.4
            axis.plot([value, value, end], [0, y, y], color="0.4", linewidth=0.8)
            label = f"{name}  {value:.2f}" if left else f"{value:.2f}  {name}"
            axis.text(end + (-0.08 if left else 0.08), y, label, ha="right" if left else "left", va="center")
        for i, (first, last) in enumerate(bars):
            axis.hlines(-0.3 - 0.35 * i, first - 0.05, last + 0.05, color=style.NEW, linewidth=3)
        cd = found.critical_difference
        axis.hlines(1.6, 1, 1 + cd, color=style.NEW, linewidth=2)
        axis.text(1 + cd / 2, 1.7, f"critical difference {cd:.2f}", ha="center", va="bottom", fontsize=8)
        rows = results.only(set(summary["run"]))
        left_out = list(itertools.islice(found.left_out, 6))
        without = f" Without {', '.join(left_out)}{' …' if len(found.left_out) > 6 else ''}, which lack runs."
        style.note(
            figure,
            f"Average rank over {found.blocks} blocks of {found.block_kind}, 1 is best; methods under one bar are not "
            f"told apart at 5 % (Nemenyi).{without if left_out else ''}",
            *rows.notes(),
        )
    return figure


def _labelled(part: Results) -> pd.DataFrame:
    """Summary rows by the method's own classifier, with labels."""
    return labels.label_rows(labels.own_rows(part.summary))


def _legend(figure: Figure, methods: list[str], looks: dict[str, dict[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=text(method), **looks[method]) for method in methods]
    figure.legend(handles=handles, loc="outside right center", frameon=False)
