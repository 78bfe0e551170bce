"""Diagnostics: what they record agrees with autograd, and recording changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmark import config, run
from benchmark.store import RunFolder, read_json, read_jsonl

TINY = [
    "stream.tasks=3", "stream.max_count=24", "training.epochs=2", "memory.budget=3", "training.batch_size=16",
    "training.precision=fp32",
]  # fmt: skip


def finished(folder: Path, *overrides: str) -> RunFolder:
    plan = config.load("digits", [*TINY, *overrides]).base
    run_folder = RunFolder(folder / plan.run_name)
    run.execute(plan, run_folder, device="cpu")
    return run_folder


@pytest.mark.parametrize("strategy", ["replay", "dgr", "lucir"])
def test_recording_changes_no_result(strategy: str, tmp_path: Path) -> None:
    plain = finished(tmp_path / "plain", f"strategy={strategy}")
    watched = finished(tmp_path / "watched", f"strategy={strategy}", "metrics.diagnostics=true")
    assert plain.name == watched.name  # outside the hash
    assert plain.result.read_bytes() == watched.result.read_bytes()
    assert plain.metrics.read_bytes() == watched.metrics.read_bytes()
    assert not plain.diagnostics.exists()
    records = read_jsonl(watched.diagnostics)
    widths = [len(r["weight_norm"]) for r in records]
    assert widths == [4, 7, 10]
    assert all(norm > 0 for record in records for norm in record["weight_norm"])
    if strategy == "lucir":
        assert records[-1]["ce_gradient_norm"] is None and records[-1]["scale"] > 0
    else:
        assert all(norm > 0 for record in records for norm in record["ce_gradient_norm"])
    if strategy == "dgr":
        reweighting = records[-1]["plugins"]["GradientReweightingPlugin"]
        assert {"phi", "r_old", "r_new", "beta", "gamma", "lost"} <= set(reweighting)
        betas = [record["plugins"]["GradientReweightingPlugin"]["beta"] for record in records]
        assert betas[0] is None and all(beta > 0 for beta in betas[1:])


def test_gradient_norms_are_autograds(tmp_path: Path) -> None:
    """One epoch of one batch: the recorded mean is the norm of W.grad's rows of plain replay's first experience."""
    overrides = ["strategy=replay", "metrics.diagnostics=true", "training.epochs=1", "training.batch_size=1000"]
    plan = config.load("digits", [*TINY, *overrides]).base
    recipe, benchmark, arrays = run.prepare(plan)
    loader = run.ArrayLoader(benchmark.images, arrays, plan.training.augmentation)
    observer = run.DiagnosticsPlugin()
    learner = run.build_learner(plan, recipe, loader, run.resolve(plan, benchmark, "cpu"), [observer])
    seen: list[torch.Tensor] = []
    learner.optimizer_step = lambda: seen.append(learner.model.head.linear.weight.grad.norm(dim=1).clone())  # type: ignore[method-assign]
    learner.train(benchmark.train_stream[0], eval_streams=[])
    assert len(seen) == 1
    torch.testing.assert_close(torch.tensor(observer.record(learner)["ce_gradient_norm"]), seen[0])
    assert read_json(finished(tmp_path, *overrides).config)["metrics"]["diagnostics"] is True
