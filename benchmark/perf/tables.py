"""The files that `make perf` left -> Markdown for the README. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, did_you_mean
from benchmark.storage.files import read_json

Record = Mapping[str, Any]

LIMIT = (
    "Its limit: if training were the multiplications of its convolutions alone, at the speed of a large matrix product "
    "on this core."
)


def speed_tables(root: Path, directory: str, *parts: str) -> str:
    """Markdown: one table a kind of measurement, then the single figures; a part that was not measured is left out.

    Parameters
    ----------
    root
        Where the page is; `directory` and the links to plots are relative to it.
    directory
        Holds the files of `make perf`, PART-MODE.json.
    parts
        The measurements wanted, of TABLES and FIGURES; all if none is given.

    Raises
    ------
    UserError
        There is no such part.
    """
    for part in parts:
        if part not in {**TABLES, **FIGURES}:
            raise UserError(f'There is no measurement "{part}".{did_you_mean(part, {**TABLES, **FIGURES})}')
    found: dict[str, dict[str, Record]] = {}
    for path in sorted((root / directory).glob("*.json")):
        part = path.stem.partition("-")[0]
        if not parts or part in parts:
            found.setdefault(part, {})[path.stem] = read_json(path)
    lines: list[str] = []
    for part, table in TABLES.items():
        if part in found:
            lines += [*table(list(found[part].values())), ""]
    for part, figure in FIGURES.items():
        lines += [f"- {figure(one)}.{_plot(root, directory, stem)}" for stem, one in found.get(part, {}).items()]
    return "\n".join(lines).rstrip() + "\n"


def _beside_bare_loop(records: Sequence[Record]) -> list[str]:
    lines = ["| mode | method | images/s | bare loop | ratio (range) |", "|---|---|--:|--:|--:|"]
    for record in records:
        for name, row in record["strategies"].items():
            low, high = row["ratio_range"]
            speeds = f"{row['images_per_second']:.0f} | {row['bare_images_per_second']:.0f}"
            lines.append(f"| {record['mode']} | {name} | {speeds} | {row['ratio']:.2f} ({low:.2f}-{high:.2f}) |")
    modes: dict[str, list[str]] = {}
    for record in records:
        modes.setdefault(f"{_what(record)}.", []).append(record["mode"])
    sentences = [text if len(modes) == 1 else f"{', '.join(among)}: {text}" for text, among in modes.items()]
    return [*lines, "", f"{' '.join(sentences)} {_machines(records)}"]


def _beside_stock_avalanche(records: Sequence[Record]) -> list[str]:
    lines = ["| mode | train | its limit | evaluate | end to end (range) | compiling and its 4 steps, s, not counted |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for row in records:
        low, high = row["end_to_end_range"]
        ends = f"{row['end_to_end_speedup']:.2f} ({low:.2f}-{high:.2f})"
        compiling = f"{row['compile_seconds']:.0f}" if row["compile_seconds"] else ""
        limit = f"{row['train_limit']:.2f}" if "train_limit" in row else ""
        speedups = f"{row['train_speedup']:.2f} | {limit} | {row['eval_speedup']:.2f}"
        lines.append(f"| {row['mode']} | {speedups} | {ends} | {compiling} |")
    what = records[0]["what"].replace(f" here, {records[0]['mode']},", "")
    return [*lines, "", f"Times as fast as stock Avalanche: {what}. {LIMIT} {_machines(records)}"]


def _classes(record: Record) -> str:
    rows = "; ".join(
        f"{name} " + ", ".join(f"{value:.0f} ({count})" for count, value in row.items())
        for name, row in record["strategies"].items()
    )
    return f"{_what(record)}, by number of classes: {rows} ({_setting(record)})"


def _concurrent(record: Record) -> str:
    rows = ", ".join(
        f"{row['images_per_second']:.0f} ({count}"
        + (f", {row['utilisation']:.0f} % busy)" if row["utilisation"] is not None else ")")
        for count, row in record["runs"].items()
    )
    return f"{_what(record)}; images a second: {rows} ({_setting(record)})"


def _evaluation(record: Record) -> str:
    speeds = f"{record['evaluation']:.0f} evaluated, {record['herding']:.0f} herded"
    return f"{_what(record)}: {speeds} ({_setting(record)})"


def _experiences(record: Record) -> str:
    ratios = ", ".join(f"{name} {row['ratio']:.3f}" for name, row in record["strategies"].items())
    return f"{_what(record)}: {ratios} ({_setting(record)})"


def _large(record: Record) -> str:
    alone, trained = record["loader_images_per_second"], record["training_images_per_second"]
    return f"{_what(record)}: {alone:.0f} images a second, against {trained:.0f} trained ({_setting(record)})"


def _memory(record: Record) -> str:
    above = record["peak_bytes"] - record["libraries_bytes"]
    gib = [f"{count / 2**30:.2f} GiB" for count in (above, record["peak_bytes"])]
    return f"{_what(record)}: {gib[0]} above the imported libraries, {gib[1]} with them ({_setting(record)})"


def _methods(record: Record) -> str:
    slower = sorted((row["ratio"], name) for name, row in record["strategies"].items())
    ratios = ", ".join(f"{name} {value:.2f}" for value, name in slower)
    return f"{_what(record)}: {ratios} ({_setting(record)}){_busy([record])}"


def _overhead(record: Record) -> str:
    share, run = f"{100 * record['outside']:.1f} %", f"{record['seconds_per_run']:.2f} s a run"
    seconds = record["seconds_outside"]
    parts = (
        f"{seconds['before']:.1f} s before the first, most of it to import torch and Avalanche; "
        f"between them {seconds['between']:.1f} s; tables and figures {seconds['after']:.1f} s"
    )
    return f"{_what(record)}: {share} ({run}; {parts}; {_setting(record)}){_busy([record])}"


def _pairs(record: Record) -> str:
    dgr, diagnostics = (_interval(record[key]) for key in ("dgr_over_lwf", "diagnostics_over_none"))
    return (
        f"{_what(record)}: `dgr` over `lwf`, same teacher, {dgr}; with diagnostics over without {diagnostics} "
        f"({_setting(record)}){_busy([record])}"
    )


def _reading(record: Record) -> str:
    middle = {name: [sorted(times[by])[1] for by in times] for name, times in record["seconds"].items()}
    rows = ", ".join(f"{name.replace('_', ' ')} {a:.1f} ({b:.1f})" for name, (a, b) in middle.items())
    return f"{_what(record)}: {rows} ({_setting(record)}){_busy([record])}"


def _sweep(record: Record) -> str:
    rows = ", ".join(f"{row['images_per_second']:.0f} ({jobs})" for jobs, row in record["workers"].items())
    return f"{_what(record)}; images a second by workers: {rows} ({_setting(record)})"


def _thousand(record: Record) -> str:
    return f"{_what(record)}: {record['peak_ratio']:.2f} ({_setting(record)})"


TABLES: dict[str, Callable[[Sequence[Record]], list[str]]] = {
    "first": _beside_bare_loop,
    "later": _beside_bare_loop,
    "stock": _beside_stock_avalanche,
}

FIGURES: dict[str, Callable[[Record], str]] = {
    "classes": _classes,
    "concurrent": _concurrent,
    "evaluation": _evaluation,
    "experiences": _experiences,
    "large": _large,
    "memory": _memory,
    "methods": _methods,
    "overhead": _overhead,
    "pairs": _pairs,
    "reading": _reading,
    "sweep": _sweep,
    "thousand": _thousand,
}


def _plot(root: Path, directory: str, stem: str) -> str:
    picture = f"{directory}/{stem}.png"
    if not (root / picture).is_file():
        return ""
    return f"\n\n  ![Seconds, microseconds an image and memory by experience]({picture})\n"


def _interval(measured: Record) -> str:
    low, high = measured["interval"]
    return f"{measured['ratio']:.3f} ({low:.3f}-{high:.3f})"


def _setting(record: Record) -> str:
    """The mode of one measurement, and the GPU or processor it was made on."""
    device = record.get("device", "the CPU")
    return f"{record['mode']}, {record['environment']['machine']['processor'] if device == 'the CPU' else device}"


def _machines(records: Sequence[Record]) -> str:
    """The processors measured on, and the load of others while it was measured."""
    processors = sorted({record["environment"]["machine"]["processor"] for record in records})
    return f"{', '.join(processors)}{_busy(records)}."


def _busy(records: Sequence[Record]) -> str:
    loads = [record["foreign_cores"] for record in records if record.get("foreign_cores") is not None]
    return f"; other processes kept up to {max(loads):.1f} cores busy" if loads else ""


def _what(record: Record) -> str:
    return f"{record['what'][:1].upper()}{record['what'][1:]}"
