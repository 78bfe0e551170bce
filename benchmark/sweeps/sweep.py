"""Many runs: plan, carry out what is not finished, then write tables and figures from whatever is there."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark.config.schema import RunConfig
from benchmark.errors import UserError
from benchmark.runs.signals import RESUMABLE, Interrupted, StopRequest
from benchmark.storage.files import unlinked
from benchmark.storage.folder import RunFolder
from benchmark.sweeps.engines.base import Detached, Engine, InvalidRuns
from benchmark.sweeps.engines.worker import Listener
from benchmark.sweeps.live_view import LiveView
from benchmark.sweeps.plan import write_plan
from benchmark.sweeps.preflight import check_writable


def run_sweep(
    runs: Sequence[RunConfig],
    directory: Path,
    engine: Callable[[Path, Listener], Engine],
    *,
    retry: bool = False,
    fail_fast: bool = False,
    finish: Callable[[Path], None],
    meanwhile: Callable[[], None] = lambda: None,
) -> int:
    """Carry out the runs that have no result yet; returns the exit status: 1 some failed, 75 interrupted.

    Parameters
    ----------
    engine : makes what carries them out.
    retry : carry out runs that failed earlier, too.
    finish : called with DIR at the end, to write what is made of the results.
    meanwhile : called once in a thread while the runs go on.

    Raises
    ------
    UserError : a run does not fit its data or this machine, or a folder in DIR is a symbolic link; nothing was started.
    """
    check_writable(directory)
    folders = {run.run_name: RunFolder(unlinked(directory / "runs" / run.run_name)) for run in runs}
    states = {name: folder.state for name, folder in folders.items()}
    leave = ("done",) if retry else ("done", "failed")
    pending = [run for run in runs if states[run.run_name] not in leave]
    finished = sum(state == "done" for state in states.values())
    if finished:
        print(f"{finished} of {len(runs)} runs are finished already.")
    failures: dict[str, str] = {}
    planned = False
    again = f"imcil retry {directory}{' --allow-code' if any(run.code_files for run in runs) else ''}"
    if pending:
        view = LiveView([run.run_name for run in pending])

        def listen(kind: str, name: str | None, content: Any) -> None:
            nonlocal planned
            if kind == "checked":  # a mistake leaves nothing behind
                write_plan(directory, runs)
                planned = True
                threading.Thread(target=meanwhile, daemon=True).start()
                for folder in (folders[run.run_name] for run in pending):
                    if folder.state == "failed":
                        folder.forgive()
            elif kind in ("failed", "died") and name is not None:
                failures[name] = content
            view.event(kind, name, content)

        try:
            with view, StopRequest().listening("Stopping every run after its step; a second signal ends them at once."):
                engine(directory, listen).run(pending, fail_fast)
        except InvalidRuns as error:
            name, sentence = next(iter(error.problems.items()))
            if list(error.problems.values()) == [sentence] * len(pending):  # no matter of one run
                raise UserError(sentence) from None
            more = f" ({len(error.problems) - 1} more runs have mistakes.)" if len(error.problems) > 1 else ""
            raise UserError(f"{sentence}{more} The run is {name}.") from None
        except Detached:
            return 0
        except Interrupted:
            if planned:
                print(f"Stopped, every run is saved; `{again}` continues.", file=sys.stderr)
            else:  # there may be no folder that `retry` could read
                print("Stopped before any run began; the same command starts again.", file=sys.stderr)
            return RESUMABLE
    else:
        write_plan(directory, runs)
    unfinished = 0
    for name, folder in folders.items():  # what failed elsewhere, and what came right after all
        state = folder.state
        if state == "failed":
            failures[name] = str(folder.read_failure().get("exception") or "no reason recorded")
        elif state == "done":
            failures.pop(name, None)
            folder.tidy()
        elif name not in failures:
            unfinished += 1
    if (directory / "runs").is_dir():  # a cluster may end every worker before the first run has its folder
        finish(directory)
    for name, message in failures.items():
        print(f"failed: {name}: {message}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(runs)} runs failed; `{again}` runs them again.", file=sys.stderr)
    elif unfinished:
        print(f"{unfinished} of {len(runs)} runs are unfinished and no worker is left; `{again}` "
              "continues.", file=sys.stderr)  # fmt: skip
    return 1 if failures or unfinished else 0
