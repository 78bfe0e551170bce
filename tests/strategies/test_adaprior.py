"""AdaPrior: its limits, and the moving average."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from avalanche.training.plugins import SupervisedPlugin

from benchmark.contract import workbench
from benchmark.contract.probes import differences
from benchmark.contract.workbench import FROM_SCRATCH, Workbench
from benchmark.streams import long_tailed_benchmark
from strategies.adaprior import AdaptivePrior, LUCIRAdaPrior, PriorAdjustedHead
from strategies.balanced_softmax import LUCIRBalancedSoftmax
from strategies.lucir import LUCIR
from strategies.training.recipe import MemoryPolicy


def test_without_update_and_adjustment_it_is_balanced_softmax() -> None:
    """g = 0, a = 0: bit for bit, over the whole stream."""
    bare = Workbench(LUCIRAdaPrior(update_rate=0.0, adjustment=0.0)).train(epochs=3)
    balanced = Workbench(LUCIRBalancedSoftmax()).train(epochs=3)
    assert differences(bare.weights, balanced.weights) == ["head.log_prior"]  # kept, but not used
    for one, other in zip(bare.predictions, balanced.predictions, strict=True):
        assert not differences(one, other)


def test_with_a_uniform_prior_as_well_it_is_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    def balanced(arrays: Any, sizes: Any = FROM_SCRATCH) -> Any:
        return long_tailed_benchmark(arrays, protocol=list(sizes), profile="conventional", max_count=6, order="ordered")

    monkeypatch.setitem(workbench.MATERIAL, "single", (workbench.patterns, balanced))
    everything = MemoryPolicy(6, "per_class", "random")
    recipes = (LUCIRAdaPrior(update_rate=0.0, adjustment=0.0), LUCIR())
    ends = [Workbench(recipe).train(memory=everything, epochs=2) for recipe in recipes]
    assert ends[0].losses == pytest.approx(ends[1].losses, rel=1e-4)
    for name, value in ends[1].weights.items():
        assert torch.allclose(ends[0].weights[name], value, rtol=1e-3, atol=1e-4), name


def test_the_prior_moves_towards_the_mean_prediction_and_the_loss_uses_it() -> None:
    criterion = AdaptivePrior(update_rate=0.25)
    experience = SimpleNamespace(classes_in_this_experience=[0, 1, 2], current_experience=0)
    criterion.seen.update(experience)
    prior = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    criterion._log_prior = prior.log()
    logits = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    criterion.after_forward(SimpleNamespace(mb_output=logits))
    moved = 0.75 * prior + 0.25 * logits.detach().softmax(dim=1).mean(dim=0)
    labels = torch.randint(3, (8,))
    loss = criterion(logits, labels)
    assert torch.allclose(loss, F.cross_entropy(logits + moved.log() - torch.tensor(1 / 3).log(), labels))
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = ((logits + moved.log()).softmax(dim=1) - F.one_hot(labels, 3)) / 8
    assert torch.allclose(gradient, expected)  # none through the prior


def test_it_starts_at_the_frequencies_and_evaluation_does_not_move_it() -> None:
    bench = Workbench(LUCIRAdaPrior())
    trained = bench.start(epochs=2)
    criterion: Any = trained.learner._criterion
    starts: list[list[float]] = []

    class Look(SupervisedPlugin):
        def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            if strategy.epoch == 0:
                starts.append(criterion._log_prior.exp().tolist())

    trained.learner.plugins.append(Look())
    for t in range(3):
        bench.go_on(trained, [t])
        before = criterion._log_prior.clone()
        trained.learner.eval(trained.stream.test_stream)
        assert torch.equal(criterion._log_prior, before)
        assert before.exp().sum().item() == pytest.approx(1.0)
        assert torch.allclose(trained.learner.model.head.log_prior.double(), before, atol=1e-6)
    counts = [3, 3, 3, 4, 1, 3]  # three exemplars of each old class, the second experience's images
    assert starts[1] == pytest.approx([count / sum(counts) for count in counts])


def test_a_class_without_images_is_adjusted_like_the_rarest() -> None:
    """With g = 0 its prior stays 0: minus infinity times a would predict it always."""
    criterion = AdaptivePrior(update_rate=0.0)
    criterion.seen.update(SimpleNamespace(classes_in_this_experience=[0, 1, 2], current_experience=0))
    criterion._log_prior = torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64).log()
    head = PriorAdjustedHead(5)
    head.log_prior = torch.zeros(3)
    criterion.after_training_exp(SimpleNamespace(model=SimpleNamespace(head=head)))
    assert torch.allclose(head.log_prior, torch.tensor([0.75, 0.25, 0.25]).log())


def test_predictions_are_adjusted_and_training_logits_and_teachers_are_not() -> None:
    head = PriorAdjustedHead(4, adjustment=0.5)
    head.adaptation(SimpleNamespace(classes_in_this_experience=[0, 1, 2]))
    head.log_prior.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    features = torch.randn(6, 4)
    plain = head(features)
    head.eval()
    assert torch.allclose(head(features), plain - 0.5 * torch.tensor([0.5, 0.3, 0.2]).log())
    head.become_teacher()
    assert torch.equal(head(features), plain)
