"""Real clusters, and a place with a sweep that files can hold up, slow down and watch."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

slurm = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("slurm_cluster.py"))))
CONFIG = """
dataset: {name: digits, classes: 6}
stream: {tasks: 3, rho: 5, max_count: 20}
strategy: "plugin.py:Steered"
memory: {budget: 3}
training: {backbone: convnet, epochs: 4, batch_size: 16, lr: 0.05, augmentation: none, precision: fp32, compile: off}
grid:
  training.seed: [0, 1]
"""
# `hold` stops runs inside their second experience, `slow` says how long steps sleep; `log` says who got there.
PLUGIN = """
import os, time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar
from avalanche.core import SupervisedPlugin
from strategies.replay import Replay

HERE = Path(__file__).resolve().parent

def node():
    if "SLURMD_NODENAME" in os.environ:
        return os.environ["SLURMD_NODENAME"]
    try:
        import ray
        return ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"
    except ImportError:
        return "here"

class Steering(SupervisedPlugin):
    def __init__(self, seed):
        super().__init__()
        self.seed, self.told = seed, False

    def before_training_iteration(self, strategy, **kwargs):
        if strategy.experience.current_experience == 1:
            if not self.told:
                with (HERE / "log").open("a") as file:
                    gpu = os.environ.get("CUDA_VISIBLE_DEVICES") or "none"
                    file.write(f"{self.seed} {os.getpid()} {node()} {gpu}\\n")
            self.told = True
            while (HERE / "hold").exists():
                time.sleep(0.05)
        with suppress(FileNotFoundError):
            time.sleep(float((HERE / "slow").read_text()))

@dataclass(frozen=True, kw_only=True)
class Steered(Replay):
    name: ClassVar[str] = "steered"

    def build(self, context):
        parts = super().build(context)
        return replace(parts, plugins=[*parts.plugins, Steering(context.seed)])
"""


class Note(NamedTuple):
    """A run reached its second experience."""

    seed: int
    process: int
    node: str
    gpu: str


class Place:
    """A folder with a config and a method; `imcil` is run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        (folder / "plugin.py").write_text(PLUGIN)
        (folder / "small.yaml").write_text(CONFIG)

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """imcil, as the leader of a process group of its own."""
        command = [sys.executable, "-m", "benchmark", *arguments]
        process = subprocess.Popen(
            command, cwd=self.folder, env={**(environment or os.environ), "COLUMNS": "200"}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], seconds: float = 600) -> tuple[int, str, str]:
        """(exit status, standard output, standard error)."""
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"imcil did not end:\n{out}\n{err}\n{self.logs()}") from None
        return process.returncode, out, err

    def switch(self, name: str, on: bool, seconds: float = 0.5) -> None:
        """Turn `hold` or `slow` on or off."""
        path = self.folder / name
        if not on:
            path.unlink()
        else:
            part = path.with_suffix(".part")
            part.write_text(str(seconds))
            part.replace(path)

    def notes(self) -> list[Note]:
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Note(int(seed), int(process), node, gpu) for seed, process, node, gpu in map(str.split, lines)]

    def logs(self) -> str:
        """What the tasks of SLURM printed."""
        return "\n".join(path.read_text() for path in sorted((self.folder / "out").glob("slurm/*.out")))

    def science(self) -> dict[str, bytes]:
        """The files that any engine and any interruption must leave alike, byte for byte."""
        out = self.folder / "out"
        wanted = ("summary.csv", "curves.csv", "tables/*", *(f"runs/*/{name}" for name in
                  ("result.json", "metrics.jsonl", "stream.json", "config.json")))  # fmt: skip
        return {str(path.relative_to(out)): path.read_bytes() for name in wanted for path in sorted(out.glob(name))}

    @staticmethod
    def wait_for(condition: Callable[[], Any], seconds: float = 300) -> Any:
        """The first true value of `condition`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.1)
        raise AssertionError("waited in vain")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for process in place.started:
        if process.poll() is None:  # the test failed
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the sweep leaves behind on the local engine."""
    place = Place(tmp_path_factory.mktemp("uninterrupted"))
    status, _, err = place.finish(place.start("sweep", "small.yaml", "--allow-code", "--jobs", "1", "--out", "out"))
    assert (status, err) == (0, "")
    files = place.science()
    assert len([name for name in files if name.endswith("result.json")]) == 2
    return files


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Any]:
    """Two nodes on loopback, in a folder of few letters: the path of a socket may have 107."""
    import tempfile

    pytest.importorskip("submitit", reason="no submitit: run tests/engines/install.sh")
    if missing := slurm.missing_programs():
        pytest.skip(f"no {', '.join(missing)}: run tests/engines/install.sh")
    with tempfile.TemporaryDirectory(prefix="imcil-") as folder, slurm.SlurmCluster(Path(folder) / "slurm") as cluster:
        yield cluster
