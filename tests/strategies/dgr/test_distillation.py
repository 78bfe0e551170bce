"""DAKD and the other distillations under gradient reweighting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gradient_world import (
    Each,
    FirstImages,
    benchmark_of,
    perceptron,
    run,
    split_gradients,
    template_of,
)
from torch import Tensor, nn

from strategies.dgr.distillation import DistributionAwareDistillationPlugin
from strategies.dgr.reweighting import GradientReweightingPlugin
from strategies.training import losses
from strategies.training.criteria import BalancedSoftmax
from strategies.training.teacher import last_linear

pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified")


def _head_gradients(kd: DistributionAwareDistillationPlugin, **kwargs: Any) -> list[Tensor]:
    taken: list[Tensor] = []
    reweighting = GradientReweightingPlugin(kd, **kwargs)
    run(reweighting, kd, lambda strategy: taken.append(last_linear(strategy.model).weight.grad.clone()), lr=0.0)
    return taken


@pytest.mark.usefixtures("float64")
def test_overrides_reach_vanilla_distillation() -> None:
    vanilla = _head_gradients(DistributionAwareDistillationPlugin("vanilla"))
    torch.testing.assert_close(_head_gradients(DistributionAwareDistillationPlugin(entropy=1)), vanilla)
    torch.testing.assert_close(_head_gradients(DistributionAwareDistillationPlugin(class_weight=1)), vanilla)
    dakd = _head_gradients(DistributionAwareDistillationPlugin())
    assert not torch.allclose(dakd[-1], vanilla[-1])
    assert not torch.allclose(_head_gradients(DistributionAwareDistillationPlugin(entropy=0))[-1], dakd[-1])


@pytest.mark.usefixtures("float64")
def test_distillation_weight_cancels_in_the_head_unless_beta_is_fixed() -> None:
    torch.testing.assert_close(
        _head_gradients(DistributionAwareDistillationPlugin(weight=0.7)),
        _head_gradients(DistributionAwareDistillationPlugin(weight=3.0)),
    )
    fixed = [_head_gradients(DistributionAwareDistillationPlugin(weight=w), balance=1.0)[-1] for w in (0.7, 3.0)]
    assert not torch.allclose(*fixed)


@pytest.mark.usefixtures("float64")
def test_reweighted_distillation_changes_direction_but_not_size() -> None:
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd, reweight_distillation=True)
    seen_old = []

    def check(strategy: Any) -> None:
        old = kd.counts.seen.num_old
        if not old:
            return
        ids = kd.counts.seen.class_ids
        (w_ce, _), of_kd, _ = split_gradients(strategy, kd, strategy._criterion)
        a = reweighting.row_factors
        scaled_ce, scaled_kd = a[:, None] * w_ce[ids], a[:old, None] * of_kd[0][ids[:old]]
        expected = scaled_ce.clone()
        expected[:old] += scaled_ce.norm() / scaled_kd.norm() * scaled_kd
        torch.testing.assert_close(last_linear(strategy.model).weight.grad[ids], expected, rtol=1e-9, atol=1e-12)
        seen_old.append(old)

    run(reweighting, kd, check)
    assert seen_old


def test_student_equal_to_teacher_drops_the_distillation_row() -> None:
    """Without batch norm and with frozen weights the distillation gradient is rounding noise, in float32 too."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    without = GradientReweightingPlugin()
    gradients: dict[str, list[Tensor]] = {"with": [], "without": []}
    betas = []

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 7))

    def collect(name: str) -> Callable[[Any], None]:
        def check(strategy: Any) -> None:
            gradients[name].append(last_linear(strategy.model).weight.grad.clone())
            if name == "with" and kd.counts.seen.num_old:
                betas.append(reweighting.beta.item())

        return check

    for name, plugin, distillation in (("with", reweighting, kd), ("without", without, None)):
        torch.manual_seed(1)
        run(plugin, distillation, collect(name), lr=0.0, model=model())
    assert betas and set(betas) == {0.0}
    torch.testing.assert_close(gradients["with"], gradients["without"])


@pytest.mark.usefixtures("float64")
def test_nothing_lost_and_one_old_class() -> None:
    """The released code divides by zero in both cases; here they are vanilla distillation, also with R fixed at 0."""
    for counts, tasks, memory in (({0: 5, 1: 4, 2: 9}, [[1, 2], [0]], 20), ({0: 30, 1: 20, 2: 9}, [[1], [0, 2]], 6)):
        results = []
        for kind, entropy in (("dakd", None), ("vanilla", None), ("dakd", 0.0)):
            kd = DistributionAwareDistillationPlugin(kind, entropy=entropy)
            taken: list[Tensor] = []
            check = Each(lambda s, taken=taken: taken.append(last_linear(s.model).weight.grad.clone()))
            torch.manual_seed(5)
            plugins = [FirstImages(memory), kd, GradientReweightingPlugin(kd), check]
            strategy = template_of(perceptron(3), BalancedSoftmax(), plugins, train_mb_size=10)
            for experience in benchmark_of(counts, tasks).train_stream:
                strategy.train(experience)
            assert kd.last_loss is not None and torch.isfinite(kd.last_loss)
            results.append(taken)
        torch.testing.assert_close(results[0], results[1])
        torch.testing.assert_close(results[2], results[1])


@pytest.mark.usefixtures("float64")
def test_feature_distillation_reaches_the_backbone_only() -> None:
    kd = DistributionAwareDistillationPlugin("feature")
    reweighting = GradientReweightingPlugin(kd)
    terms = []

    def check(strategy: Any) -> None:
        if not kd.counts.seen.num_old:
            return
        assert kd.old_logit_gradient() is None and kd.last_loss is not None
        terms.append(kd.last_loss.item())
        a, ids = reweighting.row_factors, kd.counts.seen.class_ids
        model = strategy.model
        features = model[:3](strategy.mb_x)
        ce = strategy._criterion(model[3](features), strategy.mb_y)
        (w_ce,) = torch.autograd.grad(ce, model[3].weight, retain_graph=True)
        torch.testing.assert_close(model[3].weight.grad[ids], a[:, None] * w_ce[ids])
        feature_loss = losses.less_forget_loss(features, kd.teacher.features(strategy.mb_x))
        (backbone,) = torch.autograd.grad(ce + kd.kd_ratio * feature_loss, model[0].weight)
        torch.testing.assert_close(model[0].weight.grad, backbone)

    run(reweighting, kd, check)
    assert terms and all(term > 0 for term in terms)


def test_kind_none_adds_nothing() -> None:
    kd = DistributionAwareDistillationPlugin("none")
    run(GradientReweightingPlugin(kd), kd, lambda strategy: None)
    assert kd.teacher.model is None and kd.last_loss is None and kd.counts.seen.num_old == 3
