"""One look for all figures: sizes, colours, the note under a figure, and files without dates.

Seaborn's "ticks" style under our sizes and grid. Colours are `palette`'s, safe for colour-blind readers; markers and
dashes tell lines apart without colour. `Figure` objects are made without pyplot: no global state, no display.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.figures import palette
from benchmark.storage.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "d")  # 11 against 10 colours: pairs return after 110
DASHES = ("-", (0, (4, 1.2)), (0, (1, 1)), (0, (5, 1.2, 1, 1.2)))
OLD, NEW, LOST = "#0173b2", "#de8f05", "0.85"  # of the palette: old classes, new classes, images no longer there
SEQUENTIAL = "cividis"  # perceptually uniform and safe with any colour vision
COLUMN, PAGE = 3.5, 7.2  # inches: one and two columns of a paper
STYLE = {
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same files on every machine
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "0.3",
    "xtick.color": "0.3",
    "ytick.color": "0.3",
    "pdf.fonttype": 42,  # editable text; journals refuse type 3 fonts
}


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's settings are ours inside the block."""
    import matplotlib as mpl
    import seaborn as sns

    with mpl.rc_context({**sns.axes_style("ticks"), **STYLE}):
        yield


def panels(
    number: int, columns: int, size: tuple[float, float], extra: tuple[float, float] = (0.0, 0.0), **shared: Any
) -> tuple[Figure, list[Any]]:
    """A figure of `number` panels in rows of `columns`, each about `size` inches, and `extra` inches around them."""
    from matplotlib.figure import Figure

    columns = min(columns, number)
    rows = -(-number // columns)
    figure = Figure(figsize=(columns * size[0] + extra[0], rows * size[1] + extra[1]), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared).ravel().tolist()
    for axis in axes[number:]:
        axis.set_visible(False)
    for axis in axes[max(0, number - columns) : number]:
        axis.xaxis.set_tick_params(labelbottom=True)
    return figure, axes[:number]


def legend_height(entries: int) -> float:
    """Inches that a legend beside the panels needs, the small print below it included."""
    return 0.18 * entries + 0.6


def legend_width(labels: Iterable[str]) -> float:
    """Inches that a legend beside the panels needs."""
    return 0.5 + 0.065 * max(map(len, labels))


def columns(titles: Iterable[str]) -> int:
    """Panels a row for panels with these titles: 4 where that fills the rows and the titles fit, else 3."""
    lengths = [len(title) for title in titles]
    return 4 if len(lengths) in (4, 7, 8) and max(lengths) <= 20 else 3


def title(axis: Any, name: str, value: str, longest: int = 26) -> None:
    """ "name: value" above a panel, on two lines where it has more characters than fit beside the next panel's."""
    whole = f"{name}: {value}"
    axis.set_title(whole if len(whole) <= longest else f"{name}:\n{value}")


def methods(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Label -> how its line is drawn: colour, marker and dashes.

    From the eleventh place of `palette.places` on, colours return with dashed lines and hollow markers.
    """
    styles: dict[str, dict[str, Any]] = {}
    for name, i in palette.places(names).items():
        color, again = palette.ON_LIGHT[i % len(palette.ON_LIGHT)], i // len(palette.ON_LIGHT)
        styles[name] = {
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


def note(figure: Figure, *lines: str) -> None:
    """Small print under a figure, broken to its width: what is drawn, then dataset and protocol. The figure grows."""
    width, height = figure.get_size_inches()
    per_line = int(width * 19)  # characters of 7 points
    broken = [part for line in lines for part in textwrap.wrap(line, per_line, break_on_hyphens=False)]
    figure.set_size_inches(width, height + 0.14 * len(broken))
    figure.supxlabel("\n".join(broken), fontsize=7, color="0.3", linespacing=1.35)


def save(figure: Figure, path_stem: str | Path) -> list[Path]:
    """Write `path_stem`.png and .pdf without dates or versions in them; returns the paths."""
    stem = Path(path_stem)
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "pdf")]
    nothing = ({"Software": None}, {"CreationDate": None, "Producer": None, "Creator": None})
    for path, about in zip(paths, nothing, strict=True):
        buffer = io.BytesIO()
        with styled():  # the font type of a PDF is decided when it is written
            figure.savefig(buffer, format=path.suffix[1:], dpi=200, metadata=about)
        write_bytes(path, buffer.getvalue())
    return paths


def colours(figure: Figure, named: Mapping[str, str]) -> None:
    """A legend of coloured patches above the panels."""
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in named.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, handlelength=1.2)


def count_axis(axis: Any, largest: float) -> None:
    """The vertical axis counts images from 1 to `largest`, logarithmically: labels at powers of ten alone."""
    from matplotlib.ticker import NullFormatter

    axis.set_yscale("log")
    axis.set_ylim(0.8, 1.6 * largest)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def seeds(counts: int | Collection[int]) -> str:
    """ "3 seeds", "3 to 5 seeds", "1 seed"."""
    found = {counts} if isinstance(counts, int) else set(counts)
    number = str(min(found)) if len(found) == 1 else f"{min(found)} to {max(found)}"
    return f"{number} seed{'' if found == {1} else 's'}"
