"""The two imbalances of a stream: between classes, and between new ones and what is kept of old ones (GR, Fig. 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.figures import style
from benchmark.results.results import FloatArray, Results, image_counts, share_counts
from benchmark.storage.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 6  # panels; of longer streams, experiences evenly apart


def stream(results: Results) -> Figure:
    """Training images per class at every experience: new classes in full, old ones as exemplars (GR, Fig. 1).

    Of the first run of the setting with most methods. Classes stand in order of arrival; what an old class lost is
    drawn in grey.
    """
    part = results.streams[0]
    first, sizes = part.records[0], part.sizes
    counts = image_counts(first)
    shown = np.unique(np.linspace(0, len(sizes) - 1, min(MOST, len(sizes))).round().astype(int))
    with style.styled():
        figure, axes = style.panels(len(shown), 3, (2.4, 1.75), extra=(0.0, 0.35), sharex=True, sharey=True)
        for axis, t in zip(axes, shown, strict=True):
            old, seen = sum(sizes[:t]), sum(sizes[: t + 1])
            kept = exemplars(first, old)
            x = np.arange(seen)
            axis.bar(x[:old], np.maximum(counts[:old] - kept, 0), bottom=kept, width=0.85, color=style.LOST)
            axis.bar(x[:old], kept, width=0.85, color=style.OLD)
            axis.bar(x[old:], counts[old:seen], width=0.85, color=style.NEW)
            style.count_axis(axis, counts.max())
            axis.set_xlim(-0.9, sum(sizes) - 0.1)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.set_title(f"experience {t + 1} of {len(sizes)}")
        for axis in axes[::3]:
            axis.set_ylabel("Training images")
        for axis in axes[-3:]:
            axis.set_xlabel("Class, in order of arrival")
        style.colours(figure, {"new classes": style.NEW, "exemplars of old": style.OLD, "lost": style.LOST})
        whose = [] if share_counts(part.records) else [f"Images of one run, {first.name}; they differ between runs."]
        style.note(figure, *whose, *part.notes())
    return figure


def exemplars(record: RunRecord, num_old: int) -> FloatArray:
    """Images held of each of the first classes by the memory's rule: min(budget, count), or a share of the total."""
    memory = record.config["memory"]
    quota = memory["budget"] if memory["mode"] == "per_class" else memory["budget"] // max(num_old, 1)
    return np.minimum(image_counts(record)[:num_old], quota)
