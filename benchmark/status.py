"""`imcil status`: the state of every run of a results folder, from its files alone; imports no method, no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.errors import UserError
from benchmark.store import DamagedFile, RunFolder, RunRecord, load_runs, read_json, read_jsonl

STYLES = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "interrupted": "yellow",
    "pending": "dim",
    "damaged": "magenta",
}  # in the order in which they are counted


def print_status(directory: Path) -> None:
    """Print one row per run of DIR (planned in sweep.json, or with a folder), what failed and why, and the totals.

    Raises
    ------
    UserError : DIR does not exist or holds no results, or its sweep.json cannot be read.
    """
    records = _records(directory)
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("state")
    table.add_column("experiences", justify="right")
    for record in records:
        table.add_row(Text(_plain(record.name)), Text(record.state, STYLES[record.state]), Text(progress(record)))
    console = Console(highlight=False)
    console.print(table)
    for record in records:
        for reason in _reasons(record):
            console.print(Text(f"{_plain(record.name)}: {_plain(reason)}"), soft_wrap=True)
    counts: Counter[str] = Counter(record.state for record in records)
    totals = ", ".join(f"{counts[state]} {state}" for state in STYLES if counts[state])
    console.print(Text(f"{len(records)} runs: {totals}" if records else "0 runs"), soft_wrap=True)


def _records(directory: Path) -> list[RunRecord]:
    """Planned runs and those that only have a folder, by name."""
    if not directory.is_dir():
        raise UserError(f"The results folder {directory} does not exist.")
    planned = _planned(directory)
    if planned is None:
        return load_runs(directory)
    records = load_runs(directory) if (directory / "runs").is_dir() else []
    for name in set(planned) - {record.name for record in records}:
        records.append(RunRecord(name, directory / "runs" / name, "pending", {}, {}, {}, None, {}))
    return sorted(records, key=lambda record: record.name)


def _planned(directory: Path) -> list[str] | None:
    """Names of the runs in sweep.json, None where there is no such file."""
    path = directory / "sweep.json"
    try:
        plan = read_json(path)
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        raise UserError(str(error)) from error
    runs = plan.get("runs") if isinstance(plan, dict) else None
    if not isinstance(runs, dict):
        raise UserError(f"{path} is damaged: it holds no runs.")
    return list(runs)


def progress(record: RunRecord) -> str:
    """Experiences recorded of all: "3/10"; a run that has not started has none."""
    total = record.stream.get("tasks", "?")
    try:
        recorded = len(read_jsonl(RunFolder(record.path).metrics))
    except (OSError, DamagedFile):
        return f"?/{_plain(total)}"
    return f"{recorded}/{_plain(total)}" if recorded or record.stream else ""


def _reasons(record: RunRecord) -> Iterator[str]:
    """Why a run failed, and what of its folder cannot be read."""
    if record.state == "failed":
        yield str(record.failure.get("exception") or "no reason recorded")
    if record.state in ("damaged", "done"):
        yield from record.problems


def _plain(text: Any) -> str:
    """One printable line: what stands in a folder may be a stranger's."""
    return "".join(c if c.isprintable() else " " for c in str(text)).strip()
