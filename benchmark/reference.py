"""Export a sweep for committing: `python -m benchmark.reference results/NAME [results/reference/NAME]`.

Of every finished run it keeps config (without the data's place), environment, stream, result and the last confusion
matrices: enough for every table and curve, under 40 kB a run. Finished runs already exported are left as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.store import RunFolder, load_runs, read_json, write_bytes, write_json
from benchmark.sweep import write_figures, write_tables

LARGEST = 40_000  # bytes of one exported run


def export(source: Path, target: Path) -> int:
    """Copy the finished runs of `source` that `target` lacks, then write its tables; returns how many were copied.

    Raises
    ------
    UserError : `source` holds no results, or a run is larger than 40 kB.
    """
    copied = 0
    for record in load_runs(source):
        here, there = RunFolder(record.path), RunFolder(target / "runs" / record.name)
        if record.state != "done" or there.read_result() is not None:
            continue
        write_json(there.config, _without_root(record.config))
        write_json(there.environment, record.environment)
        write_json(there.stream, record.stream)
        last = sorted(here.confusion.glob("*.npz"))[-1]
        write_bytes(there.confusion / last.name, last.read_bytes())
        write_bytes(there.result, here.result.read_bytes())
        size = sum(path.stat().st_size for path in there.path.rglob("*") if path.is_file())
        if size > LARGEST:
            raise UserError(f"{there.path} has {size} bytes, more than the {LARGEST} of a committed run.")
        copied += 1
    if (source / "sweep.json").is_file():
        plan = read_json(source / "sweep.json")["runs"]
        write_json(target / "sweep.json", {"runs": {name: _without_root(config) for name, config in plan.items()}})
    write_tables(target)
    write_figures(target)
    return copied


def _without_root(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config without the place of the data on one machine."""
    return {**config, "dataset": {**config["dataset"], "root": None}}


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit status."""
    if len(arguments) not in (1, 2):
        print("usage: python -m benchmark.reference SOURCE [TARGET]", file=sys.stderr)
        return 2
    source = Path(arguments[0])
    target = Path(arguments[1]) if len(arguments) == 2 else Path("results/reference") / source.name
    try:
        print(f"{export(source, target)} runs exported to {target}")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
