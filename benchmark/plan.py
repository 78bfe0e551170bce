"""What a sweep consists of: DIR/sweep.json, {"runs": {run name: resolved config}}. Workers need nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.config import RunConfig, validated
from benchmark.errors import UserError
from benchmark.store import DamagedFile, read_json, write_json


def planned_runs(directory: Path) -> list[RunConfig]:
    """The runs of DIR/sweep.json."""
    path = directory / "sweep.json"
    try:
        return [validated(config) for config in _read(directory).values()]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory} holds no sweep: it has no sweep.json.") from None
    except UserError as error:
        raise UserError(f"{path} does not fit this imcil: {error}") from error
    except (DamagedFile, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error


def write_plan(directory: Path, runs: Sequence[RunConfig]) -> None:
    """Remember what the sweep consists of: the runs asked for now, and earlier ones that were at least started."""
    try:
        earlier = _read(directory)
    except (OSError, DamagedFile, KeyError, TypeError, ValueError):
        earlier = {}
    kept = {name: config for name, config in earlier.items() if (directory / "runs" / name).is_dir()}
    plan = {**kept, **{run.run_name: run.model_dump(mode="json") for run in runs}}
    write_json(directory / "sweep.json", {"runs": plan})


def _read(directory: Path) -> dict[str, Any]:
    """Name -> config of the runs of DIR/sweep.json."""
    return dict(read_json(directory / "sweep.json")["runs"])
