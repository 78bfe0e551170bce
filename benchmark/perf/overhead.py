"""What a sweep costs besides its runs: the time outside them, and reading a folder of ten thousand runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark.perf.clock import ForeignLoad
from benchmark.storage.files import read_json, write_json
from benchmark.storage.folder import RunFolder

RUN = ("strategy=replay", "dataset.classes=10", "training.precision=fp32")  # of `digits`
MEMORY = Path("/dev/shm")  # a file system whose fsync is free, to make ten thousand runs quickly


def sweep_overhead(mode: str, runs: int = 200, workers: int = 2) -> dict[str, Any]:
    """The share of a sweep's time in which its workers were not inside a run, start-up and tables included."""
    epochs = _epochs_of_a_second()
    load = ForeignLoad()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmark.perf.overhead", folder, str(runs), str(workers), str(epochs)]
        started = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        ended = time.perf_counter()
    begins, ends = json.loads(done.stdout.splitlines()[-1])  # by the clock that all processes of a machine share
    assert len(begins) == len(ends) == runs
    wall, inside = ended - started, sum(ends) - sum(begins)
    return {
        "what": f"`imcil sweep` of {runs} runs of about a second on {workers} workers: time outside of runs",
        "mode": mode,
        "epochs": epochs,
        "foreign_cores": load.cores(),
        "wall_seconds": wall,
        "seconds_per_run": inside / runs,
        "outside": 1 - inside / (workers * wall),
        "seconds_outside": {
            "before": min(begins) - started,
            "between": (workers * (max(ends) - min(begins)) - inside) / workers,
            "after": ended - max(ends),
        },
    }


def reading(mode: str, runs: int = 10_000) -> dict[str, Any]:
    """Seconds that a command needs for a folder of finished runs, files in the page cache.

    By the clock and by the processor: on a machine that others use as well, the second tells what an idle one takes.
    """
    load = ForeignLoad()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        _fill(folder, runs)
        write_summary = f"from benchmark.results.summary import write_summary; write_summary({name!r})"
        commands = {"status": ["-m", "benchmark", "status", name], "summary_and_curves": ["-c", write_summary]}
        seconds = {}
        for title, command in commands.items():
            clock, processor = [], []
            for _ in range(3):
                started, before = time.perf_counter(), os.times()
                subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
                after = os.times()
                clock.append(time.perf_counter() - started)
                used = (after.children_user - before.children_user) + (after.children_system - before.children_system)
                processor.append(used)
            seconds[title] = {"clock": sorted(clock), "processor": sorted(processor)}
    return {
        "what": f"seconds (of the processor) for a folder of {runs:,} finished runs",
        "mode": mode,
        "foreign_cores": load.cores(),
        "seconds": seconds,
    }


def _config(epochs: int, *overrides: str) -> Any:
    from benchmark.config.loading import load

    return load("digits", [*RUN, f"training.epochs={epochs}", *overrides])


def _execute(epochs: int) -> tuple[float, dict[str, Any]]:
    """Seconds of one run in this process, and the JSON files it leaves."""
    from benchmark.runs.execute import execute

    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(name)
        started = time.perf_counter()
        execute(_config(epochs).base, folder, device="cpu")
        seconds = time.perf_counter() - started
        return seconds, {path.name: read_json(path) for path in folder.path.glob("*.json")}


def _epochs_of_a_second() -> int:
    """With how many epochs a run takes a second here."""
    _execute(1)  # warm-up
    few, many = (min(_execute(epochs)[0] for _ in range(3)) for epochs in (2, 10))
    per_epoch = max((many - few) / 8, 1e-3)
    return max(1, round((1 - few) / per_epoch) + 2)


def _fill(folder: Path, runs: int) -> None:
    """Finished runs that differ in their seeds."""
    _, files = _execute(1)
    plan = {}
    for seed in range(runs):
        name = f"digits-lfs5-replay-s{seed}-{seed:010x}"
        config = files["config.json"]
        plan[name] = {**config, "training": {**config["training"], "seed": seed}}
        for file, content in {**files, "config.json": plan[name]}.items():
            write_json(folder / "runs" / name / file, content)
    write_json(folder / "sweep.json", {"runs": plan})


def main(folder: str, runs: str, workers: str, epochs: str) -> None:
    """Carry out a sweep and print when its runs began and when they ended."""
    from benchmark.outputs import write_results
    from benchmark.sweeps import sweep
    from benchmark.sweeps.engines.local import LocalEngine
    from benchmark.sweeps.engines.worker import Listener

    begins: list[float] = []
    ends: list[float] = []

    def timed(listener: Listener) -> Listener:
        def listen(kind: str, name: str | None, content: Any) -> None:
            if kind in ("started", "done"):
                (begins if kind == "started" else ends).append(time.perf_counter())
            listener(kind, name, content)

        return listen

    plan = _config(int(epochs), f"grid={{training.seed: {list(range(int(runs)))}}}").runs()
    devices = ["cpu"] * int(workers)
    sweep.run_sweep(
        plan, Path(folder), lambda out, listener: LocalEngine(out, devices, timed(listener)), finish=write_results
    )
    print(json.dumps([begins, ends]))


if __name__ == "__main__":
    main(*sys.argv[1:])
