"""TensorBoard and Weights & Biases are told what a run does, and change nothing about it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmark.cli import main
from benchmark.config.loading import load
from benchmark.config.schema import RunConfig
from benchmark.runs.execute import execute
from benchmark.storage.files import read_json, read_jsonl
from benchmark.storage.folder import RunFolder

TINY = ("dataset.classes=6", "stream.tasks=3", "stream.max_count=20", "stream.rho=5", "memory.budget=3",
        "training.epochs=2", "training.precision=fp32", "training.compile=off", "strategy=icarl")  # fmt: skip


def a_run(*overrides: str) -> RunConfig:
    return load("digits", [*TINY, *overrides]).base


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder]:
    """The same run with both loggers and with none."""
    place = tmp_path_factory.mktemp("loggers")
    folders = RunFolder(place / "with"), RunFolder(place / "without")
    for folder, loggers in zip(folders, ("[tensorboard, wandb]", "[]"), strict=True):
        execute(a_run(f"training.loggers={loggers}"), folder, device="cpu")
    return folders


def test_a_run_has_the_same_name_and_bytes_with_loggers(both: tuple[RunFolder, RunFolder]) -> None:
    assert a_run("training.loggers=[tensorboard, wandb]").run_name == a_run().run_name
    watched, alone = both
    for name in ("result.json", "metrics.jsonl", "stream.json", "confusion/02.npz"):
        assert (watched.path / name).read_bytes() == (alone.path / name).read_bytes()
    assert {path.name for path in watched.path.iterdir()} - {path.name for path in alone.path.iterdir()} == {
        "tensorboard",
        "wandb",
    }
    assert read_json(watched.config)["training"]["loggers"] == ["tensorboard", "wandb"]


def test_tensorboard_holds_losses_and_accuracies(both: tuple[RunFolder, RunFolder]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(both[0].path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {
        "train/loss", "train/images_per_second", "test/accuracy_seen/head", "test/accuracy_seen/nme", "memory_held",
    }  # fmt: skip
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    accuracies = events.Scalars("test/accuracy_seen/nme")
    assert [event.step for event in accuracies] == [2, 4, 6]
    for event, record in zip(accuracies, read_jsonl(both[0].metrics), strict=True):
        counts = record["classifiers"]["nme"]
        assert event.value == pytest.approx(sum(counts["correct"]) / sum(counts["total"]), abs=1e-6)


def test_wandb_is_written_offline(both: tuple[RunFolder, RunFolder]) -> None:
    (file,) = (both[0].path / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for text in (b"train/loss", b"test/accuracy_seen/nme", a_run().run_name.encode()):
        assert text in content


def test_a_package_that_is_missing_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)  # as Python itself marks what cannot be imported
    assert main(["run", "digits", *TINY, "training.loggers=[tensorboard, wandb]", "--out", "out"]) == 2
    sentence = 'imcil: training.loggers names wandb, which is not installed: pip install "imcil[wandb]".\n'
    assert capfd.readouterr().err == sentence
    assert not list(tmp_path.iterdir())


def test_a_logger_that_does_not_exist_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "digits", "training.loggers=[tensorbord]"]) == 2
    err = capfd.readouterr().err
    assert err == "imcil: training.loggers must be 'tensorboard' or 'wandb', got 'tensorbord'.\n"
