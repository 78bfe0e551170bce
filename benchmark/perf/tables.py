"""The files that `make perf` left -> Markdown for the README. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.store import read_json

LIMIT = (
    "Its limit: if training were the multiplications of its convolutions alone, at the speed of a large matrix product "
    "on this core."
)


def speed_tables(root: Path, directory: str) -> str:
    """Markdown: one table a kind of measurement, then the single figures; a part that was not measured is left out.

    A plot is linked to as seen from `root`, where the README is.
    """
    found = {path.stem: read_json(path) for path in sorted((root / directory).glob("*.json"))}
    lines: list[str] = []
    for part in ("first", "later"):
        records = [record for stem, record in found.items() if stem.startswith(f"{part}-")]
        if not records:
            continue
        lines += ["| mode | method | images/s | bare loop | ratio (range) |", "|---|---|--:|--:|--:|"]
        for record in records:
            for name, row in record["strategies"].items():
                low, high = row["ratio_range"]
                speeds = f"{row['images_per_second']:.0f} | {row['bare_images_per_second']:.0f}"
                lines.append(f"| {record['mode']} | {name} | {speeds} | {row['ratio']:.2f} ({low:.2f}-{high:.2f}) |")
        modes: dict[str, list[str]] = {}
        for record in records:
            modes.setdefault(_sentence(record["what"]), []).append(record["mode"])
        sentences = [text if len(modes) == 1 else f"{', '.join(among)}: {text}" for text, among in modes.items()]
        lines += ["", f"{' '.join(sentences)} {_machines(records)}", ""]
    stock = [record for stem, record in found.items() if stem.startswith("stock-")]
    if stock:
        lines += [
            "| mode | train | its limit | evaluate | end to end (range) | compiling and its 4 steps, s, not counted |"
        ]
        lines += ["|---|--:|--:|--:|--:|--:|"]
        for row in stock:
            low, high = row["end_to_end_range"]
            ends = f"{row['end_to_end_speedup']:.2f} ({low:.2f}-{high:.2f})"
            compiling = f"{row['compile_seconds']:.0f}" if row["compile_seconds"] else ""
            limit = f"{row['train_limit']:.2f}" if "train_limit" in row else ""
            speedups = f"{row['train_speedup']:.2f} | {limit} | {row['eval_speedup']:.2f}"
            lines.append(f"| {row['mode']} | {speedups} | {ends} | {compiling} |")
        what = stock[0]["what"].replace(f" here, {stock[0]['mode']},", "")
        lines += ["", f"Times as fast as stock Avalanche: {what}. {LIMIT} {_machines(stock)}", ""]
    for stem, record in found.items():
        if stem.startswith("experiences-"):
            ratios = ", ".join(f"{name} {row['ratio']:.3f}" for name, row in record["strategies"].items())
            lines.append(f"- {_sentence(record['what'])[:-1]}: {ratios} ({_setting(record)}).")
        elif stem.startswith("classes-"):
            rows = "; ".join(
                f"{name} " + ", ".join(f"{value:.0f} ({count})" for count, value in row.items())
                for name, row in record["strategies"].items()
            )
            lines.append(f"- {_sentence(record['what'])[:-1]}, by number of classes: {rows} ({_setting(record)}).")
        elif stem.startswith("methods-"):
            slower = sorted((row["ratio"], name) for name, row in record["strategies"].items())
            ratios = ", ".join(f"{name} {value:.2f}" for value, name in slower)
            lines.append(f"- {_sentence(record['what'])[:-1]}: {ratios} ({_setting(record)}){_busy([record])}.")
        elif stem.startswith("evaluation-"):
            speeds = f"{record['evaluation']:.0f} evaluated, {record['herding']:.0f} herded"
            lines.append(f"- {_sentence(record['what'])[:-1]}: {speeds} ({_setting(record)}).")
        elif stem.startswith("memory-"):
            above = record["peak_bytes"] - record["libraries_bytes"]
            gib = [f"{count / 2**30:.2f} GiB" for count in (above, record["peak_bytes"])]
            lines.append(
                f"- {_sentence(record['what'])[:-1]}: {gib[0]} above the imported libraries, {gib[1]} with them "
                f"({_setting(record)})."
            )
        elif stem.startswith("thousand-"):
            lines.append(
                f"- {_sentence(record['what'])[:-1]}: {record['peak_ratio']:.2f} ({_setting(record)})."
                f"{_plot(root, directory, stem)}"
            )
        elif stem.startswith("large-"):
            alone, trained = record["loader_images_per_second"], record["training_images_per_second"]
            what = _sentence(record["what"])[:-1]
            lines.append(f"- {what}: {alone:.0f} images a second, against {trained:.0f} trained ({_setting(record)}).")
        elif stem.startswith("sweep-"):
            rows = ", ".join(f"{row['images_per_second']:.0f} ({jobs})" for jobs, row in record["workers"].items())
            lines.append(
                f"- {_sentence(record['what'])[:-1]}; images a second by workers: {rows} ({_setting(record)})."
            )
        elif stem.startswith("concurrent-"):
            rows = ", ".join(
                f"{row['images_per_second']:.0f} ({count}"
                + (f", {row['utilisation']:.0f} % busy)" if row["utilisation"] is not None else ")")
                for count, row in record["runs"].items()
            )
            lines.append(f"- {_sentence(record['what'])[:-1]}; images a second: {rows} ({_setting(record)}).")
        elif stem.startswith("overhead-"):
            share, run = f"{100 * record['outside']:.1f} %", f"{record['seconds_per_run']:.2f} s a run"
            seconds = record["seconds_outside"]
            parts = (
                f"{seconds['before']:.1f} s before the first, most of it to import torch and Avalanche; between them "
            )
            parts += f"{seconds['between']:.1f} s; tables and figures {seconds['after']:.1f} s"
            lines.append(
                f"- {_sentence(record['what'])[:-1]}: {share} ({run}; {parts}; {_setting(record)}){_busy([record])}."
            )
        elif stem.startswith("reading-"):
            middle = {name: [sorted(times[by])[1] for by in times] for name, times in record["seconds"].items()}
            rows = ", ".join(f"{name.replace('_', ' ')} {a:.1f} ({b:.1f})" for name, (a, b) in middle.items())
            lines.append(f"- {_sentence(record['what'])[:-1]}: {rows} ({_setting(record)}){_busy([record])}.")
        elif stem.startswith("pairs-"):
            dgr, diagnostics = (_interval(record[key]) for key in ("dgr_over_lwf", "diagnostics_over_none"))
            lines.append(
                f"- {_sentence(record['what'])[:-1]}: `dgr` over `lwf`, same teacher, {dgr}; with diagnostics over "
                f"without {diagnostics} ({_setting(record)}){_busy([record])}."
            )
    return "\n".join(lines).rstrip() + "\n"


def _plot(root: Path, directory: str, stem: str) -> str:
    picture = f"{directory}/{stem}.png"
    return (
        f"\n\n  ![Seconds, microseconds an image and memory by experience]({picture})\n"
        if (root / picture).is_file()
        else ""
    )


def _interval(measured: Mapping[str, Any]) -> str:
    low, high = measured["interval"]
    return f"{measured['ratio']:.3f} ({low:.3f}-{high:.3f})"


def _setting(record: Mapping[str, Any]) -> str:
    """The mode of one measurement, and the GPU or processor it was made on."""
    device = record.get("device", "the CPU")
    return f"{record['mode']}, {record['environment']['machine']['processor'] if device == 'the CPU' else device}"


def _machines(records: Sequence[Mapping[str, Any]]) -> str:
    """The processors measured on, and the load of others while it was measured."""
    processors = sorted({record["environment"]["machine"]["processor"] for record in records})
    return f"{', '.join(processors)}{_busy(records)}."


def _busy(records: Sequence[Mapping[str, Any]]) -> str:
    loads = [record["foreign_cores"] for record in records if record.get("foreign_cores") is not None]
    return f"; other processes kept up to {max(loads):.1f} cores busy" if loads else ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
