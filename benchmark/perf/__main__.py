"""`python -m benchmark.perf [PART …] [--mode M …]`: measure, print, write results/perf/<part>-<mode>.json."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmark.figures import style
from benchmark.perf import concurrent, large, overhead, scaling, steps, stock, throughput
from benchmark.perf.plot import growth
from benchmark.perf.setting import config, noise_stream, resolved
from benchmark.runs.environment import environment
from benchmark.storage.files import write_json

OUT = Path("results/perf")
WITH_TEACHER = ("lwf", "icarl", "bic", "wa", "lucir", "dgr")
PARTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "first": lambda mode: steps.first_experience(("replay", "lwf", "dgr"), mode),
    "later": lambda mode: steps.later_experience(WITH_TEACHER, mode),
    "methods": steps.every_method,
    "pairs": steps.side_by_side,
    "stock": stock.side_by_side,
    "experiences": lambda mode: scaling.over_experiences(("replay", "dgr"), mode),
    "classes": lambda mode: scaling.over_classes(("replay", "lwf", "dgr", "lucir"), mode),
    "evaluation": scaling.evaluation_and_herding,
    "memory": scaling.memory_of_a_run,
    "thousand": scaling.thousand_classes,
    "large": large.loader_and_training,
    "sweep": throughput.sweep_throughput,
    "concurrent": concurrent.runs_at_once,
    "overhead": overhead.sweep_overhead,
    "reading": overhead.reading,
}
EAGER_ONLY = (
    "methods", "experiences", "classes", "evaluation", "memory", "thousand", "large", "sweep", "overhead", "reading",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Each part runs in a process of its own, so that peaks of memory are its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.perf", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all of {', '.join(PARTS)}")
    parser.add_argument("--mode", action="append", choices=("fp32", "bf16", "fp32+compile", "bf16+compile"))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]}; choose from {', '.join(PARTS)}")
    torch.set_num_threads(1)
    if options.here:
        print(json.dumps(PARTS[options.parts[0]](options.mode[0])))
        return 0
    OUT.mkdir(parents=True, exist_ok=True)
    _, benchmark = noise_stream([2], 2)
    settled = resolved(config("replay", "auto"), benchmark)
    fast = ["fp32", "bf16"] if settled.precision == "bf16" else ["fp32"]  # emulated bf16 measures the emulation
    for mode in options.mode or [*fast, f"{fast[-1]}+compile"]:
        for part in options.parts or PARTS:
            if part in EAGER_ONLY and (mode.endswith("+compile") or (mode != fast[-1] and not options.mode)):
                continue
            command = [sys.executable, "-m", "benchmark.perf", part, "--mode", mode, "--here"]
            with tempfile.TemporaryDirectory() as cold:  # seconds to compile are those of a machine that never did
                compiler = {"TORCHINDUCTOR_CACHE_DIR": cold}
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **compiler})
            if done.returncode:
                return done.returncode
            record = json.loads(done.stdout.splitlines()[-1])
            record = {"environment": environment(resolved(config("replay", mode), benchmark)), **record}
            write_json(OUT / f"{part}-{mode}.json", record)
            if "steps" in record:
                style.save(growth(record), OUT / f"{part}-{mode}")
            shown = {key: value for key, value in record.items() if key not in ("what", "steps", "environment")}
            print(f"{part} {mode}: {json.dumps(shown)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
