"""The lines under a table: averaging, seeds, what is missing, protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.results import labels, small_batches
from benchmark.results.labels import label_rows, trials
from benchmark.results.pairs import PAIRS_FOR_BOLD

if TYPE_CHECKING:
    import pandas as pd


def notes(summary: pd.DataFrame, found: pd.DataFrame, bold: bool = False) -> list[str]:
    """What stands under a table: the averaging, what bold means, what is missing, the protocol."""
    rows = label_rows(summary)
    begun = found[found["n"] > 0]
    complete = begun[begun["done"] == begun["expected"]]  # the others say their number in the cell
    counts = sorted(set((complete if len(complete) else begun)["n"])) or [0]
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    lines = [f"Mean ± standard deviation (n - 1) over n = {n} seeds ({labels.seeds_note(rows)})."]
    if n in ("0", "1"):
        lines = ["One run a cell: no standard deviation." if n == "1" else "No run is finished."]
    if bold:
        lines.append(
            "Bold: the best of a column where the 95 % interval of its paired difference to the runner-up excludes 0 "
            f"(at least {PAIRS_FOR_BOLD} pairs); joint training is no competitor."
        )
    if (found["done"] < found["expected"]).any():
        lines.append("(a/b): a of the b runs of this cell are finished.")
    lines += _fewer(complete)
    return [*lines, *about(summary)]


def _fewer(found: pd.DataFrame) -> list[str]:
    """Which methods have fewer seeds than the others of their setting: their means are over other streams."""
    short = found[found["n"] < found.groupby("setting")["n"].transform("max")]
    told = [f"{n}: {', '.join(sorted(set(part['method'])))}" for n, part in short.groupby("n")]
    if not told:
        return []
    return [f"Fewer seeds than others of their column, to be compared by paired differences ({'; '.join(told)})."]


def about(summary: pd.DataFrame) -> list[str]:
    """What holds for every table of these results: folders that could not be read, and the protocol."""
    damaged = sorted(set(summary.loc[summary["status"] == "damaged", "run"]))
    lines = []
    if damaged:
        more = ", …" if len(damaged) > 3 else ""
        lines.append(
            f"{len(damaged)} run folder{'s' * (len(damaged) > 1)} could not be read: {', '.join(damaged[:3])}{more}."
        )
    if summary.attrs.get("where"):
        lines.append(f"Only runs with {' and '.join(summary.attrs['where'])}.")
    lines += trials(summary)
    rows = label_rows(summary)
    lines += [_unlike(rows, c) for c in labels.RESOLVED if rows.groupby("setting")[c].nunique().max() > 1]
    protocol = labels.protocol_notes(rows)
    classifier = "Classifier: the network's head, unless the method names another."
    return [*lines, *protocol, classifier, *small_batches.note(summary)]


def _unlike(rows: pd.DataFrame, column: str) -> str:
    """Which methods ran with what, the most frequent last and without their names; with the setting if it depends."""
    rows = rows.dropna(subset=[column])
    one = rows.groupby("method")[column].nunique().eq(1)[rows["method"]].to_numpy()
    names = rows["method"].where(one, rows["method"] + " " + rows["setting"])
    methods = names.groupby(rows[column]).unique().map(sorted)
    *named, usual = sorted(methods.items(), key=lambda item: (len(item[1]), item[0]))
    told = "; ".join(f"{value}: {', '.join(among)}" for value, among in named)
    return f"Unlike {column} may be part of a difference ({told}; all others: {usual[0]})."
