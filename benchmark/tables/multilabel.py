"""The tables of multi-label results, in the form of `benchmark.tables.tables`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmark.errors import UserError
from benchmark.metrics.catalogue import LAST
from benchmark.metrics.single_label import GROUPS
from benchmark.tables.side_by_side import GROUPS_NOTE, side_by_side

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.tables.side_by_side import Built

# Metrics side by side, {header: metric}.
MULTI_LABEL = {
    "average mAP": "average_map",
    "last mAP": "last_map",
    "CF1 .5": "cf1_at_0.5",
    "CF1 .8": "cf1_at_0.8",
    "OF1 .5": "of1_at_0.5",
    "OF1 .8": "of1_at_0.8",
    "FPR .5": "fpr_at_0.5",
    "memory FPR .5": "memory_fpr_at_0.5",
}
RELABELING = {
    "FPR before": "memory_label_fpr_before",
    "FPR after": "memory_label_fpr_after",
    "FNR before": "memory_label_fnr_before",
    "FNR after": "memory_label_fnr_after",
    "precision": "pseudo_precision",
    "recall": "pseudo_recall",
    "memory FPR .5": "memory_fpr_at_0.5",
}


def _multilabel(summary: pd.DataFrame, order: Sequence[str] = ()) -> Built:
    lines = [
        "average mAP: mean over experiences; all else after the last. CF1: mean over classes of F1; OF1: F1 of all "
        "entries; FPR: false-positive rate on test images, memory FPR: on exemplars (lower is better). "
        ".5, .8: the threshold. Test images show at least one class seen.",
    ]
    return side_by_side(summary, MULTI_LABEL, "average_map", order, "Multi-label results. In percent.", lines)


def _relabeling(summary: pd.DataFrame, order: Sequence[str] = ()) -> Built:
    if "pseudo_recall" not in summary.columns:
        raise UserError("No finished run relabels its memory.")
    names = set(summary.loc[summary["pseudo_recall"].notna(), "strategy"])
    part = summary[summary["strategy"].isin(names)]
    part.attrs = summary.attrs
    lines = [
        "False-positive and false-negative rate of the exemplars' labels on seen classes before and after the last "
        "relabeling, missing ones read as negative before; precision and recall of the labels filled in last; memory "
        "FPR: of the model's predictions on exemplars.",
    ]
    return side_by_side(
        part, RELABELING, "average_map", order, "Labels of exemplars under relabeling. In percent.", lines
    )


def _map_groups(summary: pd.DataFrame, order: Sequence[str] = ()) -> Built:
    parts = {name: f"{name}_map" for name in GROUPS}
    return side_by_side(
        summary, parts, "last_map", order, f"mAP of classes by group, {LAST} in percent.", [GROUPS_NOTE]
    )


TABLES: dict[str, Callable[[pd.DataFrame, Sequence[str]], Built]] = {
    "multilabel": _multilabel,
    "relabeling": _relabeling,
    "map_groups": _map_groups,
}
