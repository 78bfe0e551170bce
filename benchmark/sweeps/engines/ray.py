"""The Ray engine: workers on one sweep folder, as tasks of a Ray cluster.

The engine holds no state: what is done, and what is left, stands in the run folders. As long as there is a run that
nobody carries out it has Ray start a worker, on whichever node has room; so a node or process that dies costs nothing
but the work since the last checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.config.schema import RunConfig
from benchmark.errors import UserError
from benchmark.runs.signals import SIGNALS, Interrupted, StopRequest
from benchmark.sweeps.engines.remote import FolderWatch, Order, check_all
from benchmark.sweeps.engines.worker import Listener, work

LOOK_EVERY = 1.0  # seconds, at the folder
PATIENCE = 60.0  # seconds for workers to save their runs
MOST_CRASHES = 20  # of workers, while no run moves on: then something is wrong with the cluster


class RayEngine:
    """Runs configs on a Ray cluster that shares the results folder with this machine.

    Parameters
    ----------
    jobs : workers at once; None: as many as the cluster has room for.
    per_gpu : workers that share a GPU; each reserves 1 / per_gpu of one, and none on a cluster without.
    address : "auto" (the cluster of this machine), "HOST:PORT", or "local" (one started for this sweep alone).
    listener : told about every event: checked, and those of `FolderWatch`. Nothing was written to `directory` before
        checked.
    """

    def __init__(
        self, directory: Path, jobs: int | None, device: str, listener: Listener,
        per_gpu: int = 1, address: str = "auto",
    ) -> None:  # fmt: skip
        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--engine ray chooses the GPUs itself: --device must be auto, cpu or cuda, got {device}.")
        self.directory, self.jobs, self.device, self.listener = directory, jobs, device, listener
        self.per_gpu, self.address = per_gpu, address
        self.ray = _ray()

    def run(self, runs: Sequence[RunConfig], fail_fast: bool = False) -> None:
        """Check all runs, then have them carried out; returns when each of them is done or failed.

        Raises
        ------
        InvalidRuns : a run's config does not fit its data; nothing was started.
        UserError : there is no cluster at the address, or its workers cannot work.
        Interrupted : this process was asked to stop; every worker had a minute to save its run.
        """
        with _connected(self.ray, self.address):
            workers = _Workers(self.ray, Order.of(runs, self.directory, self.device, fail_fast), self.per_gpu)
            check_all(runs, self.directory, self.jobs or workers.room())
            self.listener("checked", None, None)
            at_once = min(self.jobs or workers.room(), len(runs))
            watch = FolderWatch(self.directory, runs, self.listener)
            try:
                while watch.look() and not (fail_fast and watch.failed):
                    if watch.unclaimed and len(workers.tasks) < at_once:
                        workers.start()
                    workers.look()
                    watch.hear(workers.failed)
            finally:
                workers.stop()


class _Workers:
    """Tasks of the cluster, each of which calls `work`."""

    def __init__(self, ray: Any, order: Order, per_gpu: int) -> None:
        self.ray, self.order, self.per_gpu = ray, order, per_gpu
        has_gpu = ray.cluster_resources().get("GPU", 0) > 0
        if order.device == "cuda" and not has_gpu:
            raise UserError("--device cuda needs a GPU, and the Ray cluster has none.")
        self.gpu_share = 10_000 // per_gpu / 10_000 if has_gpu and order.device != "cpu" else 0.0  # Ray's steps
        # not restarted by Ray: whether another worker is needed is for the run folders to say
        self.task = ray.remote(num_cpus=1, num_gpus=self.gpu_share, max_retries=0, max_calls=1)(_work)
        self.tasks: list[Any] = []
        self.failed: dict[str, str] = {}  # run -> message; a full disk may keep their folders from telling
        self.crashes = 0  # since a worker last ended well

    def room(self) -> int:
        """How many workers the cluster holds, 1 at least."""
        total = self.ray.cluster_resources()
        rooms = [total.get("CPU", 0)]
        if self.gpu_share:
            rooms.append(total.get("GPU", 0) * self.per_gpu)
        return max(1, int(min(rooms)))

    def start(self) -> None:
        """One more, as soon as the cluster has room."""
        order = replace(self.order, names=tuple(name for name in self.order.names if name not in self.failed))
        self.tasks.append(self.task.remote(order, self.gpu_share < 1 and self.per_gpu > 1))

    def look(self) -> None:
        """Wait a moment, and take those that ended off the list.

        Raises UserError when workers cannot work there.
        """
        ended, self.tasks = self.ray.wait(self.tasks, num_returns=len(self.tasks), timeout=0)
        for task in ended:
            try:
                self.failed |= self.ray.get(task)
                self.crashes = 0
            except self.ray.exceptions.RayTaskError as error:  # our own code raised
                cause = error.cause if isinstance(error.cause, Exception) else error
                raise UserError(f"A worker on the Ray cluster cannot work: {type(cause).__name__}: {cause}") from error
            except self.ray.exceptions.RayError as error:  # its node or its process died
                self.crashes += 1
                if self.crashes >= MOST_CRASHES:
                    raise UserError(
                        f"{self.crashes} workers in a row died on the Ray cluster, the last: {error}"
                    ) from None
        time.sleep(LOOK_EVERY)

    def stop(self) -> None:
        """Have them save their runs and end."""
        for task in self.tasks:
            self.ray.cancel(task, force=False)  # like Ctrl-C
        if self.tasks:
            self.ray.wait(self.tasks, num_returns=len(self.tasks), timeout=PATIENCE)
        self.tasks = []


def _work(order: Order, shared: bool) -> dict[str, str]:
    """In a process of the cluster: work through the folder; ended by `ray.cancel`, its run is saved.

    Returns the runs that failed, and why.
    """
    failed: dict[str, str] = {}

    def listen(kind: str, name: str | None, content: Any) -> None:
        if kind == "failed" and name is not None:
            failed[name] = content

    os.environ["OMP_NUM_THREADS"] = "1"
    with suppress(Interrupted), StopRequest().listening() as stop:
        runs = order.prepare()
        import torch

        torch.set_num_threads(1)
        work(
            order.directory, runs, device=order.device, shared=shared, code_files=order.code_files,
            fail_fast=order.fail_fast, listen=listen, stop=stop, since=order.since,
        )  # fmt: skip
    return failed


def _ray() -> Any:
    """The package. Raises UserError where it is missing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent from a cluster that imcil starts
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        from ray import init  # noqa: F401  # a mere folder of that name imports, too
    except ImportError:
        raise UserError('--engine ray needs Ray: pip install "imcil[ray]".') from None
    return ray


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Be a driver of the cluster at `address` while inside. Raises UserError where there is none."""
    handlers = {each: signal.getsignal(each) for each in SIGNALS}
    try:
        if address not in ("auto", "local"):
            _look_for(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, ValueError) as error:
        reason = "none was found on this machine" if address == "auto" else str(error).rstrip(".")
        raise UserError(
            f"There is no Ray cluster at --address {address}: {reason}. Give auto (started with `ray start --head`), "
            "HOST:PORT, or local, which starts one for this sweep."
        ) from error
    try:
        for each, handler in handlers.items():  # Ray puts in its own
            signal.signal(each, handler)
        yield
    finally:
        ray.shutdown()


def _look_for(address: str) -> None:
    """Raise OSError or ValueError at once where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("it is not of the form HOST:PORT")
    with socket.create_connection((host, int(port)), timeout=10):
        pass
