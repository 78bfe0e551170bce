"""Text tables: a frame of cells, with "title", "notes" and "bold" in its attrs, as Markdown, LaTeX or in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from benchmark.storage.text import printable

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
    for i, j in _bold(table):
        rows[i][j] = f"**{rows[i][j]}**"
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
    rows = [[escape_latex(cell) for cell in row] for row in _rows(table)]
    for i, j in _bold(table):
        rows[i][j] = rf"\textbf{{{rows[i][j]}}}"
    spans: list[str] = []
    if table.columns.nlevels == 2:  # one span per setting over its groups
        settings = list(dict.fromkeys(column[0] for column in table.columns))
        width = num_columns // len(settings)
        rows[0][1:] = [escape_latex(str(column[1])) for column in table.columns]
        titles = [rf"\multicolumn{{{width}}}{{c}}{{{escape_latex(setting)}}}" for setting in settings]
        rules = [rf"\cmidrule(lr){{{2 + i * width}-{1 + (i + 1) * width}}}" for i in range(len(settings))]
        spans = [rf"    & {' & '.join(titles)} \\", f"    {' '.join(rules)}"]
    head, *body = [rf"    {' & '.join(row)} \\" for row in rows]
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
        *body,
        r"    \bottomrule",
        r"  \end{tabular}",
        rf"  \par\smallskip\parbox{{\linewidth}}{{\footnotesize {notes}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def print_table(table: pd.DataFrame) -> None:
    """Show a table on standard output.

    No cell is ever cut or broken: columns that do not fit into the terminal follow in blocks below, each with the rows'
    names; a file or pipe gets all in one.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    bold = set(table.attrs.get("bold", ()))
    names = [printable(name) for name in table.index]
    title = printable(table.index.name or "method")
    headers = [printable(" ".join(column) if isinstance(column, tuple) else column) for column in table.columns]
    columns = [[printable(cell) for cell in column] for column in table.to_numpy().T.tolist()]
    widths = [_width([*header.split(), *cells]) for header, cells in zip(headers, columns, strict=True)]
    console = Console()
    left = _width([title, *names])
    if not console.is_terminal:
        unbroken = (_width([header, *cells]) for header, cells in zip(headers, columns, strict=True))
        console.width = max(console.width, _table_width([left, *unbroken]))
    console.print(Text(printable(table.attrs["title"]), style="bold"))
    for block in _blocks(left, widths, console.width):
        shown = Table()
        shown.add_column(title, no_wrap=True)
        for place in block:
            shown.add_column(Text(headers[place]), justify="right", min_width=widths[place])
        for row, name in enumerate(names):
            styles = ["bold" if (table.index[row], table.columns[place]) in bold else "" for place in block]
            cells = (Text(columns[place][row], style) for place, style in zip(block, styles, strict=True))
            shown.add_row(Text(name), *cells)
        console.print(shown)
    console.print(Text("\n".join(map(printable, table.attrs["notes"]))))


def _blocks(left: int, widths: Sequence[int], room: int) -> list[list[int]]:
    """Places of the columns of each block: as many as fit beside the names, at least one."""
    blocks: list[list[int]] = [[]]
    for place in range(len(widths)):
        taken = _table_width([left, *(widths[other] for other in [*blocks[-1], place])])
        if blocks[-1] and taken > room:
            blocks.append([])
        blocks[-1].append(place)
    return blocks


def _table_width(widths: Sequence[int]) -> int:
    return sum(width + 3 for width in widths) + 1  # a blank on both sides of a cell, a line before each and at the end


def _width(texts: Iterable[str]) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, texts), default=0)


def escape_markdown(value: str) -> str:
    """`value` on one line, with nothing in it read as Markdown or HTML."""
    return re.sub(r"([\\|*`<\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(value.split()))


def escape_latex(value: str) -> str:
    """`value` on one line, with nothing in it read as a command; a lone "rho" becomes the letter."""
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(value.split()))
    return re.sub(r"\brho\b", r"$\\rho$", escaped)


def _rows(table: pd.DataFrame) -> list[list[str]]:
    name = str(table.index.name or "method")
    header = [name, *(" ".join(c) if isinstance(c, tuple) else str(c) for c in table.columns)]
    body = [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)]
    return [header, *body]


def _bold(table: pd.DataFrame) -> list[tuple[int, int]]:
    """(row, column) in `_rows` of the cells to print in bold."""
    cells = table.attrs.get("bold", ())
    return [(1 + list(table.index).index(row), 1 + list(table.columns).index(column)) for row, column in cells]
