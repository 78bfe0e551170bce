"""Diagnostics: what they record agrees with autograd, and recording changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmark import config
from benchmark.runs import environment, execute
from benchmark.runs.prepare import build_learner, prepare
from benchmark.storage.files import read_json, read_jsonl
from benchmark.storage.folder import RunFolder

TINY = [
    "stream.tasks=3", "stream.max_count=24", "training.epochs=2", "memory.budget=3", "training.batch_size=16",
    "training.precision=fp32",
]  # fmt: skip


def finished(folder: Path, *overrides: str) -> RunFolder:
    plan = config.load("digits", [*TINY, *overrides]).base
    run_folder = RunFolder(folder / plan.run_name)
    execute.execute(plan, run_folder, device="cpu")
    return run_folder


@pytest.mark.parametrize("strategy", ["replay", "dgr", "lucir", "podnet", "eeil_lws", "wa"])
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
    assert all(norm > 0 for record in records for norm in record["ce_gradient_norm"])
    has_bias, has_scale = strategy not in ("lucir", "podnet"), strategy in ("lucir", "podnet")
    for record, width in zip(records, widths, strict=True):
        assert len(record["bias"]) == width if has_bias else record["bias"] is None
        assert record["scale"] > 0 if has_scale else record["scale"] is None
    if strategy == "wa":
        first, *later = [record["plugins"]["WeightAligningPlugin"]["factor"] for record in records]
        assert first is None and all(factor > 0 for factor in later)
    if strategy == "dgr":
        reweighting = records[-1]["plugins"]["GradientReweightingPlugin"]
        assert {"phi", "r_old", "r_new", "beta", "gamma", "lost"} <= set(reweighting)
        betas = [record["plugins"]["GradientReweightingPlugin"]["beta"] for record in records]
        assert betas[0] is None and all(beta > 0 for beta in betas[1:])


ROW_GRADIENTS: dict[str, Callable[[Any], torch.Tensor]] = {  # of a head in its first experience
    "replay": lambda head: head.linear.weight.grad,
    "lucir": lambda head: head.new.grad,
    "podnet": lambda head: head.new.grad,  # several proxies a class
    "eeil_lws": lambda head: head.new.grad[:, :-1],  # the bias is a row's last number
}


@pytest.mark.parametrize("strategy", ROW_GRADIENTS)
def test_gradient_norms_are_autograds(strategy: str, tmp_path: Path) -> None:
    """One epoch of one batch: the recorded mean is the norm of the gradients of the head's rows."""
    noise = ["strategy.noise=0"] if strategy == "eeil_lws" else []
    overrides = [
        f"strategy={strategy}",
        *noise,
        "metrics.diagnostics=true",
        "training.epochs=1",
        "training.batch_size=1000",
    ]
    plan = config.load("digits", [*TINY, *overrides]).base
    recipe, benchmark, arrays = prepare(plan)
    loader = execute.ArrayLoader(benchmark.images, arrays, plan.training.augmentation)
    observer = execute.DiagnosticsPlugin()
    learner = build_learner(plan, recipe, loader, environment.resolve(plan, benchmark, "cpu"), [observer])
    seen: list[torch.Tensor] = []
    learner.optimizer_step = lambda: seen.append(ROW_GRADIENTS[strategy](learner.model.head).clone())  # type: ignore[method-assign]
    learner.parts.stages.clear()
    learner.train(benchmark.train_stream[0], eval_streams=[])
    assert len(seen) == 1
    norms = seen[0].norm(dim=-1).reshape(len(seen[0]), -1).mean(dim=1)
    torch.testing.assert_close(torch.tensor(observer.record(learner)["ce_gradient_norm"]), norms)
    assert read_json(finished(tmp_path, *overrides).config)["metrics"]["diagnostics"] is True


def test_frozen_rows_get_the_gradient_they_would_have_received() -> None:
    """Of a split head in any order of columns, against autograd through one plain weight matrix."""
    from strategies.networks.heads import CosineHead
    from strategies.training.diagnostics import _row_gradients

    torch.manual_seed(0)
    head = CosineHead(5, freeze_old=True)
    for classes in ([3, 0], [1, 4, 2]):
        head.adaptation(SimpleNamespace(classes_in_this_experience=classes))
    assert head.row_of_column is not None and not head.old.requires_grad
    features, at_logits = torch.randn(7, 5), torch.randn(7, 5)
    weight = head.weight.detach().requires_grad_()
    cosines = torch.nn.functional.normalize(features, dim=1) @ torch.nn.functional.normalize(weight, dim=1).T
    (head.eta.detach() * cosines).backward(at_logits)
    torch.testing.assert_close(_row_gradients(head, features, at_logits), weight.grad)


def test_a_head_of_another_kind_has_no_gradient_norms_and_ends_no_run() -> None:
    """A method of one's own may bring a head that is neither linear nor split."""
    from strategies.networks.heads import GrowingHead

    class Prototypes(GrowingHead):
        def extend(self, num_new: int) -> None:
            self.weight = torch.nn.Parameter(torch.ones(num_new, self.num_features))

        def scores(self, features: torch.Tensor) -> torch.Tensor:
            return -torch.cdist(features, self.weight)

    head = Prototypes(5)
    head.adaptation(SimpleNamespace(classes_in_this_experience=[0, 1]))
    strategy: Any = SimpleNamespace(model=SimpleNamespace(head=head), device="cpu", plugins=[])
    observer = execute.DiagnosticsPlugin()
    observer.before_training_exp(strategy)
    observer.before_backward(strategy)
    record = observer.record(strategy)
    assert record["ce_gradient_norm"] is None and record["weight_norm"] == pytest.approx([5**0.5] * 2)
