"""What a sweep consists of: DIR/sweep.json, {"runs": {run name: resolved config}}. Workers need nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from benchmark.config.schema import RunConfig, validated
from benchmark.errors import UserError
from benchmark.storage.files import DamagedFile, read_json, write_json


def planned_runs(directory: Path, names: Collection[str] | None = None) -> list[RunConfig]:
    """The runs of DIR/sweep.json, or those of them that it holds under `names`; the others need not be valid."""
    path = directory / "sweep.json"
    try:
        return [validated(config) for name, config in _read(directory).items() if names is None or name in names]
    except (FileNotFoundError, NotADirectoryError):
        if not directory.is_dir():
            raise UserError(f"There is no results folder {directory}.") from None
        raise UserError(f"{directory} holds no sweep: it has no sweep.json.") from None
    except UserError as error:
        raise UserError(f"{path} does not fit this imcil: {error}") from error
    except (DamagedFile, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error


def write_plan(directory: Path, runs: Sequence[RunConfig]) -> None:
    """Add runs to what the sweep consists of. Workers of a cluster may still be about to begin those added earlier."""
    try:
        earlier = _read(directory)
    except (OSError, DamagedFile, KeyError, TypeError, ValueError):
        earlier = {}
    kept = {name: config for name, config in earlier.items() if _stays(directory, name, config)}
    plan = {**kept, **{run.run_name: run.model_dump(mode="json") for run in runs}}
    write_json(directory / "sweep.json", {"runs": plan})


def _stays(directory: Path, name: str, config: Any) -> bool:
    """Whether a run planned earlier was at least begun, or can still be carried out: its method's file is the same."""
    if (directory / "runs" / name).is_dir():
        return True
    try:
        return validated(config).run_name == name
    except (UserError, KeyError, TypeError, AttributeError):
        return False


def _read(directory: Path) -> dict[str, Any]:
    """Name -> config of the runs of DIR/sweep.json."""
    return dict(read_json(directory / "sweep.json")["runs"])
