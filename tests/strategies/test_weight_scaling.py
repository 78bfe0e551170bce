"""Learnable weight scaling: the worked number, the sampler, what stage 2 trains, who sees the scales."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from benchmark.contract.probes import copied, differences
from benchmark.contract.workbench import COUNTS, FROM_SCRATCH, MEMORY, Workbench
from strategies import registry
from strategies.lucir import LUCIR
from strategies.networks.heads import CosineHead
from strategies.training.distillation import TeacherPlugin
from strategies.training.stages import Stage, StageRunner
from strategies.training.teacher import Teacher
from strategies.weight_scaling import (
    LearnableScales,
    LUCIRWeightScaling,
    PODNetWeightScaling,
    ScaledCosineHead,
    class_aware_order,
)

NAMES = [name for name in registry.names() if name.endswith("_lws")]


class Look(SupervisedPlugin):
    """Calls functions at hooks, with the strategy."""

    def __init__(self, **hooks: Any) -> None:
        super().__init__()
        for name, function in hooks.items():
            setattr(self, name, lambda strategy, function=function, **kwargs: function(strategy))


def arrive(head: Any, *experiences: list[int]) -> Any:
    for classes in experiences:
        head.adaptation(SimpleNamespace(classes_in_this_experience=classes))
    return head


def runner_of(learner: Any) -> StageRunner:
    return next(plugin for plugin in learner.plugins if isinstance(plugin, StageRunner))


# --- the scales ------------------------------------------------------------------------------------------------------


def test_weight_scaling_worked_example() -> None:
    """methods, 6.11."""
    head = arrive(ScaledCosineHead(4), [0, 1], [2, 3])
    with torch.no_grad():
        head.scales.copy_(torch.tensor([1.0, 1.0, 2.0, 4.0]))
    scaled = head.double().scaled(torch.tensor([[2.0, 1.0, 0.5, 0.25]], dtype=torch.float64))
    assert scaled.flatten().tolist() == [2, 1, 1, 1]
    assert F.cross_entropy(scaled, torch.tensor([3])).item() == pytest.approx(1.743668, abs=1e-6)


def test_scales_act_in_evaluation_and_neither_in_training_nor_in_a_teacher() -> None:
    plain, head = CosineHead(3), ScaledCosineHead(3)
    for one in (plain, head):
        arrive(one, [0, 1])
    with torch.no_grad():
        head.new.copy_(plain.new)
        head.scales.copy_(torch.tensor([0.5, 3.0]))
    features = torch.randn(4, 3)
    logits = plain(features)
    assert torch.equal(head(features), logits)
    teacher = Teacher()
    model: Any = torch.nn.Module()
    model.head = head
    teacher.snapshot(model)
    assert torch.equal(head.eval()(features), torch.tensor([0.5, 3.0]) * logits)
    copy: Any = teacher.model
    assert not copy.head.training and torch.equal(copy.head(features), logits)
    assert head.scales.tolist() == [0.5, 3.0]  # the student's stay


@pytest.mark.parametrize("experiences", [([0, 1, 2], [3, 4]), ([7, 2], [0, 5])])
def test_a_class_arrives_with_scale_one_and_keeps_what_it_learned(experiences: tuple[list[int], list[int]]) -> None:
    first, second = experiences
    head = arrive(ScaledCosineHead(3), first)
    with torch.no_grad():
        head.scales.mul_(0.3)  # weight decay reaches classes to come as well
    arrive(head, second, second)
    scales = head.scales.tolist()
    assert [scales[c] for c in first] == pytest.approx([0.3] * len(first)) and [scales[c] for c in second] == [1.0] * 2
    assert not head.scales.requires_grad
    arrive(head.eval(), [8])
    assert head.scales.tolist() == scales
    fresh = arrive(ScaledCosineHead(3), first, second)
    fresh.load_state_dict(head.state_dict())
    assert fresh.scales.tolist() == scales
    fresh.reset()
    assert not len(fresh.scales)


# --- the sampler -----------------------------------------------------------------------------------------------------


def test_classes_take_turns_of_four_consecutive_images() -> None:
    targets = np.repeat([3, 5, 8], [50, 9, 1])
    order = class_aware_order(targets, torch.Generator().manual_seed(0))
    visited = targets[order]
    assert len(order) == 60
    turns = visited.reshape(-1, 4)
    assert (turns == turns[:, :1]).all()
    rounds = turns[:, 0].reshape(-1, 3)
    assert all(sorted(turn) == [3, 5, 8] for turn in rounds.tolist())
    assert len({tuple(turn) for turn in rounds.tolist()}) > 1  # the order of classes changes
    of_second = [i for i in order if targets[i] == 5]
    assert len(of_second) == 20 and all(len(set(of_second[k : k + 9])) == 9 for k in (0, 9))  # all before any again
    assert order.count(59) == 20 and len({i for i in order if i < 50}) == 20


@pytest.mark.parametrize("counts", [(1,), (3,), (1, 1), (2, 5, 1, 30), (1,) * 7])
def test_an_epoch_has_as_many_draws_as_images(counts: tuple[int, ...]) -> None:
    targets = np.repeat(np.arange(len(counts)), counts)
    order = class_aware_order(targets, torch.Generator().manual_seed(1))
    assert len(order) == len(targets) and set(order) <= set(range(len(targets)))
    assert order == class_aware_order(targets, torch.Generator().manual_seed(1))


# --- stage 2 ---------------------------------------------------------------------------------------------------------

TRAINED = {
    "lucir_lws": {"head.new", "head.eta", "head.scales"},
    "podnet_lws": {"head.new", "head.eta", "head.scales"},
    "eeil_lws": {"head.new", "head.scales"},
}


@pytest.mark.parametrize("name", NAMES)
def test_stage_two_trains_the_newest_head_and_all_scales(name: str) -> None:
    bench = Workbench(registry.get(name)())
    trained = bench.start(epochs=1)
    runner = runner_of(trained.learner)
    *others, stage = runner.stages
    assert isinstance(stage, Stage) and (stage.name, stage.epochs, stage.lr) == ("weight_scaling", 30, 0.1)
    befores: list[dict[str, Tensor]] = []
    sizes: list[int] = []

    def run(strategy: Any, generator: torch.Generator) -> int:
        befores.append(copied(strategy.model.state_dict()))
        sizes.append(len(stage.data(strategy)))  # type: ignore[arg-type]
        return stage.run(strategy, generator)

    runner.stages = [*others, SimpleNamespace(name="looked at", run=run)]
    for t in range(3):
        bench.go_on(trained, [t])
        changed = differences(befores[-1], trained.weights)
        assert set(changed) == TRAINED[name]
        scales = trained.weights["head.scales"]
        assert (scales != befores[-1]["head.scales"]).all()  # those of old classes as well
    new = [sum(COUNTS[:3]), sum(COUNTS[3:6]), sum(COUNTS[6:])]
    old = [sum(min(n, MEMORY.budget) for n in COUNTS[: 3 * t]) for t in range(3)]
    assert sizes == [n + o for n, o in zip(new, old, strict=True)]  # new data and previous exemplars


@pytest.mark.parametrize("name", NAMES)
def test_rates_of_head_and_scales_and_the_loss(name: str) -> None:
    bench = Workbench(registry.get(name)(lws_lr=0.2))
    trained = bench.start(epochs=1)
    bench.go_on(trained, [0])
    learner, stage = trained.learner, runner_of(trained.learner).stages[-1]
    assert isinstance(stage, Stage)
    newest, scales = stage.parameters(learner)
    assert isinstance(scales, dict) and scales["lr"] == pytest.approx(0.02) and isinstance(newest, dict)
    assert scales["params"] == [learner.model.head.scales] and "lr" not in newest and stage.lr == 0.2
    factors = [stage.schedule.factor(epoch, 30) for epoch in range(30)]
    assert factors == pytest.approx([0.5 * (1 + math.cos(math.pi * epoch / 30)) for epoch in range(30)])
    head = learner.model.head.train()
    features, targets = torch.randn(5, head.num_features), torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():
        head.scales.copy_(torch.tensor([0.5, 1.0, 2.0]))
    expected = F.cross_entropy(torch.tensor([0.5, 1.0, 2.0]) * head(features), targets)
    assert torch.allclose(stage.loss(learner, features, targets), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_teacher_has_the_head_of_stage_two_but_not_its_scales(name: str) -> None:
    bench = Workbench(registry.get(name)())
    trained = bench.start(epochs=1)
    plugin = next(p for p in trained.learner.plugins if isinstance(p, TeacherPlugin))
    ends: list[dict[str, Tensor]] = [{}]
    looked = []

    def look(strategy: Any) -> None:
        if strategy.experience.current_experience and strategy.epoch == 0:
            state = plugin.teacher.model.state_dict()  # type: ignore[union-attr]
            assert differences(ends[-1], state) == ["head.scales"]
            assert (state["head.scales"] == 1).all() and (ends[-1]["head.scales"] != 1).any()
            x = strategy.experience.dataset[0][0][None]
            teacher: Any = plugin.teacher.model
            features, logits = plugin.teacher.features_and_logits(x)
            assert torch.equal(logits, teacher.head.train()(features))
            teacher.head.eval()
            looked.append(strategy.experience.current_experience)

    trained.learner.plugins.append(Look(before_training_epoch=look))
    for t in range(3):
        bench.go_on(trained, [t])
        ends.append(copied(trained.weights))
    assert looked == [1, 2]


@pytest.mark.parametrize("name", NAMES)
def test_without_stage_two_nothing_is_scaled(name: str) -> None:
    trained = Workbench(registry.get(name)(lws_epochs=0)).train(epochs=1)
    assert (trained.weights["head.scales"] == 1).all()


def test_without_stage_two_lucir_lws_is_lucir() -> None:
    plain, bare = (Workbench(recipe).train(epochs=2) for recipe in (LUCIR(), LUCIRWeightScaling(lws_epochs=0)))
    assert differences(plain.weights, bare.weights) == ["head.scales"]
    for first, second in zip(plain.predictions, bare.predictions, strict=True):
        assert not differences(first, second)


def test_scaling_reaches_the_head_s_predictions_and_not_the_means() -> None:
    trained = Workbench(LUCIRWeightScaling()).train(epochs=2)
    assert list(trained.predictions[-1]) == ["head", "nme"]
    head = trained.learner.model.head
    assert isinstance(head, LearnableScales)
    before = trained.predictions[-1]
    with torch.no_grad():
        head.scales.mul_(2.0)
    tests = [experience.dataset for experience in trained.stream.test_stream]
    from strategies.training.memory import concatenate

    after = trained.learner.predict(concatenate(tests))
    assert torch.allclose(after["head"], 2 * before["head"]) and torch.equal(after["nme"], before["nme"])
    assert len(FROM_SCRATCH) == len(tests)


def test_podnet_s_finetuning_falls_away() -> None:
    bench = Workbench(PODNetWeightScaling())
    assert [stage.name for stage in bench.parts()[1].stages] == ["weight_scaling"]
