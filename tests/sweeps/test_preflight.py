"""What is asked before a sweep starts. Only what the operating system says is replaced: free space and memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.cli import main
from benchmark.config.loading import load
from benchmark.config.schema import RunConfig
from benchmark.datasets.arrays import images_hash
from benchmark.runs import environment
from benchmark.runs.execute import execute
from benchmark.runs.prepare import prepare
from benchmark.runs.signals import Interrupted, StopRequest
from benchmark.storage.files import read_json, write_json
from benchmark.storage.folder import RunFolder
from benchmark.sweeps import preflight
from benchmark.sweeps.engines.worker import check
from benchmark.sweeps.preflight import Preflight, check_writable

TINY = ("dataset.classes=6", "stream.tasks=3", "stream.max_count=20", "stream.rho=5", "memory.budget=3",
        "training.epochs=1", "training.precision=fp32", "training.compile=off")  # fmt: skip
BIG = ("training.backbone=resnet18", "training.batch_size=256")


def a_run(*overrides: str) -> RunConfig:
    return load("digits", [*TINY, "strategy=replay", *overrides]).base


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the bytes that the file system reports as free."""
    real = os.statvfs

    def leave(free: int) -> None:
        def statvfs(path: str) -> os.statvfs_result:
            fields = list(real(path))
            fields[0], fields[1], fields[4] = 1, 1, free  # f_bsize, f_frsize, f_bavail
            return os.statvfs_result(fields)

        monkeypatch.setattr(os, "statvfs", statvfs)

    return leave


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Sets what a file under /proc or /sys says."""
    real = Path.read_text
    contents: dict[str, str] = {}

    def read_text(path: Path, **options: str) -> str:
        return contents.get(str(path)) or real(path, **options)

    monkeypatch.setattr(Path, "read_text", read_text)
    return contents.__setitem__


def problems(run: RunConfig, directory: Path, workers: int = 1, here: bool = True) -> list[str]:
    return [sentence for _, sentence in check([run], "cpu", directory, workers, here)]


# --- permission -------------------------------------------------------------------------------------------------------


def test_a_place_that_cannot_be_written_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """/proc takes no new file, even from root."""
    monkeypatch.chdir(tmp_path)
    for command in ("sweep", "run"):
        assert main([command, "digits", *TINY, "strategy=replay", "--out", "/proc/imcil"]) == 2
        out, err = capfd.readouterr()
        assert (
            out == "" and err.startswith("imcil: Results cannot be written to /proc/imcil: ") and err.count("\n") == 1
        )
    assert not list(tmp_path.iterdir())


def test_asking_for_permission_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "results" / "new")
    assert not list(tmp_path.iterdir())


# --- disk -------------------------------------------------------------------------------------------------------------


def test_too_little_disk_is_told_before_anything_is_written(
    disk: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    disk(50_000)
    assert main(["run", "digits", *TINY, "strategy=replay", "--out", "out"]) == 2
    err = capfd.readouterr().err
    assert "Checkpoints and results need about " in err and " in out, and 50 kB are free: make room, or give" in err
    assert not list(tmp_path.iterdir())


def test_the_disk_needed_grows_with_the_workers(disk: Callable[[int], None], tmp_path: Path) -> None:
    run, other = a_run(), a_run("training.seed=1")
    disk(int(1.5 * preflight.CHECKPOINTS * measured(run).checkpoint))
    assert list(check([run, other], "cpu", tmp_path, workers=1)) == []
    ((name, sentence),) = check([run, other], "cpu", tmp_path, workers=2)
    assert name == run.run_name and "Checkpoints and results need" in sentence
    assert list(check([run], "cpu", tmp_path, workers=2)) == []  # one run occupies one worker


def test_weights_that_are_kept_need_room_too() -> None:
    none, last, each = (measured(a_run(f"training.keep={keep}")).results for keep in ("none", "last", "each"))
    assert none < last < each and each - none == a_run().stream.tasks * (last - none)


def measured(run: RunConfig) -> preflight.Sizes:
    found = Preflight(Path("nowhere"), "cpu", 1)
    found.add(run, prepare(run))
    return found.sizes[run.run_name]


@pytest.mark.parametrize("strategy", ["replay", "dgr", "lucir"])
def test_a_checkpoint_has_about_the_size_that_was_expected(strategy: str, tmp_path: Path) -> None:
    """The largest one: in the middle of the last experience."""
    run = a_run(f"strategy={strategy}", "training.epochs=2", "training.backbone=resnet20")
    folder = RunFolder(tmp_path / "runs" / run.run_name)
    stop = StopRequest()

    def progress(event: dict) -> None:
        stop.requested = event["experience"] == 2

    with pytest.raises(Interrupted):
        execute(run, folder, progress, "cpu", stop)
    largest = max(path.stat().st_size for path in folder.checkpoints.glob("*.pt"))
    assert 0.9 * largest < measured(run).checkpoint < 1.5 * largest


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_run_that_cannot_fit_into_memory_is_told(memory: Callable[[str, str], None], tmp_path: Path) -> None:
    assert problems(a_run(*BIG), tmp_path) == []
    memory("/proc/meminfo", "MemTotal: 9 kB\nMemAvailable:       1000 kB\n")
    memory("/proc/self/status", "RssAnon:\t   1000 kB\n")
    (sentence,) = problems(a_run(*BIG), tmp_path)
    assert sentence.startswith("A run needs about ") and sentence.endswith(
        " of memory, and 2.0 MB are free: give a smaller training.batch_size."
    )
    assert problems(a_run(*BIG), tmp_path, here=False) == []  # its workers have other memory


def test_fewer_workers_are_suggested_where_some_fit(memory: Callable[[str, str], None], tmp_path: Path) -> None:
    runs = [a_run(*BIG, f"training.seed={seed}") for seed in range(4)]
    need = measured(runs[0]).memory
    memory("/proc/self/status", "RssAnon: 0 kB\n")
    memory("/proc/meminfo", f"MemAvailable: {int(2.5 * need) // 1024} kB\n")
    assert list(check(runs, "cpu", tmp_path, workers=2)) == []
    ((_, sentence),) = check(runs, "cpu", tmp_path, workers=4)
    assert " for each of 4 workers, and " in sentence and sentence.endswith(
        "give --jobs 2 or a smaller training.batch_size."
    )


def test_the_limit_of_a_container_counts(memory: Callable[[str, str], None], tmp_path: Path) -> None:
    memory("/proc/self/status", "RssAnon: 0 kB\n")
    memory("/sys/fs/cgroup/memory.max", "9000000\n")
    memory("/sys/fs/cgroup/memory.current", "7000000\n")
    memory("/sys/fs/cgroup/memory.stat", "anon 1\ninactive_file 1000000\n")
    room = preflight.free_memory("cpu")
    assert room == ("memory", 3_000_000)
    assert "3.0 MB are free" in problems(a_run(*BIG), tmp_path)[0]


def test_memory_for_activations_is_counted_by_hand() -> None:
    """A linear layer keeps its input, a ReLU its output; weights are counted elsewhere."""
    module = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.ReLU())
    assert preflight._kept_for_backward(module, (2, 10)) == 4 * (2 * 10 + 2 * 20)


# --- images -----------------------------------------------------------------------------------------------------------


def test_runs_that_saw_other_images_are_not_joined(tmp_path: Path) -> None:
    run, other = a_run(), a_run("strategy=finetune")
    folder = RunFolder(tmp_path / "runs" / run.run_name)
    execute(run, folder, device="cpu")
    assert problems(other, tmp_path) == []
    recorded = read_json(folder.environment)
    assert recorded["dataset"]["sha256"] == images_hash(prepare(run)[2])
    write_json(folder.environment, {**recorded, "dataset": {"sha256": "0" * 64}})
    assert problems(other, tmp_path) == [
        f"dataset.root leads to other images of digits than those that {run.run_name} saw: give the same data, or "
        "another --out."
    ]
    assert problems(a_run("dataset.test_fraction=0.3"), tmp_path) == []  # another dataset
    folder.environment.write_text("{")
    assert problems(other, tmp_path) == []


def test_the_hash_of_images_covers_labels_pixels_and_halves() -> None:
    arrays = prepare(a_run())[2]
    known = images_hash(arrays)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        values = np.array(getattr(arrays, name))
        values[0] += 1
        assert images_hash(type(arrays)(**{**vars(arrays), name: values})) != known
    assert images_hash(type(arrays)(**vars(arrays))) == known


# --- precision --------------------------------------------------------------------------------------------------------


def test_repeats_in_another_precision_are_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a run that would share a cell with a finished one, and that begins here, is refused."""

    def auto(*overrides: str) -> RunConfig:
        return a_run("training.precision=auto", *overrides)

    monkeypatch.setattr(environment, "has_fast_bf16", lambda device: False)
    first = auto()
    execute(first, RunFolder(tmp_path / "runs" / first.run_name), device="cpu")
    seeds = ("training.seed=1", "stream.order_seed=1", "stream.subset_seed=1")
    assert problems(auto(*seeds), tmp_path) == []

    monkeypatch.setattr(environment, "has_fast_bf16", lambda device: True)
    for seed in seeds:
        assert problems(auto(seed), tmp_path) == [
            f"training.precision=auto is bf16 on this machine, and {first.run_name}, which differs in seeds only, was "
            "made in fp32: they must not be averaged, so go on where that was made, or give another --out."
        ]
    for other in (a_run("training.seed=1"), auto("training.lr=0.2"), auto("strategy=finetune")):
        assert problems(other, tmp_path) == []
    assert dict(check([auto("training.seed=1")], "auto", tmp_path, 1, here=False)) == {}

    begun = auto("training.seed=1")
    stop = StopRequest()

    def progress(event: dict) -> None:
        stop.requested = event["experience"] == 1

    with pytest.raises(Interrupted):
        execute(begun, RunFolder(tmp_path / "runs" / begun.run_name), progress, "cpu", stop)
    assert problems(begun, tmp_path) == []
    both = dict(check([begun, auto("training.seed=2")], "cpu", tmp_path, 1))
    assert list(both) == [auto("training.seed=2").run_name]
