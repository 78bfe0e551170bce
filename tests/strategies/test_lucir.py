"""LUCIR's ladder, its class-balance finetuning, and adjustments of its logits by log counts."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from benchmark.contract.probes import copied, differences
from benchmark.contract.workbench import COUNTS, FROM_SCRATCH, MEMORY, Workbench, seen_tests
from strategies.logit_adjustment import LogCountAdjustment, LogPriorClassifier, LUCIRLogN, LUCIRPostHoc
from strategies.lucir import LUCIR, LessForgetPlugin
from strategies.lucir_ablations import (
    LUCIRBalanced,
    LUCIRConstant,
    LUCIRCosineNormalisation,
    LUCIRLessForget,
    ScoreMimicPlugin,
    score_mimic_loss,
)
from strategies.networks.heads import CosineHead
from strategies.training.criteria import BalancedSoftmax
from strategies.training.losses import margin_ranking_loss
from strategies.training.stages import Stage, StageRunner


class Look(SupervisedPlugin):
    """Calls functions at hooks, with the strategy."""

    def __init__(self, **hooks: Any) -> None:
        super().__init__()
        for name, function in hooks.items():
            setattr(self, name, lambda strategy, function=function, **kwargs: function(strategy))


def arrived(plugin: Any, *sizes: int) -> None:
    """Tell a plugin of experiences with that many classes."""
    for t, size in enumerate(sizes):
        start = sum(sizes[:t])
        classes = list(range(start, start + size))
        plugin.seen.update(SimpleNamespace(classes_in_this_experience=classes, current_experience=t))


# --- the ladder ------------------------------------------------------------------------------------------------------


def test_score_mimic_worked_example() -> None:
    """methods, 6.2: the mean squared difference 0.035, times two old classes."""
    loss = score_mimic_loss(torch.tensor([[0.5, 0.1], [0.2, 0.4]]), torch.tensor([[0.4, 0.3], [0.2, 0.1]]))
    assert loss.item() == pytest.approx(0.07)


def test_scores_are_mimicked_without_their_scale_and_with_the_teacher_s_features() -> None:
    heads = [CosineHead(4), CosineHead(4)]
    for t, classes in enumerate(([0, 1], [2, 3])):
        for head in heads[: 2 - t]:
            head.adaptation(SimpleNamespace(classes_in_this_experience=classes))
    student, teacher = heads
    features, teacher_features = torch.randn(5, 4), torch.randn(5, 4)
    plugin = ScoreMimicPlugin(weight=3.0, imprint=False)
    arrived(plugin, 2, 2)
    plugin.teacher.model = SimpleNamespace(head=teacher)  # type: ignore[assignment]
    plugin.teacher_outputs = lambda strategy: (teacher_features, None)  # type: ignore[method-assign, assignment, return-value]
    with torch.no_grad():
        student.eta.fill_(9.0)
        teacher.eta.fill_(2.0)
    strategy = SimpleNamespace(model=SimpleNamespace(head=student, last_features=features))
    own = F.cosine_similarity(features[:, None], student.old[None], dim=2)
    wanted = F.cosine_similarity(teacher_features[:, None], teacher.new[None], dim=2)
    expected = 1.0 + 3.0 * 2 * (own - wanted).square().mean()
    assert torch.allclose(plugin.combine(strategy, torch.tensor(1.0)), expected, atol=1e-6)


def test_the_rungs_differ_in_what_they_name() -> None:
    plain = LUCIR()
    assert LUCIRLessForget() != plain and LUCIRLessForget().margin is None and LUCIRLessForget().adaptive
    assert not LUCIRConstant().adaptive and LUCIRConstant().margin == plain.margin
    trained = {
        name: Workbench(recipe).train(epochs=2).weights
        for name, recipe in {
            "lucir_cn_lc": LUCIRLessForget(),
            "without margin": LUCIR(margin=None),
            "lucir_constant": LUCIRConstant(),
            "not adaptive": LUCIR(adaptive=False),
            "lucir_cn": LUCIRCosineNormalisation(),
        }.items()
    }
    assert not differences(trained["lucir_cn_lc"], trained["without margin"])
    assert not differences(trained["lucir_constant"], trained["not adaptive"])


def test_old_rows_are_trained_in_cn_and_frozen_above_it() -> None:
    moved: dict[str, set[bool]] = {}
    for recipe in (LUCIRCosineNormalisation(), LUCIRLessForget()):
        before: list[Tensor] = []
        found = moved.setdefault(recipe.name, set())

        def first(strategy: Any, before: list[Tensor] = before) -> None:
            if strategy.epoch == 0:
                before.append(strategy.model.head.old.detach().clone())

        def last(strategy: Any, before: list[Tensor] = before, found: set[bool] = found) -> None:
            if len(before[-1]):
                found.add(not torch.equal(before[-1], strategy.model.head.old))

        bench = Workbench(recipe)
        trained = bench.start(epochs=1)
        trained.learner.plugins.append(Look(before_training_epoch=first, after_training_epoch=last))
        bench.go_on(trained, range(3))
    assert moved == {"lucir_cn": {True}, "lucir_cn_lc": {False}}


# --- class-balance finetuning ----------------------------------------------------------------------------------------


def stage_of(learner: Any) -> Stage:
    runner = next(plugin for plugin in learner.plugins if isinstance(plugin, StageRunner))
    (stage,) = runner.stages
    assert isinstance(stage, Stage)
    return stage


def test_class_balance_finetuning_trains_old_and_new_rows_alone() -> None:
    bench = Workbench(LUCIRBalanced())
    trained = bench.start(epochs=1)
    stage = stage_of(trained.learner)
    assert (stage.epochs, stage.lr, stage.batch_size) == (20, 0.01, 10)
    assert [stage.schedule.factor(epoch, 20) for epoch in (0, 9, 10, 19)] == pytest.approx([1, 1, 0.1, 0.1])
    befores: list[dict[str, Tensor]] = []
    counts: list[list[int]] = []

    def run(strategy: Any, generator: torch.Generator) -> int:
        befores.append(copied(strategy.model.state_dict()))
        dataset = stage.data(strategy)
        counts.append([] if dataset is None else [list(map(int, dataset.targets)).count(c) for c in range(9)])
        return stage.run(strategy, generator)

    next(p for p in trained.learner.plugins if isinstance(p, StageRunner)).stages = [
        SimpleNamespace(name="looked at", run=run)
    ]
    changed = []
    for t in range(3):
        bench.go_on(trained, [t])
        changed.append(differences(befores[-1], trained.weights))
        assert trained.learner.model.head.old.requires_grad is False  # frozen again for the next experience
    assert changed == [[], ["head.old", "head.new"], ["head.old", "head.new"]]
    seen = [sum(FROM_SCRATCH[: t + 1]) for t in range(3)]
    balanced = [[min(MEMORY.budget, n) if c < s else 0 for c, n in enumerate(COUNTS)] for s in seen]
    assert counts == [[], *balanced[1:]]


@pytest.mark.parametrize("margin", [0.5, None])
def test_finetuning_has_lucir_s_losses(margin: float | None) -> None:
    bench = Workbench(LUCIRBalanced(margin=margin))
    trained = bench.start(epochs=1)
    bench.go_on(trained, range(2))
    learner, stage = trained.learner, stage_of(trained.learner)
    features, targets = torch.randn(6, learner.model.head.num_features), torch.tensor([0, 1, 2, 3, 4, 5])
    head = learner.model.head
    expected = F.cross_entropy(head(features), targets)
    if margin is not None:
        expected = expected + margin_ranking_loss(head.cosines(features), targets, 3, 2, margin)
    assert torch.allclose(stage.loss(learner, features, targets), expected)


def test_without_its_epochs_cbf_is_lucir() -> None:
    plain, bare = (Workbench(recipe).train(epochs=2) for recipe in (LUCIR(), LUCIRBalanced(cbf_epochs=0)))
    assert not differences(plain.weights, bare.weights)


# --- log counts ------------------------------------------------------------------------------------------------------


def test_log_n_takes_the_stream_s_counts_and_balanced_softmax_those_of_the_training_data() -> None:
    bench = Workbench(LUCIRLogN())
    trained = bench.start(epochs=1)
    losses: list[tuple[Tensor, Tensor]] = []

    def look(strategy: Any) -> None:
        seen = sum(FROM_SCRATCH[: strategy.experience.current_experience + 1])
        stream, batch = torch.tensor(COUNTS[:seen]), strategy.mb_output.detach().double()
        wanted = F.cross_entropy(batch + stream.double().log(), strategy.mb_y)
        assert torch.allclose(strategy._criterion(strategy.mb_output.detach(), strategy.mb_y).double(), wanted)
        available = stream.clone()
        available[: seen - 3] = available[: seen - 3].clamp(max=MEMORY.budget)
        losses.append((wanted, F.cross_entropy(batch + available.double().log(), strategy.mb_y)))

    trained.learner.plugins.append(Look(before_backward=look))
    bench.go_on(trained, range(3))
    same = [torch.allclose(*pair) for pair in losses]
    first = math.ceil(sum(COUNTS[:3]) / 10)
    assert all(same[:first]) and not any(same[first:])  # one computation until something was discarded
    assert issubclass(LogCountAdjustment, BalancedSoftmax)


def test_log_n_is_balanced_softmax_in_the_first_experience_only() -> None:
    from strategies.balanced_softmax import LUCIRBalancedSoftmax

    one, other = (Workbench(recipe).train(epochs=2) for recipe in (LUCIRLogN(), LUCIRBalancedSoftmax()))
    assert torch.equal(one.predictions[0]["head"], other.predictions[0]["head"])
    assert not torch.equal(one.predictions[1]["head"], other.predictions[1]["head"])


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0])
def test_posthoc_adjusts_lucir_s_logits_and_nothing_else(strength: float) -> None:
    plain, adjusted = (Workbench(recipe).train(epochs=2) for recipe in (LUCIR(), LUCIRPostHoc(strength=strength)))
    assert not differences(plain.weights, adjusted.weights)
    for t, predictions in enumerate(adjusted.predictions):
        assert list(predictions) == ["posthoc"]
        seen = sum(FROM_SCRATCH[: t + 1])
        counts = torch.tensor([n if c >= seen - 3 else min(n, MEMORY.budget) for c, n in enumerate(COUNTS[:seen])])
        assert torch.allclose(predictions["posthoc"], plain.predictions[t]["head"] - strength * counts.log())


def test_posthoc_on_a_foreign_stream_and_with_a_class_that_lost_all_images() -> None:
    part = LogPriorClassifier()
    for t, classes in enumerate(([4, 1], [0])):
        part.seen.update(SimpleNamespace(classes_in_this_experience=classes, current_experience=t))
    part.counts.available = torch.tensor([7, 0, 3])  # of classes 1, 4 and 0
    logits = torch.zeros(2, 5)
    expected = torch.tensor([-math.log(3), -math.log(7), 0.0, 0.0, 0.0])
    assert torch.allclose(part.scores(torch.empty(2, 0), logits), expected.expand(2, 5))


def test_posthoc_counts_survive_saving() -> None:
    bench = Workbench(LUCIRPostHoc())
    trained = bench.train(epochs=1, experiences=2)
    part = next(p for p in trained.learner.plugins if isinstance(p, LogPriorClassifier))
    fresh = LogPriorClassifier()
    fresh.load_state_dict(part.state_dict())
    features, logits = torch.randn(3, 4), torch.randn(3, 6)
    assert torch.equal(fresh.scores(features, logits), part.scores(features, logits))


def test_any_host_takes_the_posthoc_part() -> None:
    from strategies.replay import Replay

    bench = Workbench(Replay())
    backbone, parts = bench.parts()
    part = LogPriorClassifier()
    parts.plugins.append(part)
    parts.classifiers.append(part)
    bench.parts = lambda *args, **kwargs: (backbone, parts)  # type: ignore[method-assign]
    trained = bench.train(epochs=1, experiences=1)
    found = trained.learner.predict(seen_tests(trained.stream, 0))
    assert torch.allclose(found["posthoc"], found["head"] - torch.tensor(COUNTS[:3]).log())


def test_separation_is_the_margin_term_of_the_main_loss() -> None:
    plugin = LessForgetPlugin(5.0, adaptive=True, margin=0.5, k=2, imprint=False)
    arrived(plugin, 2, 2)
    head = CosineHead(3)
    for classes in ([0, 1], [2, 3]):
        head.adaptation(SimpleNamespace(classes_in_this_experience=classes))
    strategy = SimpleNamespace(model=SimpleNamespace(head=head))
    features, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    expected = margin_ranking_loss(head.cosines(features), labels, 2, 2, 0.5)
    assert torch.equal(plugin.separation(strategy, features, labels), expected)
