"""What a worker does with runs that fail, run out of memory, or kill workers; in this process."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmark.config.loading import load
from benchmark.config.schema import RunConfig
from benchmark.storage.files import read_json, write_json
from benchmark.storage.folder import RunFolder
from benchmark.storage.leases import AlreadyRunning, Hold
from benchmark.sweeps.engines import worker
from benchmark.sweeps.engines.worker import MOST_DEATHS, work
from benchmark.sweeps.plan import write_plan

TINY = ("dataset.classes=4", "stream.tasks=2", "stream.max_count=20", "stream.rho=5", "memory.budget=3",
        "training.epochs=1", "training.precision=fp32", "training.compile=off")  # fmt: skip
# Counts down in the file `trouble`: as long as it holds a number above zero, building it raises what is written there.
PLUGIN = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
import torch
from strategies.replay import Replay

TROUBLE = Path(__file__).with_name("trouble")

@dataclass(frozen=True, kw_only=True)
class Mine(Replay):
    name: ClassVar[str] = "mine"

    def build(self, context):
        times, _, what = TROUBLE.read_text().partition(" ")
        TROUBLE.write_text(f"{int(times) - 1} {what}")
        if int(times) > 0:
            raise eval(what)
        return super().build(context)
"""
OUT_OF_MEMORY = "torch.OutOfMemoryError('CUDA out of memory')"
Event = tuple[str, str | None, Any]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # other sweeps of this machine share the device elsewhere
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path


def runs(*strategies: str) -> list[RunConfig]:
    return [load("digits", [*TINY, f"strategy={name}"]).base for name in strategies]


def carried_out(
    place: Path, trouble: str, planned: list[RunConfig], look: Callable[[], Any] = lambda: None, **terms: Any
) -> list[Event]:
    """The events of a worker, progress left out; `look` is called when a run starts."""
    (place / "trouble").write_text(trouble)
    write_plan(place / "out", planned)
    events: list[Event] = []

    def listen(kind: str, name: str | None, content: Any) -> None:
        if kind != "progress":
            events.append((kind, name, content))
        if kind == "started":
            look()

    work(place / "out", planned, code_files={"mine.py:Mine"}, device="cpu", listen=listen, **terms)
    return events


def shared_by_another() -> bool:
    """Whether another worker could use the CPU now: it shares the lock that a run alone on the device holds."""
    file = os.open(Path(tempfile.gettempdir()) / f"imcil-{os.getuid()}-cpu.lock", os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def test_out_of_memory_on_a_shared_device_is_done_again_alone(place: Path) -> None:
    mine, other = runs("mine.py:Mine", "finetune")
    shared: list[bool] = []
    events = carried_out(
        place, f"1 {OUT_OF_MEMORY}", [mine, other], lambda: shared.append(shared_by_another()), shared=True
    )
    assert events == [
        ("started", mine.run_name, None),
        ("postponed", mine.run_name, "OutOfMemoryError: CUDA out of memory"),
        ("started", other.run_name, None),
        ("done", other.run_name, None),
        ("started", mine.run_name, None),
        ("done", mine.run_name, None),
    ]
    assert shared == [True, True, False]
    assert not RunFolder(place / "out" / "runs" / mine.run_name).failure.exists()


@pytest.mark.parametrize(("times", "shared", "attempts"), [(1, False, 1), (2, True, 2)])
def test_out_of_memory_alone_is_a_failure(place: Path, times: int, shared: bool, attempts: int) -> None:
    (mine,) = runs("mine.py:Mine")
    events = carried_out(place, f"{times} {OUT_OF_MEMORY}", [mine], shared=shared)
    assert events[-1] == ("failed", mine.run_name, "OutOfMemoryError: CUDA out of memory")
    failure = read_json(place / "out" / "runs" / mine.run_name / "failure.json")
    assert (failure["kind"], failure["attempt"], failure["again"]) == ("out of memory", attempts, None)


def test_memory_that_cuda_itself_misses_is_tried_again_alone(place: Path) -> None:
    (mine,) = runs("mine.py:Mine")
    events = carried_out(place, "1 torch.AcceleratorError('CUDA error: out of memory')", [mine], shared=True)
    assert [event[0] for event in events] == ["started", "postponed", "started", "done"]


def test_a_run_is_not_postponed_where_that_cannot_be_recorded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would come again and again."""
    (mine,) = runs("mine.py:Mine")

    def full(path: Path, value: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("benchmark.storage.folder.write_json", full)
    events = carried_out(place, f"3 {OUT_OF_MEMORY}", [mine], shared=True)
    assert [event[0] for event in events] == ["started", "failed"]


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("ValueError('no')", "error"),
        ("OSError(28, 'No space left on device')", "disk full"),
        ("MemoryError()", "out of memory"),
        ("torch.AcceleratorError('CUDA error: out of memory')", "out of memory"),
        ("RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`')", "out of memory"),
        ("RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED')", "out of memory"),
        ("torch.AcceleratorError('CUDA error: device-side assert triggered')", "error"),
        ("__import__('benchmark.errors').errors.UserError('no')", "user error"),
        ("__import__('strategies.training.learner').training.learner.NonFiniteLossError('no')", "non-finite loss"),
    ],
)
def test_a_failure_has_a_kind_and_others_go_on(place: Path, what: str, kind: str) -> None:
    mine, other = runs("mine.py:Mine", "finetune")
    events = carried_out(place, f"1 {what}", [mine, other])
    assert [event[0] for event in events] == ["started", "failed", "started", "done"]
    failure = read_json(place / "out" / "runs" / mine.run_name / "failure.json")
    assert failure["kind"] == kind and "in build" in failure["traceback"]


def test_fail_fast_takes_no_further_run(place: Path) -> None:
    mine, other = runs("mine.py:Mine", "finetune")
    events = carried_out(place, "1 ValueError('no')", [mine, other], fail_fast=True)
    assert [event[0] for event in events] == ["started", "failed"]
    assert RunFolder(place / "out" / "runs" / other.run_name).state == "pending"


def test_a_run_that_kills_workers_is_given_up(place: Path) -> None:
    """A fourth worker does not try again what three died of."""
    (mine,) = runs("mine.py:Mine")
    folder = RunFolder(place / "out" / "runs" / mine.run_name)
    folder.path.mkdir(parents=True)
    for number in range(1, MOST_DEATHS + 1):
        dead = Hold(folder.path, number, 120.0, 0)
        dead._over.set()  # it gives no further sign of life, and its process is gone
        dead._heart.join()
        content = read_json(dead.path)
        dead.path.write_text(
            str({**content, "process_start": 1}).replace("'", '"').replace("None", "null")
        )  # … and is gone
    events = carried_out(place, "0 nothing", [mine], since=0.0)
    assert events[-1][:2] == ("failed", mine.run_name) and "workers in a row died over this run" in events[-1][2]
    assert folder.read_failure()["kind"] == "killed"


def seem_dead(folder: RunFolder) -> None:
    """Have others take the owner of a run for one of another machine that was silent for too long."""
    claim = max(folder.path.glob("claim.*.json"))
    write_json(claim, {**read_json(claim), "machine": "another"})
    os.utime(claim, (1, 1))


def test_a_worker_whose_run_was_taken_over_in_mid_write_records_no_failure(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one removes what it finds half written, so the write fails; then the run is the other one's alone."""
    (mine,) = runs("finetune")
    folder = RunFolder(place / "out" / "runs" / mine.run_name)
    other = RunFolder(folder.path)
    fsync, taken = os.fsync, ExitStack()

    def slow(file: int) -> None:
        if any(folder.checkpoints.glob(".*.tmp")):
            monkeypatch.setattr(os, "fsync", fsync)
            seem_dead(folder)
            taken.enter_context(other.claim())
        fsync(file)

    with taken:
        monkeypatch.setattr(os, "fsync", slow)
        assert carried_out(place, "0 nothing", [mine]) == [
            ("started", mine.run_name, None),
            ("lost", mine.run_name, f"{mine.run_name} was taken over by another worker: this one seemed dead to it."),
        ]
        assert not folder.failure.exists() and folder.state == "running"
        other.confirm()
    assert folder.state == "interrupted"


def test_a_worker_that_wakes_after_another_one_finished_its_run_leaves_it_as_it_is(place: Path) -> None:
    """The other one removed every claim; the result tells. Asleep at the end of the first experience's first epoch."""
    (mine,) = runs("finetune")
    folder = RunFolder(place / "out" / "runs" / mine.run_name)
    others: list[Event] = []
    content: dict[str, bytes] = {}

    def listen(kind: str, name: str | None, told: Any) -> None:
        if kind == "progress" and not others:
            seem_dead(folder)
            work(place / "out", [mine], device="cpu", listen=lambda *event: others.append(event))
            content.update(files(folder))
        elif kind in ("lost", "done", "failed"):
            ended.append((kind, told))

    ended: list[tuple[str, Any]] = []
    write_plan(place / "out", [mine])
    work(place / "out", [mine], device="cpu", listen=listen)
    assert others[-1][0] == "done"
    assert ended == [("lost", f"{mine.run_name} was finished by another worker: this one seemed dead to it.")]
    assert files(folder) == content and folder.state == "done"


def files(folder: RunFolder) -> dict[str, bytes]:
    """All of them but the log."""
    return {
        path.name: path.read_bytes() for path in folder.path.rglob("*.*") if path.is_file() and path.suffix != ".txt"
    }


def test_an_owner_that_leaves_takes_no_other_ones_claim_with_it(tmp_path: Path) -> None:
    """Whether the result is damaged, so that the run is not done at all, or whole."""
    for name, result in (("damaged", "{"), ("whole", '{"format": 1, "complete": true, "classifiers": {}}')):
        folder, other = RunFolder(tmp_path / name), RunFolder(tmp_path / name)
        folder.path.mkdir()
        with ExitStack() as mine, ExitStack() as others:
            mine.enter_context(folder.claim())
            seem_dead(folder)
            held = others.enter_context(other.claim())
            folder.result.write_text(result)
            mine.close()
            assert held.path.exists()
            with pytest.raises(AlreadyRunning):
                RunFolder(tmp_path / name).claim().__enter__()


def test_a_worker_refuses_code_that_nobody_named(place: Path) -> None:
    write_plan(place / "out", runs("mine.py:Mine"))
    with pytest.raises(worker.UserError, match=r'would run code from "mine\.py:Mine"'):
        work(place / "out", code_files={"yours.py:Mine"})
    assert not (place / "out" / "runs").exists()
