"""Text tables: a frame of cells, with "title" and "notes" in its attrs, as Markdown or LaTeX (booktabs)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def to_markdown(table: pd.DataFrame) -> str:
    """The table with its title above and its notes as a list below."""
    rows = [[escape_markdown(cell) for cell in row] for row in _rows(table)]
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    header, *body = [
        [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    rule = [("-" * (w - 1) + ":") if i else "-" * w for i, w in enumerate(widths)]
    lines = [f"| {' | '.join(row)} |" for row in (header, rule, *body)]
    notes = [f"- {escape_markdown(note)}" for note in table.attrs["notes"]]
    return "\n".join([f"**{escape_markdown(table.attrs['title'])}**", "", *lines, "", *notes]) + "\n"


def to_latex(table: pd.DataFrame, label: str) -> str:
    """A `table` environment for booktabs, with the title as caption and the notes under the rules."""
    num_columns = len(table.columns)
    header, *body = _rows(table)
    spans: list[str] = []
    if table.columns.nlevels == 2:  # one span per setting over its groups
        settings = list(dict.fromkeys(column[0] for column in table.columns))
        width = num_columns // len(settings)
        header = ["method", *(str(column[1]) for column in table.columns)]
        titles = [rf"\multicolumn{{{width}}}{{c}}{{{escape_latex(setting)}}}" for setting in settings]
        rules = [rf"\cmidrule(lr){{{2 + i * width}-{1 + (i + 1) * width}}}" for i in range(len(settings))]
        spans = [rf"    & {' & '.join(titles)} \\", f"    {' '.join(rules)}"]
    head, *rows = [rf"    {' & '.join(map(escape_latex, row))} \\" for row in (header, *body)]
    notes = " \\\\\n    ".join(map(escape_latex, table.attrs["notes"]))
    lines = [
        r"\begin{table}[t]",
        r"  \centering",
        rf"  \caption{{{escape_latex(table.attrs['title'])}}}",
        rf"  \label{{tab:{label}}}",
        rf"  \begin{{tabular}}{{l{'r' * num_columns}}}",
        r"    \toprule",
        *spans,
        head,
        r"    \midrule",
        *rows,
        r"    \bottomrule",
        r"  \end{tabular}",
        rf"  \par\smallskip\parbox{{\linewidth}}{{\footnotesize {notes}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape_markdown(value: str) -> str:
    """`value` on one line, with nothing in it read as Markdown or HTML."""
    return re.sub(r"([\\|*`<\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(value.split()))


def escape_latex(value: str) -> str:
    """`value` on one line, with nothing in it read as a command; a lone "rho" becomes the letter."""
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(value.split()))
    return re.sub(r"\brho\b", r"$\\rho$", escaped)


def _rows(table: pd.DataFrame) -> list[list[str]]:
    header = ["method", *(" ".join(c) if isinstance(c, tuple) else str(c) for c in table.columns)]
    body = [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)]
    return [header, *body]
