"""GVAlign: mixup beside the plain batch, virtual features with the first experience's covariance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from avalanche.training.plugins import SupervisedPlugin

from benchmark.contract.probes import copied, differences
from benchmark.contract.workbench import Workbench
from strategies.gvalign import GaussianPlugin, LUCIRGVAlign, MixupPlugin, covariance, root, virtual_loss
from strategies.lucir import LUCIR
from strategies.training.features import extract_features


def test_covariance_is_numpys_and_its_root_needs_no_full_rank() -> None:
    features = torch.randn(5, 8)  # fewer images than dimensions
    found = covariance(features)
    np.testing.assert_allclose(found.numpy(), np.cov(features.double().numpy().T), atol=1e-12)
    factor = root(found)
    assert torch.allclose(factor @ factor.T, found, atol=1e-12)
    assert not covariance(features[:1]).any() and not root(covariance(features[:1])).any()


def test_virtual_features_have_the_means_of_their_classes_and_the_first_covariance() -> None:
    bench = Workbench(LUCIRGVAlign(mixup=False, stage_steps=1))
    trained = bench.start(epochs=1)
    learner = trained.learner
    plugin = next(p for p in learner.plugins if isinstance(p, GaussianPlugin))
    bench.go_on(trained, [0])
    first = plugin.covariance.clone()
    features = F.normalize(extract_features(learner, trained.stream.train_stream[0].dataset).features, dim=1)
    np.testing.assert_allclose(
        first.numpy(), np.cov(features[:20].double().numpy().T), atol=1e-7
    )  # 20 images: the most
    bench.go_on(trained, [1, 2])
    assert torch.equal(plugin.covariance, first)
    learner.experience = trained.stream.train_stream[2]
    dataset = plugin.images(learner)
    assert len(dataset) == 16 + 9 + 5 + 3 + 3 + 3 + 3 + 1 + 3  # new images, three exemplars of each old class
    virtual = plugin.virtual(learner, dataset, 1, torch.Generator().manual_seed(0))
    assert virtual.labels.tolist() == list(range(9))
    extracted = extract_features(learner, dataset)
    features = F.normalize(extracted.features, dim=1)
    for label in range(9):
        assert torch.allclose(virtual.means[label], features[extracted.targets == label].mean(dim=0), atol=1e-6)
    drawn = torch.stack([next(iter(virtual))[0] for _ in range(4000)]) - virtual.means
    found = torch.einsum("nci,ncj->ij", drawn, drawn) / (4000 * 9)
    assert torch.allclose(found.double(), first, atol=0.05 * float(first.diagonal().max()))


def test_alignment_trains_the_whole_head_and_nothing_else() -> None:
    bench = Workbench(LUCIRGVAlign(mixup=False))
    trained = bench.start(epochs=1)
    stage: Any = trained.learner.parts.stages[0]
    assert (stage.epochs, stage.lr, stage.momentum) == (100, 0.1, trained.learner.optimisation.momentum)
    assert {stage.schedule.factor(step, 100) for step in range(100)} == {1.0}
    bench.go_on(trained, [0, 1])
    learner = trained.learner
    learner.experience = trained.stream.train_stream[1]
    before = copied(trained.weights)
    stage.run(learner, torch.Generator().manual_seed(3))
    assert set(differences(before, trained.weights)) == {"head.old", "head.new", "head.eta"}
    assert not learner.model.head.old.requires_grad  # the main training leaves old rows alone


def test_the_virtual_loss_is_cross_entropy_over_all_seen_classes() -> None:
    bench = Workbench(LUCIRGVAlign(mixup=False, stage_steps=1))
    trained = bench.train(experiences=2, epochs=1)
    features, labels = torch.randn(6, trained.learner.model.head.num_features), torch.arange(6)
    found = virtual_loss(trained.learner, features, labels)
    assert found.item() == pytest.approx(F.cross_entropy(trained.learner.model.head(features), labels).item())


def test_mixup_shows_the_other_losses_the_plain_half_alone() -> None:
    bench = Workbench(LUCIRGVAlign())
    trained = bench.start(epochs=1)
    mixup = next(p for p in trained.learner.plugins if isinstance(p, MixupPlugin))
    sizes: list[tuple[int, ...]] = []

    class Look(SupervisedPlugin):
        def after_forward(self, strategy: Any, **kwargs: Any) -> None:
            batch = len(strategy.mb_y)
            parts = (strategy.mb_x, strategy.mb_output, strategy.model.last_features, mixup._mixed)
            sizes.append(tuple(len(part) - batch for part in parts))

    trained.learner.plugins.append(Look())
    bench.go_on(trained, range(2))
    assert sizes and set(sizes) == {(0, 0, 0, 0)}


def test_mixup_adds_the_cross_entropy_of_a_mixed_batch() -> None:
    plugin = MixupPlugin()
    plugin.seen.update(SimpleNamespace(classes_in_this_experience=[0, 1, 2], current_experience=0))
    weight = torch.randn(3, 5, dtype=torch.float64)
    x, y = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 2])
    strategy: Any = SimpleNamespace(
        mbatch=[x, y], mb_x=x, mb_y=y, generator=torch.Generator().manual_seed(7), model=SimpleNamespace()
    )
    plugin.before_forward(strategy)
    strategy.model.last_features, strategy.mb_output = strategy.mbatch[0], strategy.mbatch[0] @ weight.T
    plugin.after_forward(strategy)
    assert torch.equal(strategy.mbatch[0], x) and torch.equal(strategy.mb_output, x @ weight.T)
    strategy.loss = torch.tensor(1.0, dtype=torch.float64)
    plugin.before_backward(strategy)
    again = torch.Generator().manual_seed(7)
    share, order = float(torch.rand((), generator=again)), torch.randperm(4, generator=again)
    mixed = (share * x + (1 - share) * x[order]) @ weight.T
    wanted = 1 + share * F.cross_entropy(mixed, y) + (1 - share) * F.cross_entropy(mixed, y[order])
    assert strategy.loss.item() == pytest.approx(wanted.item())


def test_without_mixup_and_alignment_it_is_lucir() -> None:
    bare = Workbench(LUCIRGVAlign(mixup=False, stage_lr=0.0)).train(epochs=2)
    plain = Workbench(LUCIR()).train(epochs=2)
    assert not differences(bare.weights, plain.weights)
    assert not differences(bare.predictions[-1], plain.predictions[-1])
