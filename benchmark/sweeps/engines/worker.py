"""What every worker does, whichever engine started it: claim the next run of a sweep folder, carry it out, repeat.

State stands in the folder alone. DIR/sweep.json lists the runs; a run is done, failed, running (a living worker claims
it, see `storage.leases`), interrupted or pending by what its own folder holds. So any number of workers, on any
number of machines that share the folder, may call `work(directory)` at once, come and go, and be killed.
"""

from __future__ import annotations

import errno
import re
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark.config.schema import RunConfig, file_of
from benchmark.errors import UserError, place
from benchmark.runs.signals import Interrupted, StopRequest
from benchmark.storage.folder import RunFolder
from benchmark.storage.leases import LEASE, AlreadyRunning, ClaimLost, Hold
from benchmark.sweeps.engines import device as devices
from benchmark.sweeps.plan import planned_runs

Listener = Callable[[str, str | None, Any], None]  # kind of event, run name, content
# what CUDA itself and its libraries say beside other processes; torch's own allocator raises an OutOfMemoryError
OUT_OF_MEMORY = re.compile("CUDA error: out of memory|STATUS_ALLOC_FAILED|DefaultCPUAllocator: can't allocate memory")
MOST_DEATHS = 3  # of workers, one after the other, over one run that does not move on


def work(
    directory: Path,
    runs: Sequence[RunConfig] | None = None,
    *,
    device: str = "auto",
    shared: bool = False,
    code_files: Collection[str] = (),
    fail_fast: bool = False,
    lease: float = LEASE,
    listen: Listener = lambda kind, name, content: None,
    stop: StopRequest | None = None,
    since: float | None = None,
) -> None:
    """Carry out the runs of a sweep folder one after the other, until none is left that this worker could take.

    It returns when every run is done, failed, or in the hands of another living worker: look at the states of the run
    folders for the outcome. An engine starts processes that call this, on as many machines as it likes, starts them
    again when they die, and needs to hand over nothing but the folder.

    Parameters
    ----------
    directory : sweep folder, holds sweep.json and runs/.
    runs : which of its runs; None: all. They are taken in this order.
    device : "auto", "cpu", "cuda" or "cuda:1".
    shared : other workers use the same device. A run that runs out of memory is then done again later, alone on it.
    code_files : the files (`path/to/file.py:Class`) that runs may import; one that is not among them is refused.
    fail_fast : take no further run once one of them has failed.
    lease : seconds without a sign of life after which workers of other machines take this one for dead.
    listen : told (kind, run name, content): started, progress (content: where the run stands), and at its end one of
        done, failed (content: the message), postponed (out of memory, to be done again alone), interrupted (by `stop`)
        and lost (this worker seemed dead and another one took over); found (content: done or failed) for the others.
    stop : asks the worker to save its run and end.
    since : when the sweep began (seconds since the epoch), None: now. Workers that died over a run after it count.

    Raises
    ------
    UserError : sweep.json cannot be read, or a run needs code that is not allowed. Nothing was started.
    Interrupted : stopped; uncaught it ends the process with status 75, and whoever requeues on 75 goes on. So does a
        worker whose run left its device unusable, as a failed assertion on a GPU does: for this process only.
    """
    began = time.time() if since is None else since
    stop = stop or StopRequest()
    left = {run.run_name: run for run in (planned_runs(directory) if runs is None else runs)}
    names = list(left)
    for run in left.values():
        for file in run.code_files:
            if file not in code_files:
                raise UserError(f'The sweep would run code from "{file}": give --allow-code if you trust it.')
    took_one = True
    while took_one:
        took_one = False
        for alone in (False, True):  # runs that need the device to themselves come last
            for name, run in list(left.items()):
                stop.check()
                folder = RunFolder(directory / "runs" / name)
                state = folder.state
                if state in ("done", "failed"):
                    del left[name]
                    listen("found", name, state)
                if state not in ("pending", "interrupted") or (folder.next_attempt == "alone") != alone:
                    continue
                if fail_fast and any_failed(directory, names):
                    return
                with devices.used(device, alone):
                    kind, _ = carry_out(run, folder, device, listen, stop, shared and not alone, lease, began)
                    if kind != "skipped":
                        _free_memory()
                if kind in ("done", "failed"):
                    del left[name]  # even if a full disk kept the failure from being recorded
                took_one |= kind != "skipped"


def check(
    runs: Iterable[RunConfig],
    device: str,
    directory: Path,
    workers: int,
    here: bool = True,
    sharing: int | None = None,
) -> Iterator[tuple[str, str]]:
    """(run name, sentence) of every run whose config does not fit the device or its data; trains nothing.

    And of the largest run when there is no room for it: see `sweeps.preflight`. `here` tells whether the runs will
    use this machine's memory; of the `workers` that share the disk, `sharing` (None: all) share the device.
    """
    from benchmark.runs.environment import check_device
    from benchmark.runs.prepare import prepare
    from benchmark.sweeps.preflight import Preflight

    preflight = Preflight(directory, device if here else None, workers, sharing)
    added: dict[str, str] = {}  # a run but for its training seed, on which nothing here depends -> its name
    for run in runs:
        unseeded = run.training.model_copy(update={"seed": 0})
        key = run.model_copy(update={"training": unseeded}).model_dump_json()
        try:
            check_device(device)
            if key in added:
                preflight.add_like(run, added[key])
                continue
            preflight.add(run, prepare(run))
            added[key] = run.run_name
        except UserError as error:
            yield run.run_name, str(error)
        except Exception:  # not the user's mistake: the run itself will fail and record it
            continue
    yield from preflight.problems()


def carry_out(
    run: RunConfig,
    folder: RunFolder,
    device: str,
    listen: Listener,
    stop: StopRequest,
    may_postpone: bool = False,
    lease: float = LEASE,
    since: float = 0.0,
) -> tuple[str, str | None]:
    """Claim one run and carry it out; a failure becomes failure.json. Returns (kind, message).

    kind : done, failed, postponed, interrupted or lost as told to `listen`, see `work`; skipped when another worker was
        faster, which nobody is told.
    """
    try:
        with folder.claim(lease) as held:
            if folder.read_result() is not None:
                folder.tidy()
                return "skipped", None
            if folder.has_failed:
                return "skipped", None
            listen("started", folder.name, None)
            outcome = _attempt(run, folder, device, listen, stop, held, may_postpone, since)
            folder.note(": ".join(filter(None, outcome)))
    except AlreadyRunning as error:
        return "skipped", str(error)
    except OSError as error:  # the claim itself could not be written
        outcome = "failed", f"{type(error).__name__}: {error}"
    listen(outcome[0], folder.name, outcome[1])
    return outcome


def _attempt(
    run: RunConfig,
    folder: RunFolder,
    device: str,
    listen: Listener,
    stop: StopRequest,
    held: Hold,
    may_postpone: bool,
    since: float,
) -> tuple[str, str | None]:
    """Carry out a run that this process claimed."""
    from benchmark.runs.execute import execute

    def progress(event: dict[str, Any]) -> None:
        folder.confirm()
        held.progress = event
        listen("progress", folder.name, event)

    folder.note(f"attempt {held.number} on {held.owner['host']}, process {held.owner['pid']}, device {device}")
    try:
        if held.deaths(since) >= MOST_DEATHS:
            raise Killed(f"{MOST_DEATHS} workers in a row died over this run")
        with folder.noting_warnings():
            execute(run, folder, progress, device, stop)
        return "done", None
    except Interrupted:
        return "interrupted", None
    except ClaimLost as error:
        return "lost", str(error)
    except Exception as error:  # a failed run is a value: the sweep goes on
        try:  # who takes a run over removes half-written files: that is no failure of the run
            with suppress(OSError):
                folder.confirm()
        except ClaimLost as lost:
            return "lost", str(lost)
        message = str(error) if isinstance(error, UserError | Killed) else f"{type(error).__name__}: {error}"
        kind = kind_of(error)
        if kind == "error":
            message += place(error, map(file_of, run.code_files))
        postpone = may_postpone and kind == "out of memory"
        try:
            folder.record_failure(kind, message, traceback.format_exc(), again="alone" if postpone else None)
        except OSError:  # a full disk cannot hold this either
            postpone = False
        return ("postponed" if postpone else "failed"), message


class Killed(RuntimeError):
    """Worker processes died over a run."""


def kind_of(error: BaseException) -> str:
    """user error, killed, non-finite loss, out of memory, disk full or error."""
    if isinstance(error, UserError):
        return "user error"
    if isinstance(error, Killed):
        return "killed"
    if type(error).__name__ == "NonFiniteLossError":
        return "non-finite loss"
    out_of_memory = isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or out_of_memory:
        return "out of memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk full"
    return "error"


def _free_memory() -> None:
    """Give the device's memory back. Raises Interrupted where that fails: another process can use the device."""
    try:
        devices.free_memory()
    except RuntimeError as error:
        raise Interrupted from error


def any_failed(directory: Path, names: Iterable[str]) -> bool:
    """Whether one of these runs failed, whoever carried it out."""
    return any(RunFolder(directory / "runs" / name).state == "failed" for name in names)
