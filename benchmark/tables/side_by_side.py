"""Tables of several metrics side by side under every setting, such as many | medium | few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from benchmark.errors import UserError
from benchmark.results.averages import cells
from benchmark.tables.cells import bold_cells, lower_is_better, pivot, row_order
from benchmark.tables.notes import notes

if TYPE_CHECKING:
    import pandas as pd

    Built = tuple[pd.DataFrame, pd.DataFrame]  # the numbers, one row per cell; the table as text

GROUPS_NOTE = (
    "Groups by training images of the profile before hold-out; by default many > 100, medium 20-100, few < 20."
)


def side_by_side(
    summary: pd.DataFrame,
    parts: Mapping[str, str],
    overall: str,
    order: Sequence[str],
    text: str,
    lines: Sequence[str] = (),
) -> Built:
    """Methods x (setting, part), for {part: metric}; rows best first by the metric `overall`.

    `text` is the title, `lines` go before the usual notes. Raises UserError where no run can be read.
    """
    import pandas as pd

    found = {label: cells(summary, metric) for label, metric in parts.items()}
    ranked = cells(summary, overall)
    if ranked.empty:
        raise UserError("These results hold no run that can be read.")
    methods = row_order(ranked, order, ascending=lower_is_better(summary, overall))
    pivots = {label: pivot(part, methods) for label, part in found.items()}
    settings = list(next(iter(pivots.values())).columns)
    table = pd.concat([pivots[label][setting] for setting in settings for label in parts], axis=1)
    table.columns = pd.MultiIndex.from_product([settings, list(parts)], names=["setting", "group"])
    bold = [
        (method, (setting, label))
        for label, metric in parts.items()
        for method, setting in bold_cells(summary, found[label], metric)
    ]
    table.attrs = {"title": text, "notes": [*lines, *notes(summary, ranked, bool(bold))], "bold": bold}
    return pd.concat([part.assign(group=label) for label, part in found.items()], ignore_index=True), table
