"""Engines for clusters, as far as they go without a cluster: options, what workers are told, what is seen of a folder.

The engines themselves are tested on a real SLURM and a real Ray cluster, by `make test-engines`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import forks
import pytest
import small_run

from benchmark.cli import main
from benchmark.config.loading import load
from benchmark.config.schema import RunConfig, validated
from benchmark.errors import UserError
from benchmark.runs.prepare import prepare
from benchmark.storage.files import write_json
from benchmark.storage.folder import RunFolder
from benchmark.sweeps import preflight
from benchmark.sweeps.engines.base import InvalidRuns
from benchmark.sweeps.engines.device import worker_devices
from benchmark.sweeps.engines.local import LocalEngine
from benchmark.sweeps.engines.ray import RayEngine
from benchmark.sweeps.engines.remote import FolderWatch, Order
from benchmark.sweeps.engines.slurm import parse_options
from benchmark.sweeps.plan import write_plan
from benchmark.sweeps.preflight import CHECKPOINTS, Preflight, Room

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from strategies.replay import Replay

@dataclass(frozen=True, kw_only=True)
class Mine(Replay):
    name: ClassVar[str] = "mine"
"""


@pytest.fixture
def complain(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The sentence with which a sweep that must not start ends."""
    monkeypatch.chdir(tmp_path)

    def sentence(*arguments: str) -> str:
        assert main(["sweep", "digits", "strategy=replay", "--out", "out", *arguments]) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.startswith("imcil: ") and err.count("\n") == 1
        assert not Path("out").exists()
        return err

    return sentence


# --- the command line -------------------------------------------------------------------------------------------------


def test_an_unknown_engine_ends_in_one_sentence(complain: Callable[..., str]) -> None:
    assert complain("--engine", "slum") == (
        'imcil: There is no engine "slum". Did you mean "slurm"? Valid choices: local, ray, slurm.\n'
    )


@pytest.mark.parametrize(
    ("arguments", "owner"),
    [
        (["--slurm", "time=60"], "slurm"),
        (["--engine", "ray", "--slurm", "time=60"], "slurm"),
        (["--detach"], "slurm"),
        (["--engine", "slurm", "--address", "auto"], "ray"),
    ],
)
def test_an_option_of_another_engine_is_refused(arguments: list[str], owner: str, complain: Callable[..., str]) -> None:
    assert f"is for --engine {owner}." in complain(*arguments)


@pytest.mark.parametrize(("engine", "package"), [("slurm", "submitit"), ("ray", "ray")])
@pytest.mark.parametrize("found", [None, ModuleType("folder")], ids=["nothing", "a folder of that name"])
def test_a_missing_package_ends_in_one_sentence(
    engine: str, package: str, found: ModuleType | None, complain: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, found)  # None: as Python itself marks what cannot be imported
    assert f'pip install "imcil[{engine}]"' in complain("--engine", engine)


def test_slurm_is_needed_for_slurm(complain: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    assert "found no sbatch" in complain("--engine", "slurm")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--address", "127.0.0.1:9"], "--address 127.0.0.1:9: "),
        (["--address", "nonsense"], "not of the form HOST:PORT"),
        (["--device", "cuda:1"], "--device must be auto, cpu or cuda"),
    ],
)
def test_ray_mistakes(arguments: list[str], reason: str, complain: Callable[..., str]) -> None:
    pytest.importorskip("ray")
    assert reason in complain("--engine", "ray", *arguments)


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        ([], {}),
        (["partition=gpu,time=8:00:00,gres=gpu:1"], {"partition": "gpu", "time": "8:00:00", "gres": "gpu:1"}),
        (["partition=gpu", "time=30"], {"partition": "gpu", "time": "30"}),
        (["nodelist=a1,a2,mem_per_cpu=4G"], {"nodelist": "a1,a2", "mem-per-cpu": "4G"}),
        (["exclusive,time=1-0"], {"exclusive": True, "time": "1-0"}),
        (["time=1-0,--exclusive"], {"exclusive": True, "time": "1-0"}),
        (["nodelist=a,b,--exclusive"], {"nodelist": "a,b", "exclusive": True}),
        (["time=1,signal=USR1@20"], {"time": "1", "signal": "USR1@20"}),
    ],
)
def test_options_of_sbatch(texts: list[str], options: dict[str, Any]) -> None:
    assert parse_options(texts) == options


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "takes options of sbatch"),
        ("time=", "takes options of sbatch"),
        ("a b=c", "takes options of sbatch"),
        ("comment=x\nrm -rf .", "takes options of sbatch"),
        ("array=0-99", "array is set by imcil"),
        ("no-requeue", "no-requeue is set by imcil"),
        ("time=soon", "is no time"),
        ("time=4", "give at least 5 minutes"),
        ("time=4:59", "give at least 5 minutes"),
        ("time=0:04:59", "give at least 5 minutes"),
        ("time=0-0:4", "give at least 5 minutes"),
    ],
)
def test_options_of_sbatch_that_cannot_be(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse_options([text])


@pytest.mark.parametrize("text", ["5", "5:00", "0:05:00", "1-0", "0-1:00", "0-0:05:00"])
def test_times_that_are_long_enough(text: str) -> None:
    assert parse_options([f"time={text}"]) == {"time": text}


# --- what workers are told --------------------------------------------------------------------------------------------


def a_run(**strategy: Any) -> RunConfig:
    return validated({**load("digits").base.model_dump(mode="json"), "strategy": strategy or {"name": "replay"}})


def tiny_runs(*seeds: int, strategy: str = "replay") -> list[RunConfig]:
    return [small_run.config(strategy, **small_run.TINY, training__seed=seed) for seed in seeds]


def states(directory: Path, runs: list[RunConfig]) -> list[str]:
    return [RunFolder(directory / "runs" / run.run_name).state for run in runs]


def test_an_order_finds_its_runs_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine, other = a_run(), a_run(name="finetune")
    order = Order.of([mine], Path("out"), "cpu", fail_fast=False)
    write_plan(tmp_path / "out", [other, mine])
    os.chdir("/")  # as workers start elsewhere
    assert order.prepare() == [mine]
    assert Path.cwd() == tmp_path


def test_an_order_runs_no_code_but_what_the_command_line_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that others write to cannot slip some in, not even under the name of a run that was asked for."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(PLUGIN)
    foreign = a_run(name="mine.py:Mine")
    write_plan(tmp_path, [foreign])
    asked = Order.of([foreign], tmp_path, "cpu", fail_fast=False)
    assert asked.prepare() == [foreign]
    slipped_in = Order(**{**vars(asked), "code_files": ()})
    with pytest.raises(UserError, match=r'would run code from "mine\.py:Mine", and its command line did not name it'):
        slipped_in.prepare()


def test_an_order_notices_that_a_method_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(PLUGIN)
    run = a_run(name="mine.py:Mine")
    write_plan(tmp_path, [run])
    order = Order.of([run], tmp_path, "cpu", fail_fast=False)
    Path("mine.py").write_text(PLUGIN + "# edited\n")
    with pytest.raises(UserError, match=r"sweep\.json changed, or the file of its method; start the sweep again"):
        order.prepare()


def test_an_order_outlives_another_sweep_on_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of its runs has begun, and the file of a method that the other sweep planned is gone by then."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(PLUGIN)
    runs = [a_run(), a_run(name="finetune")]
    write_plan(tmp_path, runs)
    order = Order.of(runs, tmp_path, "cpu", fail_fast=False)
    write_plan(tmp_path, [a_run(name="mine.py:Mine")])
    Path("mine.py").unlink()
    assert order.prepare() == runs


# --- what is seen of a folder -----------------------------------------------------------------------------------------


def test_a_watch_tells_what_happens_in_run_folders(tmp_path: Path) -> None:
    events: list[tuple[str, str | None, Any]] = []
    good, bad = a_run(), a_run(name="finetune")
    watch = FolderWatch(tmp_path, [good, bad], lambda *event: events.append(event))
    folder = RunFolder(tmp_path / "runs" / good.run_name)

    assert watch.look() and watch.unclaimed and events == []
    with folder.claim() as held:
        assert watch.look() and watch.unclaimed
        assert events.pop() == ("started", good.run_name, None)
        held.progress = {"experience": 1}
        write_json(held.path, {**held.owner, "progress": held.progress})
        assert watch.look()
        assert events.pop() == ("progress", good.run_name, {"experience": 1})
        assert watch.look() and events == []  # nothing new
    assert watch.look()
    assert events.pop() == ("interrupted", good.run_name, None)

    RunFolder(tmp_path / "runs" / bad.run_name).record_failure("error", "ValueError: broken")
    with folder.claim():
        assert watch.look() and watch.failed and not watch.unclaimed
        assert events == [("started", good.run_name, None), ("failed", bad.run_name, "ValueError: broken")]
        write_json(folder.result, {"format": 1, "complete": True, "classifiers": {}})
    assert not watch.look()
    assert events[-1] == ("done", good.run_name, None)
    assert not watch.look() and len(events) == 3


def test_a_worker_of_a_cluster_does_not_wait_for_runs_in_the_hands_of_others(tmp_path: Path) -> None:
    """It would keep a node from others."""
    run = a_run()
    write_plan(tmp_path, [run])
    with RunFolder(tmp_path / "runs" / run.run_name).claim():
        engine = LocalEngine(tmp_path, worker_devices("cpu", 1, 1), lambda *event: None)
        engine.run([run], checked=True, patience=0)
    assert RunFolder(tmp_path / "runs" / run.run_name).state == "pending"


class Ray(ModuleType):
    """Ray as far as the engine uses it: a cluster of one core in this process, whose tasks end before they are asked.

    Only this shows here what a driver does between the tasks; the engine meets a real cluster in tests/engines.
    """

    def __init__(self) -> None:
        super().__init__("ray")
        self.started = 0
        self.exceptions = SimpleNamespace(RayError=ConnectionError, RayTaskError=RuntimeError)

    def init(self, **options: Any) -> None: ...

    def shutdown(self) -> None: ...

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def remote(self, **options: Any) -> Callable[..., Any]:
        def start(work: Callable[..., Any], *arguments: Any) -> Any:
            self.started += 1
            assert self.started <= 3, "it starts one worker after the other"
            return work(*arguments)

        return lambda work: SimpleNamespace(remote=lambda *arguments: start(work, *arguments))

    def wait(self, tasks: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
        return tasks, []

    def get(self, task: Any) -> Any:
        return task


def test_ray_starts_no_worker_for_a_failure_that_cannot_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run's folder cannot be written, and stays pending."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setitem(sys.modules, "ray", cluster := Ray())
    bad, good = tiny_runs(0, 1)
    write_plan(tmp_path, [bad, good])
    folder = RunFolder(tmp_path / "runs" / bad.run_name)
    folder.path.mkdir(parents=True)
    folder.checkpoints.symlink_to("nowhere")
    events: list[tuple[str, str | None, Any]] = []
    RayEngine(tmp_path, 1, "cpu", lambda *event: events.append(event)).run([bad, good])
    (message,) = [content for kind, name, content in events if (kind, name) == ("failed", bad.run_name)]
    assert "a run is not written through a symbolic link" in message
    assert ("done", good.run_name, None) in events and cluster.started == 1
    assert states(tmp_path, [bad, good]) == ["pending", "done"]


# --- workers of this machine ------------------------------------------------------------------------------------------


class Forking(LocalEngine):
    """Its workers are there at once; kills the first few of them before they are ready."""

    def __init__(self, *arguments: Any, kills: int = 0) -> None:
        super().__init__(*arguments)
        self.context = forks.CONTEXT  # type: ignore[assignment]
        self.kills, self.started = kills, 0

    def _start(self, device: str) -> Any:
        self.started += 1
        assert self.started <= 10, "it starts one worker after the other"
        w = super()._start(device)
        if self.started <= self.kills:
            os.kill(w.process.pid, signal.SIGKILL)
        return w


def test_fail_fast_ends_an_engine_when_a_run_failed_elsewhere(tmp_path: Path) -> None:
    """Its workers take nothing any more, so there is nothing to start others for."""
    runs = tiny_runs(0, 1)
    RunFolder(tmp_path / "runs" / runs[0].run_name).path.mkdir(parents=True)
    RunFolder(tmp_path / "runs" / runs[0].run_name).record_failure("error", "ValueError: on another node")
    engine = Forking(tmp_path, ["cpu"], lambda *event: None)
    engine.run(runs, fail_fast=True, checked=True)
    assert engine.started == 1
    assert states(tmp_path, runs) == ["failed", "pending"]


@pytest.mark.parametrize("fail_fast", [False, True])
def test_a_worker_that_dies_before_it_is_ready_is_replaced(fail_fast: bool, tmp_path: Path) -> None:
    """It had no run in hand, so none has failed."""
    runs = tiny_runs(0)
    engine = Forking(tmp_path, ["cpu"], lambda *event: None, kills=2)
    engine.run(runs, fail_fast, checked=True)
    assert engine.started == 3
    assert states(tmp_path, runs) == ["done"]


def test_workers_that_never_get_ready_end_a_sweep(tmp_path: Path) -> None:
    runs = tiny_runs(0, 1)
    engine = Forking(tmp_path, ["cpu"] * 4, lambda *event: None, kills=10)
    with pytest.raises(RuntimeError, match=r"[45] worker processes in a row took no run; the last one was killed by "
                       "signal 9, as by a system that runs out of memory"):  # fmt: skip
        engine.run(runs, checked=True)
    assert states(tmp_path, runs) == ["pending", "pending"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [("SIGTERM", "was asked to stop"), ("SIGKILL", "was killed by signal 9")],
)
def test_a_check_whose_worker_ends_is_over(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else has been asked."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(f"import os, signal\nos.kill(os.getpid(), signal.{code})\n{PLUGIN}")
    runs = tiny_runs(0, strategy="mine.py:Mine")
    with pytest.raises(RuntimeError, match=f"The worker process that was to check the runs {reason}"):
        Forking(tmp_path, ["cpu"], lambda *event: None).run(runs)


# In the process that builds it CUDA behaves as after a failed assertion in one of its kernels.
BREAKS_CUDA = """
import torch

class Breaking(Mine):
    def build(self, context):
        def empty_cache():
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        torch.cuda.is_initialized, torch.cuda.empty_cache = lambda: True, empty_cache
        empty_cache()
"""


def test_a_worker_whose_device_broke_leaves_the_rest_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(PLUGIN + BREAKS_CUDA)
    runs = [*tiny_runs(0, strategy="mine.py:Breaking"), *tiny_runs(0)]
    events: list[tuple[str, str | None]] = []
    engine = Forking(tmp_path, ["cpu"], lambda kind, name, content: events.append((kind, name)))
    engine.run(runs, checked=True)
    broken, good = (run.run_name for run in runs)
    assert [event for event in events if event[0] != "progress"] == [
        ("started", broken), ("failed", broken), ("found", broken), ("started", good), ("done", good)
    ]  # fmt: skip
    assert engine.started == 2
    failure = RunFolder(tmp_path / "runs" / broken).read_failure()
    assert failure["kind"] == "error" and "device-side assert" in failure["exception"]


def test_workers_on_other_devices_need_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices of one worker each: the disk has to hold the checkpoints of both, their memory those of one."""
    runs = tiny_runs(0, 1)
    found = Preflight(tmp_path, "cpu", 1)
    found.add(runs[0], prepare(runs[0]))
    sizes = found.sizes[runs[0].run_name]
    monkeypatch.setattr(preflight, "free_disk", lambda directory: int(1.5 * CHECKPOINTS * sizes.checkpoint))
    monkeypatch.setattr(preflight, "free_memory", lambda device: Room("memory", int(1.5 * sizes.memory)))
    told: list[str] = []
    engine = LocalEngine(tmp_path, ["cpu", "cpu:0"], lambda kind, *content: told.append(kind))
    engine.context = multiprocessing.get_context("fork")  # type: ignore[assignment]  # with what is patched here
    with pytest.raises(InvalidRuns, match="Checkpoints and results need") as raised:
        engine.run(runs)
    assert len(raised.value.problems) == 1 and told == []
