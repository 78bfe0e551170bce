"""Gradient reweighting in a run: our learner, precision, device reads, diagnostics and state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from gradient_world import (
    COUNTS,
    SHUFFLED,
    Each,
    FirstImages,
    batches,
    benchmark_of,
    perceptron,
    run,
    split_gradients,
    template_of,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from strategies.dgr.distillation import DistributionAwareDistillationPlugin
from strategies.dgr.reweighting import GradientReweightingPlugin
from strategies.networks.heads import LinearHead
from strategies.networks.incremental import IncrementalNetwork
from strategies.training.criteria import BalancedSoftmax
from strategies.training.learner import IncrementalLearner, Optimisation
from strategies.training.recipe import Parts
from strategies.training.teacher import last_linear

pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified")


@pytest.mark.parametrize("precision_name", ["fp32", "bf16"])
def test_on_our_own_learner(precision_name: str) -> None:
    """Columns in arrival order, a growing head in full precision above a backbone that may run in bfloat16."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    criterion = BalancedSoftmax()
    errors = []

    def check(strategy: Any) -> None:
        old = kd.counts.seen.num_old
        if not old or precision_name == "bf16":
            return
        (w_ce, _), (w_kd, _), _ = split_gradients(strategy, kd, criterion)
        expected = reweighting.row_factors[:, None].float() * w_ce + reweighting.beta * w_kd
        errors.append((last_linear(strategy.model).weight.grad - expected).norm() / expected.norm())

    backbone = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())
    parts = Parts(head=LinearHead(16), criterion=criterion, plugins=[FirstImages(6), kd, reweighting, Each(check)])
    learner = IncrementalLearner(
        network=IncrementalNetwork(backbone, parts.head),
        parts=parts,
        optimisation=Optimisation(epochs=2, batch_size=17, lr=0.1),
        loader=batches,
        precision=precision_name,
    )
    for experience in list(benchmark_of(COUNTS, [[0, 1, 2], [3, 4], [5, 6]]).train_stream):
        learner.train(experience)
    assert kd.counts.seen.columns is None and kd.counts.seen.num_old == 5
    assert all(torch.isfinite(p).all() for p in learner.model.parameters()) and reweighting.beta > 0
    assert all(error < 1e-5 for error in errors) and bool(errors) == (precision_name == "fp32")


def test_half_precision_output_gives_float32_losses_and_gradients() -> None:
    """Under autocast the backbone runs in bfloat16; the head gradient is computed in float32 from the logits."""

    class Autocast(SupervisedTemplate):
        def autocast(self) -> Any:
            return torch.autocast("cpu", torch.bfloat16)

        def forward(self) -> Tensor:
            with self.autocast():
                return super().forward()

    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    seen = []

    def check(strategy: Any) -> None:
        assert (
            strategy.mb_output.dtype == torch.bfloat16
            and last_linear(strategy.model).weight.grad.dtype == torch.float32
        )
        assert reweighting.phi.dtype == torch.float64
        if kd.last_loss is not None:
            assert kd.last_loss.dtype == torch.float32
            seen.append(torch.isfinite(reweighting.beta).item())

    model = perceptron()
    strategy = Autocast(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=BalancedSoftmax(),
        plugins=[FirstImages(6), kd, reweighting, Each(check)],
        train_mb_size=17,
        evaluator=EvaluationPlugin(),
    )
    for experience in list(benchmark_of(COUNTS, SHUFFLED).train_stream)[:2]:
        strategy.train(experience)
    assert seen and all(seen)


class HostReads(TorchDispatchMode):
    """Collects the operations that would make the host wait for an accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in {"_local_scalar_dense", "nonzero", "masked_select", "equal"}:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["dakd", "vanilla", "feature"])
def test_a_step_reads_nothing_back_from_the_device(kind: str) -> None:
    reads = HostReads()

    class Watch(SupervisedPlugin):
        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            reads.__enter__()

        def before_update(self, strategy: Any, **kwargs: Any) -> None:
            reads.__exit__(None, None, None)

    with HostReads() as self_check:
        torch.ones(1).item()
    assert self_check.found
    kd = DistributionAwareDistillationPlugin(kind)
    strategy = template_of(
        perceptron(), BalancedSoftmax(), [FirstImages(6), kd, GradientReweightingPlugin(kd), Watch()]
    )
    for experience in list(benchmark_of(COUNTS, SHUFFLED).train_stream)[:2]:
        strategy.train(experience)
    assert kd.last_loss is not None and reads.found == []


def test_recorded_beta_is_the_mean_over_the_steps_of_an_experience() -> None:
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    betas: dict[int, list[float]] = {}

    def check(strategy: Any) -> None:
        betas.setdefault(strategy.experience.current_experience, []).append(reweighting.beta.item())

    strategy = template_of(perceptron(), BalancedSoftmax(), [FirstImages(6), kd, reweighting, Each(check)])
    for t, experience in enumerate(benchmark_of(COUNTS, SHUFFLED).train_stream):
        strategy.train(experience)
        found = reweighting.diagnostics()
        if t == 0:
            assert found["beta"] is None and found["beta_last"] is None  # nothing to distil from
            continue
        assert len(set(betas[t])) == len(betas[t]) == found["steps"] > 2
        assert found["beta"] == pytest.approx(sum(betas[t]) / len(betas[t]), rel=1e-12)
        assert found["beta_last"] == betas[t][-1]


@pytest.mark.parametrize("kind", ["dakd", "vanilla", "feature", "none"])
def test_what_no_loss_used_is_recorded_as_null(kind: str) -> None:
    """After the second experience: beta without a distilled head row; kd_ratio without a loss; R and w but of DAKD."""
    kd = DistributionAwareDistillationPlugin(kind)
    reweighting = GradientReweightingPlugin(kd)
    run(reweighting, kd, lambda strategy: None)
    head, loss = reweighting.diagnostics(), kd.diagnostics()
    in_force = {name for name, value in (head | loss).items() if value is not None}
    in_force &= {"beta", "beta_last", "kd_ratio", "entropy", "class_weights"}
    assert (
        in_force
        == {
            "dakd": {"beta", "beta_last", "kd_ratio", "entropy", "class_weights"},
            "vanilla": {"beta", "beta_last", "kd_ratio"},
            "feature": {"kd_ratio"},
            "none": set(),
        }[kind]
    )
    assert loss["lost"] == head["lost"] == [19, 0, 12]


def test_without_a_distillation_plugin_no_beta_is_recorded() -> None:
    reweighting = GradientReweightingPlugin()
    run(reweighting, None, lambda strategy: None)
    assert reweighting.diagnostics()["beta"] is None
    fixed, kd = GradientReweightingPlugin(balance=1.0), DistributionAwareDistillationPlugin()
    fixed.distillation = kd
    run(fixed, kd, lambda strategy: None)
    assert fixed.diagnostics()["beta"] == 1  # a constant beta is in force


def test_state_is_plain_and_continues_at_an_experience_boundary(tmp_path: Path) -> None:
    stream = list(benchmark_of(COUNTS, SHUFFLED).train_stream)

    def build() -> tuple[Any, list[Any]]:
        kd = DistributionAwareDistillationPlugin()
        stateful = [kd, GradientReweightingPlugin(kd), BalancedSoftmax()]
        memory = FirstImages(6)
        return template_of(perceptron(), stateful[2], [memory, *stateful[:2]]), [memory, *stateful]

    strategy, plugins = build()
    for experience in stream[:2]:
        strategy.train(experience)
    state = {"model": strategy.model.state_dict(), "plugins": [p.state_dict() for p in plugins[1:]]}
    torch.save(state, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed, restored = build()
    resumed.model.load_state_dict(state["model"])
    restored[0].kept = plugins[0].kept
    for plugin, plugin_state in zip(restored[1:], state["plugins"], strict=True):
        plugin.load_state_dict(plugin_state)
    assert torch.equal(restored[2].phi, plugins[2].phi) and restored[2].steps == plugins[2].steps

    for each in (strategy, resumed):
        torch.manual_seed(11)
        each.train(stream[2])
    torch.testing.assert_close(resumed.model.state_dict(), strategy.model.state_dict(), rtol=0, atol=0)
    assert restored[2].diagnostics() == plugins[2].diagnostics()
    assert restored[1].diagnostics() == plugins[1].diagnostics()
