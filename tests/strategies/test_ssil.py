"""SS-IL: the worked example, and what a batch is made of; replay with half of every batch from memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin

from benchmark.contract.workbench import BATCH_SIZE, COUNTS, Workbench
from strategies.balanced_softmax import BalancedSoftmaxReplay
from strategies.replay import Replay
from strategies.ssil import SSIL, SeparatedSoftmax
from strategies.training.distillation import TaskWiseDistillationPlugin
from strategies.training.losses import distillation_loss
from strategies.training.paired_batches import PairedBalancedSoftmax, PairedBatches, PairedBatchesPlugin
from strategies.training.recipe import MemoryPolicy


def arrive(plugin: Any, *sizes: int) -> None:
    for t in range(len(sizes)):
        classes = list(range(sum(sizes[:t]), sum(sizes[: t + 1])))
        experience = SimpleNamespace(classes_in_this_experience=classes, current_experience=t)
        plugin.before_training_exp(SimpleNamespace(experience=experience, device=torch.device("cpu")))


def test_separated_softmax_worked_example() -> None:
    """methods, 6.8: each image competes within its own group; the joint softmax gives 0.493812 and 2.781672."""
    criterion = SeparatedSoftmax()
    arrive(criterion, 2, 2)
    logits = torch.tensor([[0.0, 0.0, 2.0, 1.0], [1.0, 0.0, 3.0, 3.0]], requires_grad=True)
    loss = criterion(logits, torch.tensor([2, 0]))
    assert loss.item() == pytest.approx(0.313262, abs=1e-6)
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert not logits.grad[0, :2].any() and not logits.grad[1, 2:].any()
    for row, label in ((0, 2), (1, 0)):
        assert criterion(logits[row : row + 1], torch.tensor([label])).item() == pytest.approx(0.313262, abs=1e-6)


def test_the_first_experience_is_cross_entropy() -> None:
    criterion, logits, labels = SeparatedSoftmax(), torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 0])
    arrive(criterion, 3)
    assert torch.equal(criterion(logits, labels), torch.nn.functional.cross_entropy(logits, labels))


def test_distillation_has_one_softmax_for_each_earlier_experience() -> None:
    plugin = TaskWiseDistillationPlugin(weight=0.5, temperature=2.0)
    arrive(plugin, 3, 1, 2, 2)
    student, teacher = torch.randn(2, 7, 8, dtype=torch.float64).unbind()
    plugin.teacher_outputs = lambda strategy: (None, teacher[:, :6])  # type: ignore[method-assign, assignment, return-value]
    added = plugin.combine(SimpleNamespace(mb_output=student), torch.tensor(1.0)) - 1
    wanted = 0.0
    for columns in (slice(0, 3), slice(3, 4), slice(4, 6)):
        entropy = distillation_loss(teacher[:, columns], teacher[:, columns])
        wanted += 0.5 * 4 * float(distillation_loss(student[:, columns], teacher[:, columns]) - entropy)
    assert float(added) == pytest.approx(wanted, abs=1e-6)


def test_a_batch_is_new_images_and_a_quarter_as_many_exemplars() -> None:
    bench = Workbench(SSIL())
    trained = bench.start(epochs=3)
    batches: dict[int, list[list[int]]] = {0: [], 1: [], 2: []}

    class Look(SupervisedPlugin):
        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            batches[strategy.experience.current_experience].append(strategy.mb_y.tolist())

    trained.learner.plugins.append(Look())
    bench.go_on(trained, range(3))
    replayed = round(BATCH_SIZE / 4)
    for t, found in batches.items():
        new = [[label for label in batch if label >= 3 * t] for batch in found]
        assert sum(map(len, new)) == 3 * sum(COUNTS[3 * t : 3 * t + 3])  # every new image once an epoch
        if t == 0:
            assert new == found
            continue
        for batch, own in zip(found, new, strict=True):
            assert batch[: len(own)] == own  # exemplars behind new images
            assert 0 < len(batch) - len(own) <= replayed
    old = {label for batch in batches[2] for label in batch if label < 6}
    assert len(old) >= 4


def test_exemplars_start_again_when_they_run_out() -> None:
    new = [[torch.tensor([i]), torch.tensor([-i])] for i in range(5)]
    old = [[torch.tensor([10 + i]), torch.tensor([0])] for i in range(2)]
    batches = [x.tolist() for x, _ in PairedBatches(new, old)]
    assert batches == [[0, 10], [1, 11], [2, 10], [3, 11], [4, 10]] and len(PairedBatches(new, old)) == 5


@pytest.mark.parametrize("method", [Replay, BalancedSoftmaxReplay])
@pytest.mark.parametrize("budget", [3, 20])
def test_balanced_batches_are_half_exemplars_and_the_prior_is_what_they_draw(method: Any, budget: int) -> None:
    """An experience smaller than a batch, exemplars that run out within an epoch and ones that outlast it."""
    epochs = 40
    bench = Workbench(method(replay_mode="balanced_batch"))
    trained = bench.start(memory=MemoryPolicy(budget), epochs=epochs)
    plugin = next(p for p in trained.learner.plugins if isinstance(p, PairedBatchesPlugin))
    criterion = trained.learner.parts.criterion
    labels: list[torch.Tensor] = []
    checked = 0

    class Look(SupervisedPlugin):
        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            labels.append(strategy.mb_y.clone())
            old = 3 * strategy.experience.current_experience
            new = int((strategy.mb_y >= old).sum())
            held = sum(plugin.memory.held().values())
            assert len(strategy.mb_y) - new <= min(BATCH_SIZE, held) and new <= BATCH_SIZE

        def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
            nonlocal checked
            seen = 3 * (strategy.experience.current_experience + 1)
            found = torch.cat(labels).bincount(minlength=seen).double() / epochs
            labels.clear()
            if seen == 3:
                assert plugin.drawn is None and found.tolist() == list(COUNTS[:3])
                expected = torch.tensor(COUNTS[:3], dtype=torch.float64)
            else:
                assert plugin.drawn is not None
                expected = torch.from_numpy(plugin.drawn)
                assert torch.equal(found[seen - 3 :], expected[seen - 3 :])  # each new image once an epoch
                assert found[: seen - 3].sum().item() == pytest.approx(expected[: seen - 3].sum().item())
                assert torch.allclose(found, expected, rtol=0.25, atol=0.3)
                checked += 1
            if isinstance(criterion, PairedBalancedSoftmax):
                assert torch.allclose(criterion._log_prior.exp(), expected / expected.sum())

    trained.learner.plugins.append(Look())
    bench.go_on(trained, range(3))
    assert checked == 2
