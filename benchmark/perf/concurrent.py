"""Several runs at once on one device: the sum of their speeds, and how busy it is. On a CPU, one thread a run."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import time
from multiprocessing.synchronize import Barrier
from typing import Any

import torch

from benchmark.perf.clock import ForeignLoad
from benchmark.perf.setting import BATCH, begin, config, make_learner, noise_stream

COUNTS = (1, 2, 4, 8, 16)
STEPS = {"cpu": 4, "cuda": 100}  # of an epoch: it ends with the one wait for the device


def runs_at_once(mode: str, device: str = "auto", seconds: float = 20.0, most: int | None = None) -> dict[str, Any]:
    """Images a second of N processes that each train `dgr` with ResNet-32; on a CPU of at most one a core.

    Utilisation is what `nvidia-smi` says once a second, None without it.
    """
    device = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    most = most or (COUNTS[-1] if device != "cpu" else len(os.sched_getaffinity(0)))
    load = ForeignLoad()
    runs = {str(count): _together(count, mode, device, seconds) for count in COUNTS if count <= most}
    return {
        "what": f"processes at once on {_called(device)}, each training `dgr` with ResNet-32, batch {BATCH}",
        "mode": mode,
        "foreign_cores": load.cores(),
        "device": _called(device),
        "seconds": seconds,
        "runs": runs,
    }


def _together(count: int, mode: str, device: str, seconds: float) -> dict[str, Any]:
    """Start them all, let them warm up, and measure while every one of them trains."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(count + 1)
    counts = context.Queue()
    crew = [context.Process(target=_train, args=(mode, device, seconds, ready, counts)) for _ in range(count)]
    for process in crew:
        process.start()
    try:
        ready.wait(timeout=600)  # compiling takes half a minute
        busy, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(1.0, seconds / 4))
            busy.append(_utilisation() if device != "cpu" else None)
        rates = [counts.get(timeout=60 + seconds) for _ in crew]
    finally:
        for process in crew:
            process.join(timeout=10)
            process.kill()
    known = [value for value in busy if value is not None]
    return {"images_per_second": sum(rates), "utilisation": sum(known) / len(known) if known else None}


def _train(mode: str, device: str, seconds: float, ready: Barrier, counts: Any) -> None:
    torch.set_num_threads(1)
    steps = STEPS[torch.device(device).type]
    arrays, benchmark = noise_stream([8], BATCH * steps // 8)
    learner = make_learner(config("dgr", mode), arrays, benchmark, device)
    begin(learner, benchmark.train_stream[0])
    learner.training_epoch()
    ready.wait()
    started, images = time.perf_counter(), learner.images_trained
    while time.perf_counter() < started + seconds:
        learner.training_epoch()
    counts.put((learner.images_trained - images) / (time.perf_counter() - started))


def _called(device: str) -> str:
    return "the CPU" if device == "cpu" else torch.cuda.get_device_name(device)


def _utilisation() -> float | None:
    """Percent of the last second in which the first GPU computed."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.split()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
