"""`imcil status`: the state of every run of a results folder, from its files alone; imports no method, no torch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmark.errors import UserError
from benchmark.storage import leases
from benchmark.storage.files import DamagedFile, read_json
from benchmark.storage.records import STYLES, RunRecord, load_runs, progress
from benchmark.storage.text import printable

MOST_ROWS = 100  # of runs that are done or pending: more are counted only
LOOK_EVERY = 2.0  # seconds


def print_status(directory: Path) -> None:
    """Print one row per run of DIR (planned in sweep.json, or with a folder), where it runs, why it failed, totals.

    Raises
    ------
    UserError : DIR does not exist or holds no results, or its sweep.json cannot be read.
    """
    records = _records(directory)
    Console(highlight=False).print(_table(records), *_lines(records), sep="\n", soft_wrap=True)


def watch_status(directory: Path) -> None:
    """The same again and again, until no run is running, pending or interrupted, or Ctrl-C.

    Outside a terminal the totals are printed whenever they change. Runs that are done are read once.
    """
    console = Console(highlight=False)
    done: dict[str, RunRecord] = {}
    shown = ""
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            records = _records(directory, done)
            done = {record.name: record for record in records if record.state == "done"}
            if console.is_terminal:
                unfinished = [record for record in records if record.state not in ("done", "pending")]
                live.update(Group(_table(unfinished), *_lines(unfinished)[:-1], _totals(records)), refresh=True)
            elif shown != (shown := _totals(records).plain):
                print(shown, flush=True)
            if not any(record.state in ("running", "pending", "interrupted") for record in records):
                return
            time.sleep(LOOK_EVERY)


def _records(directory: Path, known: dict[str, RunRecord] | None = None) -> list[RunRecord]:
    """Planned runs and those that only have a folder, by name; those of `known` are not read again."""
    if not directory.is_dir():
        raise UserError(f"There is no results folder {directory}.")
    planned = _planned(directory)
    if planned is None:
        return load_runs(directory, known)
    records = load_runs(directory, known) if (directory / "runs").is_dir() else []
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


def _table(records: Sequence[RunRecord]) -> Table:
    """A row for each run; of many that are done or pending none."""
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("state")
    table.add_column("experiences", justify="right")
    for record in _listed(records):
        table.add_row(Text(printable(record.name)), Text(record.state, STYLES[record.state]), Text(progress(record)))
    return table


def _listed(records: Sequence[RunRecord]) -> list[RunRecord]:
    many = {s for s, count in Counter(record.state for record in records).items() if count > MOST_ROWS}
    return [record for record in records if record.state not in many & {"done", "pending"}]


def _lines(records: Sequence[RunRecord]) -> list[Text]:
    """What there is to say about single runs, and the totals."""
    now = leases.clock(records[0].path.parent) if records else time.time
    lines = [
        Text(f"{printable(record.name)}: {printable(remark)}")
        for record in records
        for remark in ([_whereabouts(record, now)] if record.state == "running" else _reasons(record))
    ]
    left_out = Counter(record.state for record in records) - Counter(record.state for record in _listed(records))
    if left_out:
        counted = " and ".join(f"{count} {state}" for state, count in sorted(left_out.items()))
        lines.append(Text(f"Not listed: {counted} runs."))
    return [*lines, _totals(records)]


def _totals(records: Sequence[RunRecord]) -> Text:
    """'5 runs: 3 done, 2 pending'."""
    counts: Counter[str] = Counter(record.state for record in records)
    totals = ", ".join(f"{counts[state]} {state}" for state in STYLES if counts[state])
    return Text(f"{len(records)} runs: {totals}" if records else "0 runs")


def _whereabouts(record: RunRecord, now: Callable[[], float]) -> str:
    """'on node7 (process 412) since 14:03, experience 3/10, epoch 4/12, 512 images/s, about 3 min left'."""
    claim = leases.newest(record.path)
    if claim is None:
        return "just finished"
    owner = claim.owner
    parts = [f"on {owner.get('host', 'an unknown machine')} (process {owner.get('pid', '?')}){_since(owner)}"]
    silence = now() - claim.heard
    if silence > leases.LEASE / 2:
        parts.append(f"no sign of life for {duration(silence)}")
    with suppress(LookupError, TypeError, ValueError, ArithmeticError):  # it has told nothing yet, or is a stranger's
        progress: dict[str, Any] = owner["progress"]
        parts += [
            f"experience {progress['experience'] + 1}/{progress['experiences']}",
            f"epoch {progress['epoch']}/{progress['epochs']}",
            f"{progress['rate']:.0f} images/s",
        ]
        parts.append(f"about {duration(_images_left(record, progress) / progress['rate'])} left")
    return ", ".join(parts)


def _since(owner: dict[str, Any]) -> str:
    """' since 14:03', with the date if that was another day."""
    try:
        moment = datetime.fromtimestamp(owner["since"])
    except (LookupError, TypeError, ValueError, OverflowError, OSError):
        return ""
    return f" since {moment:%H:%M}" if moment.date() == datetime.now().date() else f" since {moment:%Y-%m-%d %H:%M}"


def _images_left(record: RunRecord, progress: dict[str, Any]) -> float:
    """Images still to be trained on: new ones and a memory of `budget`, in the epochs left."""
    epochs, current = progress["epochs"], progress["experience"]
    memory = record.config["memory"]
    left, seen = 0.0, 0
    for t, size in enumerate(record.stream["sizes"]):
        held = memory["budget"] * (seen if memory["mode"] == "per_class" else bool(seen))
        images = sum(record.stream["train_counts"][seen : seen + size]) + min(
            held, sum(record.stream["train_counts"][:seen])
        )
        if t >= current:
            left += images * (epochs - progress["epoch"] if t == current else epochs)
        seen += size
    return left


def _reasons(record: RunRecord) -> Iterator[str]:
    """Why a run failed, and what of its folder cannot be read."""
    if record.state == "failed":
        attempt = record.failure.get("attempt")
        again = f" (attempt {attempt})" if isinstance(attempt, int) and attempt > 1 else ""
        yield f"{record.failure.get('exception') or 'no reason recorded'}{again}"
    for problem in record.problems:
        if record.state in ("damaged", "done") or problem.startswith("result.json"):
            yield problem


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3 h 20 min', '2 d 4 h'."""
    minutes = round(seconds / 60)
    hours = minutes // 60
    if seconds < 60:
        return f"{round(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
