"""Many runs: plan, carry out what is not finished, then write tables and figures from whatever is there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.config import RunConfig, validated
from benchmark.engines.console import LiveView
from benchmark.engines.local import InvalidRuns, LocalEngine
from benchmark.errors import UserError
from benchmark.interruption import RESUMABLE, Interrupted, StopRequest
from benchmark.store import DamagedFile, RunFolder, read_json, write_json


def run_sweep(
    runs: Sequence[RunConfig], directory: Path, jobs: int, device: str = "auto", fail_fast: bool = False
) -> int:
    """Carry out the runs that have no result yet; returns the exit status: 1 some failed, 75 interrupted.

    Raises
    ------
    UserError : a run's config does not fit its data; nothing was started.
    """
    pending = [run for run in runs if RunFolder(directory / "runs" / run.run_name).read_result() is None]
    finished = len(runs) - len(pending)
    if finished:
        print(f"{finished} of {len(runs)} runs are finished already.")
    failures: dict[str, str] = {}
    if pending:
        view = LiveView([run.run_name for run in pending])

        def listen(kind: str, name: str | None, content: Any) -> None:
            if kind == "checked":  # a mistake leaves nothing behind
                _write_plan(directory, runs)
            view.event(kind, name, content)

        try:
            with view, StopRequest().listening("Stopping every run after its step; a second signal ends them at once."):
                failures = LocalEngine(directory, jobs, device, listen).run(pending, fail_fast)
        except InvalidRuns as error:
            name, sentence = next(iter(error.problems.items()))
            more = f" ({len(error.problems) - 1} more runs have mistakes.)" if len(error.problems) > 1 else ""
            raise UserError(f"{sentence}{more}" if len(runs) == 1 else f"{sentence}{more} The run is {name}.") from None
        except Interrupted:
            print(f"Stopped, every run is saved; `imcil retry {directory}` continues.", file=sys.stderr)
            return RESUMABLE
    else:
        _write_plan(directory, runs)
    write_tables(directory)
    write_figures(directory)
    for name, message in failures.items():
        print(f"failed: {name}: {message}", file=sys.stderr)
    if failures:
        print(
            f"{len(failures)} of {len(runs)} runs failed; `imcil retry {directory}` runs them again.", file=sys.stderr
        )
    return 1 if failures else 0


def planned_runs(directory: Path) -> list[RunConfig]:
    """The runs of DIR/sweep.json."""
    path = directory / "sweep.json"
    try:
        return [validated(config) for config in _plan(directory).values()]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory} holds no sweep: it has no sweep.json.") from None
    except UserError as error:
        raise UserError(f"{path} does not fit this imcil: {error}") from error
    except (DamagedFile, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error


def _plan(directory: Path) -> dict[str, Any]:
    """Name -> config of the runs of DIR/sweep.json."""
    return dict(read_json(directory / "sweep.json")["runs"])


def _write_plan(directory: Path, runs: Sequence[RunConfig]) -> None:
    """Remember what the sweep consists of: the runs asked for now, and earlier ones that were at least started."""
    try:
        earlier = _plan(directory)
    except (OSError, DamagedFile, KeyError, TypeError, ValueError):
        earlier = {}
    kept = {name: config for name, config in earlier.items() if (directory / "runs" / name).is_dir()}
    plan = {**kept, **{run.run_name: run.model_dump(mode="json") for run in runs}}
    write_json(directory / "sweep.json", {"runs": plan})


def write_tables(directory: Path) -> None:
    """summary.csv, curves.csv and tables/ of a results folder; prints the main table."""
    from benchmark.summary import write_summary
    from benchmark.tables import print_main_table, write_all_tables

    summary, _ = write_summary(directory)
    if len(summary):
        write_all_tables(directory, summary)
        print_main_table(directory, summary)


def write_figures(directory: Path) -> None:
    """Accuracy and forgetting curves of a results folder, PNG and PDF."""
    from benchmark import figures

    figures.write_figures(directory)
