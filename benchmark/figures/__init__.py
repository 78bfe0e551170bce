"""Results folders -> figures for a paper, PNG and PDF, in one style: `imcil figures DIR --only NAME key=value …`.

Every figure is a function of `Results` that returns a matplotlib figure, or raises `NotDrawn` with one sentence on what
is missing. They read result files only: no torch, no plugin. Files carry no date, so that the same results give the
same bytes.

    from benchmark import figures
    results = figures.Results.load("results/quick", where=["stream.protocol=lfs"])
    figures.save(figures.draw("confusion", results), "confusion")
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import UserError, did_you_mean
from benchmark.figures.curves import accuracy_curves, forgetting_curves
from benchmark.figures.style import save
from benchmark.results.results import NotDrawn, Results
from benchmark.storage.files import unlinked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "NAMES", "NotDrawn", "Results", "accuracy_curves", "draw", "forgetting_curves", "save", "write_figures",
]  # fmt: skip

NAMES: dict[str, tuple[str, str]] = {
    "accuracy": ("curves:accuracy", "accuracy on seen classes, every method and setting"),
    "forgetting": ("curves:forgetting", "forgetting, every method and setting"),
    "map": ("curves:mean_average_precision", "mean average precision, of multi-label runs"),
    "stream": ("stream:stream", "images per class at every experience (GR, Fig. 1)"),
    "gradients": ("gradients:gradients", "gradient norm per class (GR, Fig. 2)"),
    "memory": ("curves:memory", "accuracy by memory budget (GR, Fig. 4; LUCIR, Figs. 5, 6)"),
    "rho": ("curves:rho", "accuracy by imbalance factor (GR, Fig. 4)"),
    "distillation": ("curves:distillation", "forgetting by kind of distillation (GR, Fig. 5)"),
    "head_norms": ("heads:head_norms", "head norms per class, by method (GR, Fig. 6)"),
    "dgr_parts": ("comparisons:dgr_parts", "DGR without each of its parts (GR, Table 2)"),
    "weights_biases": ("heads:weights_biases", "weights and biases of old and new classes (LUCIR, Fig. 3)"),
    "lucir_ladder": ("curves:lucir_ladder", "LUCIR's parts one by one (LUCIR, Fig. 7)"),
    "exemplars": ("comparisons:exemplars", "average accuracy against memory and rho (LUCIR, Fig. 8)"),
    "confusion": ("confusion:confusion", "confusion matrices, log(1 + x) (LUCIR, Fig. 9)"),
    "lost_samples": ("lost:lost_samples", "forgetting of a class against the images it lost"),
    "compute": ("comparisons:compute", "average accuracy against passes and training time"),
    "ranks": ("comparisons:ranks", "average ranks with critical difference"),
}
AFTER_A_SWEEP = ("accuracy", "forgetting", "map")  # written without being asked for


def draw(name: str, results: Results) -> Figure:
    """The figure of that name.

    Raises
    ------
    NotDrawn : its data are absent. UserError : no such figure, or runs that must not be averaged.
    """
    if name not in NAMES:
        raise UserError(f'There is no figure "{name}".{did_you_mean(name, NAMES)}')
    module, _, function = NAMES[name][0].partition(":")
    make: Callable[[Results], Figure] = getattr(importlib.import_module(f"benchmark.figures.{module}"), function)
    if not results.records:
        raise NotDrawn("there is no finished run")
    return make(results)


def write_figures(
    directory: str | Path,
    only: Iterable[str] = AFTER_A_SWEEP,
    where: Sequence[str] = (),
    out: Path | None = None,
    told: Callable[[str], object] = lambda line: None,
) -> list[Path]:
    """Write NAME.png and .pdf of each figure in `only`; returns the paths.

    Parameters: `where`, key=value conditions on the runs; `out`, the folder, else DIR/figures; `told` gets a line per
    figure: where it is, or why it was not drawn.
    Raises UserError on an unknown figure, when DIR/figures is a link, and, once the others are written, when runs of
    one line must not be averaged.
    """
    names = list(only)
    for name in names:
        if name not in NAMES:
            raise UserError(f'There is no figure "{name}".{did_you_mean(name, NAMES)}')
    folder = out or unlinked(Path(directory) / "figures")
    results = Results.load(directory, where)
    written: list[Path] = []
    refused: list[UserError] = []
    for name in names:
        try:
            paths = save(draw(name, results), folder / name)
        except NotDrawn as reason:
            told(f"{name}: not drawn, {reason}.")
        except UserError as reason:
            told(f"{name}: not drawn. {reason}")
            refused.append(reason)
        else:
            told(f"{name}: {paths[0]}, {paths[1].suffix}")
            written += paths
    if refused:
        raise refused[0]
    return written


def describe(name: str) -> str:
    """One line on a figure."""
    return NAMES[name][1]
