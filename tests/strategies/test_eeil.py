"""EEIL: distillation per experience, gradient noise, balanced finetuning, exemplars chosen after it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.contract.probes import copied, differences
from benchmark.contract.workbench import COUNTS, FROM_SCRATCH, MEMORY, Trained, Workbench
from strategies.eeil import EEIL, GradientNoisePlugin, LateMemoryPlugin
from strategies.networks.heads import LinearHead, SplitLinearHead
from strategies.replay import Replay
from strategies.training.distillation import TaskWiseDistillationPlugin, column_groups
from strategies.training.memory import herding_order
from strategies.training.recipe import Context, MemoryPolicy
from strategies.training.stages import Stage, StageRunner


def stages_of(learner: Any) -> list[Any]:
    return next(plugin.stages for plugin in learner.plugins if isinstance(plugin, StageRunner))


def per_class(dataset: Any) -> list[int]:
    return [list(map(int, dataset.targets)).count(c) for c in range(len(COUNTS))]


def test_distillation_is_a_cross_entropy_of_its_own_for_each_earlier_experience() -> None:
    """-sum q log p within the columns, temperature 2, no squared temperature; the first old experience counts too."""
    assert column_groups([2, 1, 3]).tolist() == [[0, 1, -1], [2, -1, -1], [3, 4, 5]]
    plugin = next(p for p in Workbench(EEIL()).parts()[1].plugins if hasattr(p, "task_wise"))
    assert isinstance(plugin, TaskWiseDistillationPlugin)
    student = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 5, dtype=torch.float64)
    parts = [(s, t) for s, t in zip(student.split([3, 2], 1), teacher.split([3, 2], 1), strict=True)]
    wanted = sum(-((t / 2).softmax(1) * (s / 2).log_softmax(1)).sum(1).mean() for s, t in parts)
    found = plugin.task_wise(student, teacher, column_groups([3, 2]))
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (found, wanted)]
    assert torch.allclose(*gradients)  # the values differ by the teacher's entropy
    only_one = torch.autograd.grad(plugin.task_wise(student, teacher, column_groups([3])), student)[0]
    assert only_one[:, :3].abs().min() > 0 and not only_one[:, 3:].any()


@pytest.mark.parametrize(("epoch", "factor"), [(0, 0.3), (1, 0.2049), (9, 0.0846)])
def test_noise_falls_with_the_epochs_and_is_divided_by_the_batch(epoch: int, factor: float) -> None:
    parameters = [nn.Parameter(torch.zeros(200, 500)), nn.Parameter(torch.zeros(3))]
    parameters[0].grad = torch.full((200, 500), 2.0)
    GradientNoisePlugin(0.3).disturb(parameters, epoch, 16, torch.Generator().manual_seed(0))
    noise = parameters[0].grad - 2.0
    assert noise.std().item() * 16 == pytest.approx(factor, rel=0.02) and abs(noise.mean().item()) < 1e-3
    assert parameters[1].grad is None


def test_noise_goes_on_falling_in_the_finetuning() -> None:
    """Epochs are counted on: epoch 2 behind 7 is epoch 9 of the experience."""
    stage, _ = EEIL().build(Context(8, nn.Identity(), epochs=7)).stages
    assert isinstance(stage, Stage) and stage.after_backward is not None
    parameter = nn.Parameter(torch.zeros(200, 500))
    parameter.grad = torch.zeros(200, 500)
    stage.after_backward([parameter], 2, 16, torch.Generator().manual_seed(0))
    assert parameter.grad.std().item() * 16 == pytest.approx(0.0846, rel=0.02)


def test_no_noise_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    GradientNoisePlugin(0.0).disturb([nn.Parameter(torch.zeros(1))], 0, 1, generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("memory", [MEMORY, MemoryPolicy(12, "total", "herding")])
def test_balanced_finetuning_sees_as_many_new_images_as_exemplars_and_a_new_teacher(memory: MemoryPolicy) -> None:
    bench = Workbench(EEIL(finetune_epochs=2))
    trained = bench.start(memory=memory, epochs=2)
    stage, late = stages_of(trained.learner)
    assert isinstance(stage, Stage) and isinstance(late, LateMemoryPlugin)
    assert [stage.schedule.factor(epoch, 30) for epoch in (0, 9, 10, 19, 20, 29)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    plugin = next(p for p in trained.learner.plugins if isinstance(p, TaskWiseDistillationPlugin))
    passed: list[list[int] | None] = []

    def run(strategy: Any, generator: torch.Generator) -> None:
        before = copied(strategy.model.state_dict())
        dataset = stage.data(strategy)
        passed.append(None if dataset is None else per_class(dataset))
        if dataset is not None:
            teacher: Any = plugin.teacher.model
            assert not differences(before, teacher.state_dict()) and not teacher.training
            x, y = torch.stack([dataset[i][0] for i in range(4)]), torch.tensor([int(dataset[i][1]) for i in range(4)])
            strategy.model.eval()
            with torch.no_grad():  # student and teacher agree: nothing but cross-entropy is left
                assert torch.allclose(stage.loss(strategy, x, y), F.cross_entropy(strategy.model(x), y), atol=1e-5)
            assert plugin.sizes == [3] * strategy.experience.current_experience  # the stage's groups have one more
            assert stage.loss.__self__.groups.shape[0] == len(plugin.sizes) + 1  # type: ignore[attr-defined]
        compute = strategy.model.compute
        trained_before = compute.trained
        stage.run(strategy, generator)
        images = 0 if dataset is None else 2 * len(dataset)
        assert compute.trained - trained_before == images
        assert bool(images) == bool(differences(before, strategy.model.state_dict()))

    runner = next(p for p in trained.learner.plugins if isinstance(p, StageRunner))
    runner.stages = [SimpleNamespace(name="looked at", run=run), late]
    bench.go_on(trained, range(3))
    assert passed[0] is None
    for t in (1, 2):
        old, seen = sum(FROM_SCRATCH[:t]), sum(FROM_SCRATCH[: t + 1])
        quota = memory.budget if memory.mode == "per_class" else memory.budget // old
        assert passed[t] == [min(quota, n) if c < seen else 0 for c, n in enumerate(COUNTS)]


def test_exemplars_are_chosen_by_the_finetuned_network() -> None:
    trained = Workbench(EEIL(finetune_lr=0.1)).train(epochs=2)
    memory = trained.memories[0]
    newest = trained.stream.train_stream[2].dataset
    from strategies.training.features import extract_features
    from strategies.training.labels import class_positions

    features = extract_features(trained.learner, newest).features
    for label, positions in class_positions(newest).items():
        wanted = positions[herding_order(features[positions], MEMORY.budget).numpy()].tolist()
        assert memory.positions[label] == [(2, int(position)) for position in wanted]


def test_without_its_parts_it_is_replay() -> None:
    bare, plain = (
        Workbench(recipe).train(epochs=2) for recipe in (EEIL(weight=0, noise=0, finetune_epochs=0), Replay())
    )
    assert same(bare, plain)
    for part in ({"weight": 1.0}, {"noise": 0.3}, {"finetune_epochs": 1}):
        settings = {"weight": 0, "noise": 0, "finetune_epochs": 0, **part}
        assert not same(Workbench(EEIL(**settings)).train(epochs=2), plain), part  # type: ignore[arg-type]


def same(one: Trained, other: Trained) -> bool:
    return not differences(one.weights, other.weights) and not differences(one.predictions[-1], other.predictions[-1])


def test_a_split_linear_head_is_a_linear_head() -> None:
    head, plain = SplitLinearHead(4, freeze_old=True), LinearHead(4)
    for classes in ([0, 2], [1, 3]):
        for one in (head, plain):
            one.adaptation(SimpleNamespace(classes_in_this_experience=classes))
    rows: Tensor = head.weight
    with torch.no_grad():
        plain.linear.weight.copy_(rows[:, :4])
        plain.linear.bias.copy_(rows[:, 4])
    features = torch.randn(5, 4)
    assert torch.allclose(head(features), plain(features), atol=1e-6)
    assert head.old.shape == (2, 5) and not head.old.requires_grad and head.new_columns == [1, 3]
