"""The SLURM engine: a job array of workers on one sweep folder, submitted with submitit.

Each task of the array is a local engine on its node: it works through the folder until nothing is left to it. Two
minutes before its time is up SLURM sends SIGUSR1; the task then saves its runs and ends with status 75, and the job
script, which requeues on 75 and on nothing else, puts it back in the queue. SLURM itself requeues the tasks of a node
that died. The engine holds no state: it waits by looking at the run folders, and may be killed while the job goes on.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.config.schema import RunConfig
from benchmark.errors import UserError
from benchmark.runs.signals import RESUMABLE, Interrupted, StopRequest
from benchmark.storage.leases import LEASE
from benchmark.sweeps.engines.base import Detached
from benchmark.sweeps.engines.device import worker_devices
from benchmark.sweeps.engines.local import LocalEngine
from benchmark.sweeps.engines.remote import FolderWatch, Order, check_all
from benchmark.sweeps.engines.worker import Listener
from benchmark.sweeps.live_view import LiveView

Options = Mapping[str, str | bool]

WARNING_SECONDS = 120  # between SIGUSR1 and the end of a task's time
LEAST_MINUTES = 5  # SLURM may send the signal a minute early
OURS = ("array", "output", "error", "open-mode", "chdir", "wrap", "requeue", "no-requeue")
LOOK_EVERY, ASK_EVERY = 1.0, 5.0  # seconds, at the folder and for the queue

# $SLURM_JOB_ID of one task of an array can be the number of the whole array
REQUEUE = f"""status=$?
if [ $status -eq {RESUMABLE} ]; then
  scontrol requeue ${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_}}${{SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}}
fi
exit $status"""


class SlurmEngine:
    """Runs configs on a SLURM cluster that shares the results folder with this machine.

    Parameters
    ----------
    jobs : tasks at once; None: one for each run.
    per_gpu : workers of one task on each of its GPUs.
    options : of sbatch, by their long names, see `parse_options`.
    detach : do not wait for the end of the job.
    listener : told about every event: checked, submitted (content: a sentence), and those of `FolderWatch`.
        Nothing was written to `directory` before checked.
    """

    def __init__(
        self, directory: Path, jobs: int | None, device: str, listener: Listener,
        per_gpu: int = 1, options: Options | None = None, detach: bool = False,
    ) -> None:  # fmt: skip
        self.directory, self.jobs, self.device, self.listener = directory, jobs, device, listener
        self.per_gpu, self.options, self.detach = per_gpu, options or {}, detach
        self.executor = _executor(directory / "slurm")

    def run(self, runs: Sequence[RunConfig], fail_fast: bool = False) -> None:
        """Check all runs, submit the job, and wait until each of them is done or failed, or the job has ended.

        Raises
        ------
        InvalidRuns : a run's config does not fit its data; nothing was submitted.
        UserError : SLURM refuses the job.
        Interrupted : this process was asked to stop; the job was cancelled, and every task had its time to save.
        Detached : the job is submitted.
        """
        check_all(runs, self.directory, self.jobs or 1)
        self.listener("checked", None, None)
        job = self._submit(Task(Order.of(runs, self.directory, self.device, fail_fast), self.per_gpu), len(runs))
        logs = self.directory / "slurm" / f"{job}_*_log.out"
        self.listener(
            "submitted", None,
            f"Submitted as job {job}. Logs: {logs}. Watch: `imcil status {self.directory} --watch`. "
            f"Stop: `scancel {job}`.",
        )  # fmt: skip
        if self.detach:
            raise Detached
        watch = FolderWatch(self.directory, runs, self.listener)
        try:
            asked = time.monotonic()
            while watch.look():
                if fail_fast and watch.failed:
                    _cancel(job)
                    return
                if time.monotonic() - asked > ASK_EVERY:
                    asked = time.monotonic()
                    if not _is_queued(job):
                        watch.look()
                        return
                time.sleep(LOOK_EVERY)
        except Interrupted:
            _cancel(job)
            raise

    def _submit(self, task: Task, runs: int) -> str:
        """Submit the job; returns its number."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        tasks = min(self.jobs or runs, runs)
        self.executor.update_parameters(
            job_name=f"imcil-{self.directory.name}", time=None, wckey=None, array_parallelism=tasks,
            stderr_to_stdout=True, setup=["export OMP_NUM_THREADS=1"], teardown=[REQUEUE],
            additional_parameters={"signal": f"USR1@{WARNING_SECONDS}", "requeue": True, **self.options},
        )  # fmt: skip
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what sbatch says, and raises it, too
                jobs = self.executor.submit_array([task] * tasks)
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError, OSError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip().startswith("sbatch: error:")]
            reason = "; ".join(line.removeprefix("sbatch: error:").strip() for line in lines) or str(error)
            raise UserError(f"SLURM refuses the job: {reason.rstrip('.')}.") from error
        return str(jobs[0].job_id).partition("_")[0]


@dataclass(frozen=True)
class Task:
    """What one task of the array does; submitit pickles it into the job's folder."""

    order: Order
    per_gpu: int

    def __call__(self) -> None:
        """Work through the folder. Ends the process with status 75 when it is asked to stop, with all runs saved."""
        order = self.order
        runs = order.prepare()
        devices = worker_devices(order.device, None, self.per_gpu)
        if not devices[0].startswith("cuda"):
            devices = devices[:1] * int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        # a task that starts again may be here because its node died: the claim it left counts for that long
        patience = LEASE if int(os.environ.get("SLURM_RESTART_COUNT", "0")) else 0.0
        with StopRequest().listening("Saving every run."), LiveView(order.names) as view:
            LocalEngine(order.directory, devices, view.event).run(runs, order.fail_fast, True, patience)


def parse_options(texts: Sequence[str]) -> dict[str, str | bool]:
    """Options of sbatch by their long names: "partition=gpu,time=8:00:00,gres=gpu:1", one text or several.

    Raises UserError for an option that cannot be read, that imcil sets itself, or a time too short to save in.
    """
    options: dict[str, str | bool] = {}
    for text in texts:
        for part in re.split(r",(?=--|[a-z_-]+=)", text.strip()):
            name, equals, value = part.partition("=")
            name = name.removeprefix("--").replace("_", "-")
            if not re.fullmatch("[a-z][a-z-]*", name) or not value.isprintable() or (equals and not value):
                raise UserError(f'--slurm takes options of sbatch, such as partition=gpu,time=8:00:00; got "{part}".')
            if name in OURS:
                raise UserError(f"--slurm {name} is set by imcil; other options of sbatch are free.")
            options[name] = value if equals else True
    limit = options.get("time")
    if isinstance(limit, str) and "signal" not in options and _minutes(limit) < LEAST_MINUTES:
        raise UserError(
            f"--slurm time={limit} leaves no time to work: a task is warned {WARNING_SECONDS // 60} minutes before its "
            f"end; give at least {LEAST_MINUTES} minutes."
        )
    return options


def _minutes(text: str) -> float:
    """A time as sbatch takes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        raise UserError(
            f'--slurm time={text} is no time; give it as "minutes", "hours:minutes:seconds" or "days-hours".'
        )
    days, *rest = found.groups()
    first, second, third = (int(number or 0) for number in rest)
    if days is not None:
        return int(days) * 1440 + first * 60 + second + third / 60
    if rest[2] is not None:
        return first * 60 + second + third / 60
    return first + second / 60


def _executor(folder: Path) -> Any:
    """submitit's executor. Raises UserError where it or SLURM is missing."""
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise UserError('--engine slurm needs submitit: pip install "imcil[slurm]".') from None
    for program in ("sbatch", "srun", "squeue", "scancel"):
        if shutil.which(program) is None:
            raise UserError(f"--engine slurm found no {program}: start it on a machine of the SLURM cluster.")
    return SlurmExecutor(folder=folder)


def _is_queued(job: str) -> bool:
    """Whether a task of the job waits or runs; true while SLURM does not answer."""
    asked = subprocess.run(["squeue", "--noheader", "--format=%T", f"--jobs={job}"], capture_output=True, text=True)
    return bool(asked.stdout.strip()) if asked.returncode == 0 else "Invalid job id" not in asked.stderr


def _cancel(job: str) -> None:
    """SIGTERM to every task, whose runs are then saved; returns when they have ended, a minute later at most."""
    with suppress(OSError):
        subprocess.run(["scancel", job], capture_output=True)
        for _ in range(60):
            if not _is_queued(job):
                return
            time.sleep(1.0)
