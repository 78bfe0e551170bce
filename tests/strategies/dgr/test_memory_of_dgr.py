"""Gradient reweighting counts the images that are there: no memory, Avalanche's, a fixed total."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from avalanche.training.plugins import ReplayPlugin
from gradient_world import (
    COUNTS,
    SHUFFLED,
    Each,
    batches,
    benchmark_of,
    perceptron,
    run,
    template_of,
)
from torch import nn

from strategies.dgr.distillation import DistributionAwareDistillationPlugin
from strategies.dgr.reweighting import GradientReweightingPlugin
from strategies.networks.heads import LinearHead
from strategies.networks.incremental import IncrementalNetwork
from strategies.training import losses
from strategies.training.criteria import BalancedSoftmax, SeenCrossEntropy
from strategies.training.learner import IncrementalLearner, Optimisation
from strategies.training.memory import ExemplarMemoryPlugin
from strategies.training.recipe import Parts

pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("offset", [True, False])
def test_no_memory_at_all_is_finite(offset: bool) -> None:
    """Old classes have no image: they are left out of offset, minimum and means and keep A = 1."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)

    def check(strategy: Any) -> None:
        old = reweighting.counts.seen.num_old
        assert all(torch.isfinite(p.grad).all() for p in strategy.model.parameters())
        assert torch.isfinite(strategy.loss).all()
        assert (reweighting.row_factors[:old] == 1).all() and reweighting.r_new == 1
        if old:
            assert ((reweighting.phi[:old] == 0).all()) == offset

    run(reweighting, kd, check, memory=0, criterion=BalancedSoftmax() if offset else SeenCrossEntropy())
    assert reweighting.counts.available[:3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("replay_first", [True, False])
def test_avalanche_replay_plugin_is_counted(replay_first: bool) -> None:
    """Its buffer is in the data loader, not in adapted_dataset; in either order of plugins the loss stays finite."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    criterion = BalancedSoftmax()
    replay = ReplayPlugin(mem_size=30)
    losses_seen = []
    plugins = [replay, kd, reweighting] if replay_first else [kd, reweighting, replay]
    plugins.append(Each(lambda strategy: losses_seen.append(strategy.loss.item())))
    strategy = template_of(perceptron(), criterion, plugins)
    for experience in list(benchmark_of(COUNTS, SHUFFLED).train_stream)[:2]:
        strategy.train(experience)
    held = reweighting.counts.available[:3].tolist()
    assert sum(held) == 30 and criterion.counts.available[:3].tolist() == held
    assert np.isfinite(losses_seen).all()


def test_the_quota_of_a_fixed_total_memory_reaches_prior_and_lost_counts() -> None:
    """30 exemplars in all: 10 per class, then 6 (a class of 7 first keeps all); pi and l follow what is held."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    criterion = BalancedSoftmax()
    available = [[40, 7, 25], [10, 7, 10, 12, 30], [6, 6, 6, 6, 6, 5, 18]]
    lost = [[], [30, 0, 15], [34, 1, 19, 6, 24]]
    steps = set()

    def check(strategy: Any) -> None:
        t = strategy.experience.current_experience
        expected = losses.balanced_softmax_loss(strategy.mb_output, strategy.mb_y, available[t])
        torch.testing.assert_close(criterion(strategy.mb_output, strategy.mb_y), expected)
        assert reweighting.counts.available.tolist() == available[t]
        assert kd.counts.lost.tolist() == reweighting.counts.lost.tolist() == lost[t]
        if t:
            weights = torch.tensor(lost[t], dtype=torch.float64)
            assert kd.diagnostics()["class_weights"] == pytest.approx((weights / weights.norm()).tolist())
        steps.add(t)

    memory = ExemplarMemoryPlugin(30, "total", "random")
    parts = Parts(head=LinearHead(16), criterion=criterion, plugins=[memory, kd, reweighting, Each(check)])
    learner = IncrementalLearner(
        network=IncrementalNetwork(nn.Sequential(nn.Linear(8, 16), nn.ReLU()), parts.head),
        parts=parts,
        optimisation=Optimisation(epochs=1, batch_size=17, lr=0.1),
        loader=batches,
        precision="fp32",
    )
    for experience in benchmark_of(COUNTS, [[0, 1, 2], [3, 4], [5, 6]]).train_stream:
        learner.train(experience)
    assert steps == {0, 1, 2}
