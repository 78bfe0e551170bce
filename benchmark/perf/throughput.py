"""A sweep's throughput on all cores against one run alone on one."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark.perf.clock import ForeignLoad
from benchmark.storage.files import read_jsonl


def sweep_throughput(mode: str, runs_per_core: int = 3) -> dict[str, Any]:
    """Images a second of `imcil sweep` (training, evaluation and everything between) with one worker a core."""
    import subprocess
    import sys

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = ForeignLoad()
    rates = {}
    for jobs in sorted({1, cores}):
        seeds = list(range(runs_per_core * jobs))
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable, "-m", "benchmark", "sweep", "quick", "--out", folder, "--jobs", str(jobs),
                f"grid={{training.seed: {seeds}}}", "strategy=replay", "stream.protocol=lfs",
                f"training.precision={mode}",
            ]  # fmt: skip
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wall = time.perf_counter() - started
            costs = [row for path in Path(folder).glob("runs/*/cost.jsonl") for row in read_jsonl(path)]
        images = sum(row["images_trained"] for row in costs)
        inside = sum(row["train_seconds"] + row["eval_seconds"] for row in costs)
        rates[str(jobs)] = {"wall_seconds": wall, "images_per_second": images / wall, "busy": inside / (jobs * wall)}
    return {
        "what": f"`imcil sweep quick`, replay on LFS, {runs_per_core} runs a worker, start-up included",
        "mode": mode,
        "foreign_cores": load.cores(),
        "workers": rates,
    }
