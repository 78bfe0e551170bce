"""One run: what it leaves behind, that it repeats and resumes byte for byte, and that its numbers are Avalanche's."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from small_run import EPOCHS, REPEATABLE, TINY, config, done, interrupt, repeatable

from benchmark.config.schema import RunConfig, validated
from benchmark.errors import UserError
from benchmark.loading.loader import ArrayLoader
from benchmark.runs import environment, execute
from benchmark.runs.prepare import build_learner, prepare
from benchmark.storage.files import read_json, read_jsonl, write_bytes
from benchmark.storage.folder import RunFolder
from strategies.training.memory import concatenate
from strategies.training.recipe import batch_sizes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of icarl, which has two classifiers."""
    return done(config("icarl"), tmp_path_factory.mktemp("runs") / "icarl")


# --- what a run leaves behind -----------------------------------------------------------------------------------------


def test_folder_holds_what_the_design_lists_and_nothing_else(finished: RunFolder) -> None:
    assert sorted(str(path.relative_to(finished.path)) for path in finished.path.rglob("*")) == [
        "config.json", "confusion", "confusion/00.npz", "confusion/01.npz", "confusion/02.npz", "cost.jsonl",
        "environment.json", "log.txt", "metrics.jsonl", "result.json", "stream.json",
    ]  # fmt: skip
    assert finished.state == "done"


def test_config_is_written_with_every_default(finished: RunFolder) -> None:
    written = read_json(finished.config)
    assert set(written) == {"dataset", "stream", "strategy", "memory", "training", "metrics"}
    assert written == config("icarl").model_dump(mode="json")
    assert written["stream"]["protocol"] == "lfs" and written["training"]["momentum"] == 0.9
    assert RunConfig.model_validate(written) == config("icarl")


def test_environment_tells_versions_machine_and_what_auto_became(finished: RunFolder) -> None:
    recorded = read_json(finished.environment)
    for package in ("imcil", "torch", "torchvision", "avalanche-lib", "numpy", "pandas"):
        assert recorded["versions"][package] == version(package)
    assert set(recorded["machine"]) == {"platform", "processor"}
    assert recorded["resolved"] == {
        "precision": "fp32", "compile": "off", "device": "cpu", "threads": torch.get_num_threads(),
    }  # fmt: skip


def test_metrics_count_every_test_image_of_the_seen_classes(finished: RunFolder) -> None:
    stream, records = read_json(finished.stream), read_jsonl(finished.metrics)
    assert [record["experience"] for record in records] == [0, 1, 2]
    for t, record in enumerate(records):
        seen = sum(stream["sizes"][: t + 1])
        assert set(record["classifiers"]) == {"head", "nme"}
        assert record["memory_held"] == [min(3, count) for count in stream["train_counts"][:seen]]
        with np.load(finished.confusion_of(t)) as confusion:
            for name, counts in record["classifiers"].items():
                assert counts["total"] == stream["test_counts"][:seen]
                assert confusion[name].shape == (seen, seen)
                assert confusion[name].sum(axis=1).tolist() == counts["total"]
                assert confusion[name].diagonal().tolist() == counts["correct"]


def test_result_holds_the_metrics_and_says_whose_they_are(finished: RunFolder) -> None:
    result, records = read_json(finished.result), read_jsonl(finished.metrics)
    wanted = config("icarl")
    assert (result["format"], result["complete"]) == (1, True)
    assert (result["run"], result["config_hash"]) == (wanted.run_name, wanted.hash)
    assert result["memory_held"] == records[-1]["memory_held"] == [3] * 6
    for name in ("head", "nme"):
        curve = [sum(r["classifiers"][name]["correct"]) / sum(r["classifiers"][name]["total"]) for r in records]
        found = result["classifiers"][name]
        assert found["curves"]["accuracy_seen"] == pytest.approx(curve)
        assert found["summary"]["average_accuracy_seen"] == pytest.approx(np.mean(curve))
        assert found["summary"]["last_accuracy_seen"] == pytest.approx(curve[-1])


def test_clocks_stand_in_the_cost_file_alone(finished: RunFolder) -> None:
    costs = read_jsonl(finished.cost)
    counts = read_json(finished.stream)["train_counts"]
    new = [sum(counts[:2]), sum(counts[2:4]), sum(counts[4:])]
    assert [cost["images_trained"] for cost in costs] == [
        EPOCHS * (n + held) for n, held in zip(new, (0, 6, 12), strict=True)
    ]
    assert all(cost["train_seconds"] > 0 and cost["peak_rss_bytes"] > 1e6 for cost in costs)
    for name in REPEATABLE[:4]:
        text = (finished.path / name).read_text()
        assert not any(word in text for word in ("seconds", "time", "rss", "bytes", str(finished.path.parent)))


def test_the_training_seed_draws_the_first_weights_and_nothing_else_does() -> None:
    def first_weights(**changes: Any) -> torch.Tensor:
        wanted = config("replay", **changes)
        recipe, benchmark, arrays = prepare(wanted)
        loader = ArrayLoader(benchmark.images, arrays, wanted.training.augmentation, "cpu")
        learner = build_learner(wanted, recipe, loader, environment.resolve(wanted, benchmark, "cpu"))
        return torch.cat([parameter.detach().flatten() for parameter in learner.model.backbone.parameters()])

    assert torch.equal(first_weights(), first_weights(stream__order_seed=1, stream__subset_seed=1))
    assert not torch.equal(first_weights(), first_weights(training__seed=1))


@pytest.mark.parametrize("last_batch", ["keep", "even"])
def test_a_run_trains_on_the_batches_it_names(last_batch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, trained = build_learner, []

    def watched(*args: Any) -> Any:
        learner = build(*args)
        learner.model.register_forward_pre_hook(
            lambda model, inputs: trained.append(len(inputs[0])) if model.training else None
        )
        return learner

    monkeypatch.setattr(execute, "build_learner", watched)
    folder = done(config("finetune", **TINY, training__batch_size=9, training__last_batch=last_batch), tmp_path / "run")
    info = read_json(folder.stream)
    first, second = sum(info["train_counts"][:2]), sum(info["train_counts"][2:])
    assert first % 9 or second % 9
    assert trained == batch_sizes(first, 9, last_batch) + batch_sizes(second, 9, last_batch)


@pytest.mark.parametrize(("keep", "files"), [("last", ["02.pt"]), ("each", ["00.pt", "01.pt", "02.pt"])])
def test_weights_are_kept_on_request(keep: str, files: list[str], finished: RunFolder, tmp_path: Path) -> None:
    """They are those that were evaluated, also of a run that was stopped in between, and no part of its identity."""
    wanted = config("icarl", training__keep=keep)
    folder = RunFolder(tmp_path / "run")
    interrupt(wanted, folder, 1)
    done(wanted, folder.path)
    assert wanted.run_name == config("icarl").run_name
    assert [path.name for path in sorted(folder.weights.iterdir())] == files
    assert folder.result.read_bytes() == finished.result.read_bytes()
    state = torch.load(folder.weights / "02.pt", weights_only=True)
    recipe, benchmark, arrays = prepare(wanted)
    loader = ArrayLoader(benchmark.images, arrays, "none")
    learner = build_learner(wanted, recipe, loader, environment.resolve(wanted, benchmark, "cpu"))
    learner.model.head.extend(6)
    learner.model.head.num_classes = 6
    learner.model.load_state_dict(state)
    learner.model.eval()
    correct = [0] * 6
    for x, y, _ in loader(concatenate([experience.dataset for experience in benchmark.test_stream]), 64, False):
        for label in y[learner.model(x).argmax(dim=1) == y].tolist():
            correct[label] += 1
    assert correct == read_jsonl(folder.metrics)[-1]["classifiers"]["head"]["correct"]


def test_diagnostics_are_written_on_request_and_change_nothing(finished: RunFolder, tmp_path: Path) -> None:
    folder = done(config("icarl", metrics__diagnostics=True), tmp_path / "run")
    assert [record["experience"] for record in read_jsonl(folder.diagnostics)] == [0, 1, 2]
    assert folder.result.read_bytes() == finished.result.read_bytes()
    assert folder.metrics.read_bytes() == finished.metrics.read_bytes()


def test_methods_learn_something(finished: RunFolder, tmp_path: Path) -> None:
    """Digits are easy: after some epochs the first two classes are told apart, and joint training keeps all six."""
    joint = done(config("joint", training__epochs=12, stream__rho=1), tmp_path / "joint")
    curves = read_json(joint.result)["classifiers"]["head"]["curves"]["accuracy_seen"]
    assert curves[0] > 0.9 and curves[-1] > 0.8
    finetune = done(config("finetune", training__epochs=12, stream__rho=1), tmp_path / "finetune")
    assert read_json(finetune.result)["classifiers"]["head"]["summary"]["forgetting"] > 0.5
    assert read_json(finetune.result)["memory_held"] == [0] * 6


# --- repeated, resumed ------------------------------------------------------------------------------------------------


def test_repeated_runs_are_identical_byte_for_byte(finished: RunFolder, tmp_path: Path) -> None:
    assert repeatable(done(config("icarl"), tmp_path / "again")) == repeatable(finished)
    other_seed = done(config("icarl", training__seed=1), tmp_path / "other")
    assert other_seed.metrics.read_bytes() != finished.metrics.read_bytes()


def test_a_failure_is_forgotten_once_the_run_is_done(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_bytes(folder.failure, b'{"attempt": 1}')
    execute.execute(config("finetune"), folder)
    assert not folder.failure.exists() and folder.state == "done"


# --- automatic choices ------------------------------------------------------------------------------------------------


def resolved(images: int = 10, **training: Any) -> environment.Resolved:
    stream: Any = SimpleNamespace(info=SimpleNamespace(train_counts=[images]))
    return environment.resolve(validated({"training": training}), stream, "cpu")


def test_auto_is_resolved_by_hardware_and_by_the_length_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "has_fast_bf16", lambda device: True)
    assert resolved().precision == "bf16"
    assert resolved(precision="fp32").precision == "fp32"
    monkeypatch.setattr(environment, "has_fast_bf16", lambda device: False)
    assert resolved().precision == "fp32"
    assert resolved(precision="bf16").precision == "bf16"
    few, many = environment.COMPILE_PAYS_FROM // 10 - 1, environment.COMPILE_PAYS_FROM // 10
    assert resolved(few, epochs=10).compile == "off" and resolved(many, epochs=10).compile == "on"
    assert resolved(many, epochs=10, compile="off").compile == "off" and resolved(few, compile="on").compile == "on"


def test_what_auto_became_is_kept_when_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
        return torch.load(folder.weights / "02.pt", weights_only=True)

    wanted = config("replay", training__precision="auto", training__compile="auto", training__keep="last")
    straight = {}
    for precision in ("bf16", "fp32"):
        monkeypatch.setattr(environment, "has_fast_bf16", lambda device, fast=precision == "bf16": fast)
        folder = straight[precision] = done(wanted, tmp_path / precision)
        assert read_json(folder.environment)["resolved"]["precision"] == precision
    bf16, fp32 = (weights(folder) for folder in straight.values())
    assert not any(torch.equal(bf16[name], fp32[name]) for name in bf16 if name.endswith("weight"))

    folder = RunFolder(tmp_path / "killed")
    monkeypatch.setattr(environment, "has_fast_bf16", lambda device: True)
    interrupt(wanted, folder, 1)
    monkeypatch.setattr(environment, "has_fast_bf16", lambda device: False)  # goes on elsewhere
    execute.execute(wanted, folder)
    assert read_json(folder.environment)["resolved"]["precision"] == "bf16"
    assert repeatable(folder) == repeatable(straight["bf16"])
    assert all(torch.equal(value, bf16[name]) for name, value in weights(folder).items())


def test_a_machine_without_a_compiler_trains_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(module: Any, **options: Any) -> Any:
        def compiled(x: Any) -> Any:
            raise RuntimeError("no C++ compiler found")

        return compiled

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.warns(UserWarning, match="the backbone runs uncompiled: no C.. compiler found"):
        compiled = done(config("replay", training__compile="on"), tmp_path / "on")
    assert compiled.metrics.read_bytes() == done(config("replay"), tmp_path / "off").metrics.read_bytes()


@pytest.mark.slow
def test_a_compiled_run_learns_what_an_eager_one_learns(tmp_path: Path) -> None:
    """Compiled kernels round differently: a few test images may fall on the other side."""
    changes = {"training__epochs": 6, "stream__rho": 1}
    runs = [done(config("joint", training__compile=c, **changes), tmp_path / c) for c in ("on", "off")]
    assert read_json(runs[0].environment)["resolved"]["compile"] == "on"
    on, off = (read_json(folder.result)["classifiers"]["head"]["summary"]["last_accuracy_seen"] for folder in runs)
    assert on == pytest.approx(off, abs=0.1)


def test_devices_that_cannot_be_used() -> None:
    environment.check_device("auto")
    environment.check_device("cpu")
    with pytest.raises(UserError, match=r'^The device "gpu" cannot be used: '):
        environment.check_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r'^The device "cuda:0" cannot be used: '):
            environment.check_device("cuda:0")


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["replay", "wa"])
def test_avalanches_own_accuracy_is_the_recorded_one(strategy: str, finished: RunFolder, tmp_path: Path) -> None:
    wanted = config(strategy)
    folder = done(wanted, tmp_path / "run")
    recipe, benchmark, arrays = prepare(wanted)
    loader = ArrayLoader(benchmark.images, arrays, "none")
    learner = build_learner(wanted, recipe, loader, environment.resolve(wanted, benchmark, "cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no loggers
        evaluator = EvaluationPlugin(accuracy_metrics(stream=True, experience=True), loggers=[])
    learner.plugins[learner.plugins.index(learner.evaluator)] = evaluator
    learner.evaluator = evaluator
    records = read_jsonl(folder.metrics)
    for t, experience in enumerate(benchmark.train_stream):
        learner.train(experience, eval_streams=[])
        found = learner.eval(benchmark.test_stream[: t + 1])
        correct, total = (records[t]["classifiers"]["head"][key] for key in ("correct", "total"))
        accuracy = next(value for name, value in found.items() if name.startswith("Top1_Acc_Stream"))
        assert accuracy == pytest.approx(sum(correct) / sum(total), abs=1e-6)
        per_experience = [value for name, value in sorted(found.items()) if name.startswith("Top1_Acc_Exp")]
        mine = [sum(correct[i : i + 2]) / sum(total[i : i + 2]) for i in range(0, len(total), 2)]
        assert per_experience == pytest.approx(mine, abs=1e-6)


def test_kept_classes_are_the_ones_named(tmp_path: Path) -> None:
    stream = read_json(done(config("finetune", dataset__classes=[7, 1, 4], stream__tasks=3), tmp_path / "run").stream)
    assert sorted(stream["class_order"]) == [1, 4, 7]
    assert sorted(prepare(config())[1].info.class_order) == [0, 1, 2, 3, 4, 5]
