"""Which devices the workers of one machine use, and how they share one: any number together, or one alone."""

from __future__ import annotations

import fcntl
import gc
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def worker_devices(device: str, jobs: int | None, per_gpu: int) -> list[str]:
    """A device for each of `jobs` workers; None: `per_gpu` on every GPU, or on a CPU one for each core.

    `device`: "auto" and "cuda" mean every GPU, "auto" the CPU where there is none; anything else is taken as it is.
    """
    gpus = _gpus() if device in ("auto", "cuda") else [device] if device.startswith("cuda:") else []
    if gpus:
        slots = gpus * per_gpu  # cuda:0, cuda:1, cuda:0, …
        return [slots[i % len(slots)] for i in range(jobs or len(slots))]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ["cpu" if device == "auto" else device] * (jobs or cores)


def _gpus() -> list[str]:
    """CUDA devices of this machine; torch is imported only where there may be one."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/kfd").exists():
        return []
    import torch

    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


@contextmanager
def used(device: str, alone: bool = False) -> Iterator[None]:
    """Use a device, together with others or `alone`, once they are through.

    Held by flock on two files of this machine, which the kernel frees when a process dies: whoever wants the device
    passes a gate first, and one that waits to be alone holds the gate, so that no others come in before it.
    """
    place = Path(tempfile.gettempdir()) / f"imcil-{os.getuid()}-{re.sub(r'[^A-Za-z0-9-]', '-', _identity(device))}"
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with _locked(place.with_suffix(".gate"), fcntl.LOCK_EX) as gate, _locked(place.with_suffix(".lock"), kind):
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


def free_memory() -> None:
    """Give back what a finished run leaves: others may use the same device."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while True:  # not one blocking call: a signal must get through
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
        yield file
    finally:
        os.close(file)


def _identity(device: str) -> str:
    """The same for every process that means the same device."""
    if not device.startswith(("cuda", "auto")):
        return device
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    index = torch.device(device).index if device.startswith("cuda:") else torch.cuda.current_device()
    return f"cuda-{torch.cuda.get_device_properties(index).uuid}"
