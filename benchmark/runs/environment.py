"""Where a run takes place: its automatic choices, made once, and the versions and machine that are recorded."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmark.config.schema import RunConfig
from benchmark.errors import UserError
from benchmark.streams import LongTailedBenchmark

COMPILE_PAYS_FROM = 100_000  # image passes: compiling costs about 30 s and saves about 0.35 ms an image


@dataclass(frozen=True)
class Resolved:
    """Every automatic choice as it was made, once, when the run started."""

    precision: str
    compile: str
    device: str
    threads: int


def resolve(run: RunConfig, benchmark: LongTailedBenchmark, device: str) -> Resolved:
    """Decide what `auto` means here."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = run.training.precision
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    compiled = run.training.compile
    if compiled == "auto":
        passes = run.training.epochs * sum(benchmark.info.train_counts)
        compiled = "on" if passes >= COMPILE_PAYS_FROM else "off"
    return Resolved(precision, compiled, device, torch.get_num_threads())


def check_device(device: str) -> None:
    """Raise UserError unless tensors can be made on `device` ("auto" always can)."""
    if device == "auto":
        return
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises the latter when it was built without CUDA
        reason = str(error).strip().splitlines()[0].rstrip(".")
        if re.fullmatch(r"cpu|cuda(:\d+)?", device) is None:  # torch would list every kind that it was ever built for
            reason = "choose auto, cpu, cuda (all GPUs) or one GPU such as cuda:1"
        raise UserError(f'The device "{device}" cannot be used: {reason}.') from error


def has_fast_bf16(device: str) -> bool:
    """True where bfloat16 has its own instructions; elsewhere it is emulated and slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(torch.device(device))[0] >= 8
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def environment(resolved: Resolved) -> dict[str, Any]:
    """Versions, machine (its GPU where that trains) and automatic choices."""
    gpu = {"gpu": torch.cuda.get_device_name(resolved.device)} if resolved.device.startswith("cuda") else {}
    packages = ("imcil", "torch", "torchvision", "avalanche-lib", "numpy", "pandas")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {"platform": platform.platform(), "processor": _processor(), **gpu},
        "resolved": vars(resolved),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
