"""Text from users made safe for terminals and spreadsheets, and frames as CSV."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def to_csv(frame: pd.DataFrame) -> str:
    """Comma-separated values; a text that a spreadsheet would take for a formula gets a quotation mark before it."""
    inert = frame.rename(columns=_inert)
    for position, name in enumerate(frame.columns):
        if frame.dtypes.iloc[position].kind not in "iufb" and any(_inert(v) is not v for v in frame[name].unique()):
            inert.isetitem(position, [_inert(value) for value in frame[name]])
    return inert.to_csv(index=False, lineterminator="\n")


def printable(value: Any) -> str:
    """One line without control characters: what stands in a folder may be a stranger's, and a terminal obeys them."""
    text = str(value)
    return (text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)).strip()


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and re.match(r"[=+@\t\r]|-.", value) else value
