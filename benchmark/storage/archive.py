"""Export a sweep for committing: `python -m benchmark.storage.archive results/NAME [results/reference/NAME]`.

Of every finished run it keeps config (without the data's place), environment, stream, metrics, cost, result, the last
confusion matrices and, compressed, with four digits, the diagnostics: enough for every table and figure, under 40 kB a
run of 100 classes. Files already exported are left as they are.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.storage.files import json_bytes, read_bytes, read_json, write_bytes, write_json
from benchmark.storage.folder import RunFolder
from benchmark.storage.records import RunRecord, load_runs

LARGEST = 40_000  # bytes of one exported run, for each hundred classes


def export(source: Path, target: Path) -> int:
    """Copy the finished runs of `source` that `target` lacks; returns how many were copied.

    Raises
    ------
    UserError : `source` holds no results, or a run is larger than `LARGEST`.
    """
    copied = 0
    for record in load_runs(source):
        if record.state == "done":
            copied += _export_run(record, RunFolder(target / "runs" / record.name))
    if (source / "sweep.json").is_file():
        plan = {name: _without_root(config) for name, config in _plan(source).items()}
        write_json(target / "sweep.json", {"runs": {**_plan(target), **plan}})  # runs may come from several folders
    return copied


def _plan(directory: Path) -> dict[str, Any]:
    """The planned runs of a folder, name -> config; none without a plan."""
    path = directory / "sweep.json"
    return dict(read_json(path)["runs"]) if path.is_file() else {}


def _export_run(record: RunRecord, there: RunFolder) -> bool:
    """Write the files of one run that are not there yet; tells whether there were any."""
    here = RunFolder(record.path)
    last = sorted(here.confusion.glob("*.npz"))[-1:]  # none of multi-label runs
    files = {
        there.config: json_bytes(_without_root(record.config)),
        there.environment: json_bytes(record.environment),
        there.stream: json_bytes(record.stream),
        **{there.confusion / path.name: read_bytes(path) for path in last},
        there.packed_diagnostics: _packed(here.read_diagnostics()),
        there.metrics: here.metrics.read_bytes() if here.metrics.is_file() else b"",
        there.cost: here.cost.read_bytes() if here.cost.is_file() else b"",
        there.result: here.result.read_bytes(),  # last: its presence is "done"
    }
    missing = {path: content for path, content in files.items() if content and not path.exists()}
    size = sum(path.stat().st_size if path.exists() else len(content) for path, content in files.items())
    largest = LARGEST * max(1, len(record.stream.get("class_order", ())) // 100)
    if size > largest:
        raise UserError(f"{here.path} has {size} bytes to export, more than the {largest} of a committed run.")
    for path, content in missing.items():
        write_bytes(path, content)
    return bool(missing)


def _packed(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Diagnostics as compressed lines, every number with four significant digits; b"" without any."""
    lines = "".join(json.dumps(_rounded(r), sort_keys=True, separators=(",", ":")) + "\n" for r in records)
    return gzip.compress(lines.encode(), mtime=0) if lines else b""


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _without_root(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config without the place of the data on one machine."""
    return {**config, "dataset": {**config["dataset"], "root": None}}


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit status."""
    if len(arguments) not in (1, 2):
        print("usage: python -m benchmark.storage.archive SOURCE [TARGET]", file=sys.stderr)
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
