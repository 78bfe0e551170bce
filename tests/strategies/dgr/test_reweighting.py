"""GR and DGR on stock Avalanche templates, against plain autograd."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from avalanche.training.templates import SupervisedTemplate
from gradient_world import (
    COUNTS,
    SHUFFLED,
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
from strategies.dgr.ratios import decoupled_ratios
from strategies.dgr.reweighting import GradientReweightingPlugin
from strategies.training.criteria import BalancedSoftmax
from strategies.training.teacher import last_linear

pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified")


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.usefixtures("float64")
def test_head_gradients_on_a_stock_strategy_equal_autograd(growing: bool) -> None:
    """Naive on an nc_benchmark with shuffled class ids, momentum and moving weights; formulas written out by hand."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd, max_grad_norm=None)
    criterion = BalancedSoftmax()
    phi = torch.zeros(0)
    checked = []

    def check(strategy: Any) -> None:
        nonlocal phi
        ids, old = kd.counts.seen.class_ids, kd.counts.seen.num_old
        (w_ce, b_ce), of_kd, backbone = split_gradients(strategy, kd, criterion)
        if reweighting.steps == 1:
            phi = torch.zeros(len(ids))
        phi = phi + torch.stack([w_ce[c].norm() for c in ids])
        a = torch.empty(len(ids))
        groups = [slice(0, old), slice(old, None)] if old else [slice(None)]
        for group in groups:
            a[group] = phi[group].min() / phi[group]
        if old:
            gamma = math.exp(-reweighting.counts.num_seen_images / sum(COUNTS[c] for c in ids))
            rho = phi[old:].mean() / phi[:old].mean()
            a[:old] *= min(1.0, rho.item())
            a[old:] *= min(1.0, rho.item() * gamma)
        w = torch.stack([a[j] * w_ce[c] for j, c in enumerate(ids)])
        b = torch.stack([a[j] * b_ce[c] for j, c in enumerate(ids)])
        if of_kd is not None:
            beta = w.norm() / of_kd[0][ids].norm()
            w, b = w + beta * of_kd[0][ids], b + beta * of_kd[1][ids]
        head = last_linear(strategy.model)
        torch.testing.assert_close(head.weight.grad[ids], w, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(head.bias.grad[ids], b, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(strategy.model[0].weight.grad, backbone, rtol=1e-9, atol=1e-12)
        checked.append(old)

    model = perceptron(growing=growing)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4),
        criterion=criterion,
        plugins=[FirstImages(6), kd, reweighting, Each(check)],
        train_mb_size=17,
        train_epochs=2,
        evaluator=EvaluationPlugin(),
    )
    benchmark = benchmark_of(COUNTS, SHUFFLED)
    for experience in benchmark.train_stream:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
    assert sorted(set(checked)) == [0, 3, 5] and len(checked) > 12


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["dakd", "vanilla"])
def test_without_reweighting_it_is_plain_training(kind: str) -> None:
    """A = 1, no offset, beta = 1: the gradients of cross-entropy plus distillation, on every row of a wide head."""
    kd = DistributionAwareDistillationPlugin(kind)
    reweighting = GradientReweightingPlugin(kd, groups="none", balance=1.0)
    criterion = nn.CrossEntropyLoss()
    compared = []

    def check(strategy: Any) -> None:
        of_ce, of_kd, _ = split_gradients(strategy, kd, criterion)
        head = last_linear(strategy.model)
        for grad, ce, distilled in zip((head.weight.grad, head.bias.grad), of_ce, of_kd or (0, 0), strict=True):
            torch.testing.assert_close(grad, ce + distilled, rtol=1e-9, atol=1e-12)
        compared.append(of_kd is not None)

    strategy = template_of(perceptron(9), criterion, [FirstImages(6), kd, reweighting, Each(check)])
    for experience in benchmark_of(COUNTS, SHUFFLED).train_stream:
        strategy.train(experience)
    assert True in compared and False in compared


@pytest.mark.usefixtures("float64")
def test_first_step_gives_all_rows_of_a_group_one_norm() -> None:
    reweighting = GradientReweightingPlugin()  # no distillation: the head gradient is its cross-entropy part
    spreads = []

    def check(strategy: Any) -> None:
        if reweighting.steps == 1:
            seen = reweighting.counts.seen
            norms = last_linear(strategy.model).weight.grad[seen.class_ids].norm(dim=1)
            groups = [norms[: seen.num_old], norms[seen.num_old :]] if seen.num_old else [norms]
            spreads.extend((group.max() / group.min()).item() for group in groups)

    run(reweighting, None, check)
    assert spreads == pytest.approx([1, 1, 1], abs=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("groups", "same"), [("unified", 1), ("intra", 2)])
def test_other_groupings_differ_from_decoupled_after_the_first_experience(groups: str, same: int) -> None:
    reweighting = GradientReweightingPlugin(groups=groups)

    def check(strategy: Any) -> None:
        a, phi, old = reweighting.row_factors, reweighting.phi, reweighting.counts.seen.num_old
        decoupled = decoupled_ratios(phi, old, reweighting.gamma)
        assert torch.equal(a, decoupled) == (old == 0)
        if old:
            assert reweighting.r_old == reweighting.r_new == 1
            assert (a == 1).sum() == same  # one minimum per group

    run(reweighting, None, check)


@pytest.mark.usefixtures("float64")
def test_no_attenuation_makes_both_group_ratios_equal() -> None:
    reweighting = GradientReweightingPlugin(attenuation=0)
    run(reweighting, None, lambda strategy: None)
    assert reweighting.gamma == 1 and reweighting.r_old == reweighting.r_new
    assert reweighting.counts.seen.num_old == 3
    by_classes = GradientReweightingPlugin(attenuation_counts="classes")
    run(by_classes, None, lambda strategy: None)
    assert by_classes.gamma == pytest.approx(math.exp(-3 / 5))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("limit", [None, 1e-3])
def test_the_backbone_gradient_is_untouched_and_clipping_works(limit: float | None) -> None:
    """No A, r or beta reaches the backbone: its gradient is that of the plain loss; clipping scales all gradients."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd, max_grad_norm=limit)
    seen_old = set()

    def check(strategy: Any) -> None:
        _, _, plain = split_gradients(strategy, kd, strategy._criterion)
        gradient = strategy.model[0].weight.grad
        total = torch.cat([p.grad.flatten() for p in strategy.model.parameters()]).norm()
        if limit is None:
            torch.testing.assert_close(gradient, plain, rtol=1e-9, atol=1e-12)
        else:
            assert total.item() == pytest.approx(limit, rel=1e-2)
            torch.testing.assert_close(gradient / gradient.norm(), plain / plain.norm(), rtol=1e-9, atol=1e-9)
        assert (reweighting.row_factors < 1).any()
        seen_old.add(kd.counts.seen.num_old)

    run(reweighting, kd, check)
    assert seen_old == {0, 3}


def test_one_backward_pass_and_the_teacher_is_frozen_before_the_head_grows() -> None:
    kd = DistributionAwareDistillationPlugin()
    calls = []
    widths = []

    class Counting(SupervisedTemplate):
        def backward(self) -> None:
            calls.append(self.retain_graph)
            super().backward()

    def check(strategy: Any) -> None:
        if kd.teacher.model is not None:
            assert not kd.teacher.model.training and not any(p.requires_grad for p in kd.teacher.model.parameters())
            widths.append((last_linear(kd.teacher.model).out_features, last_linear(strategy.model).out_features))

    model = nn.Sequential(nn.Linear(8, 4), IncrementalClassifier(4, 1))
    plugins = [FirstImages(5), kd, GradientReweightingPlugin(kd), Each(check)]
    strategy = Counting(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=BalancedSoftmax(),
        plugins=plugins,
        train_mb_size=17,
        evaluator=EvaluationPlugin(),
    )
    steps = []
    plugins[-1].function = lambda s, inner=check: (inner(s), steps.append(1))
    for experience in benchmark_of({0: 9, 1: 9, 2: 9}, [[0, 1], [2]]).train_stream:
        strategy.train(experience)
    assert len(calls) == len(steps) > 0 and not any(calls)
    assert set(widths) == {(2, 3)}


def test_a_classifier_that_is_not_the_last_linear_layer_is_told() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 7)
            self.projector = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.projector(x))

    with pytest.raises(ValueError, match="find_head"):
        run(GradientReweightingPlugin(), None, lambda strategy: None, model=Odd())
    run(GradientReweightingPlugin(find_head=lambda model: model.head), None, lambda strategy: None, model=Odd())
