"""Seen classes, their counts, the criteria over them, and the frozen teacher."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gradient_world import (
    COUNTS,
    SHUFFLED,
    Each,
    FirstImages,
    Labels,
    benchmark_of,
    perceptron,
    template_of,
)

from strategies.training import losses
from strategies.training.criteria import BalancedSoftmax, NewCrossEntropy, SeenCrossEntropy
from strategies.training.seen_classes import ClassCounts, SeenClasses
from strategies.training.teacher import Teacher, last_linear

pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified")


def experience_of(index: int, classes: Any) -> Any:
    return SimpleNamespace(current_experience=index, classes_in_this_experience=classes)


def test_seen_classes_translate_ids_to_arrival_order() -> None:
    seen = SeenClasses()
    seen.update(experience_of(0, {6, 2, 5}))
    assert (seen.class_ids, seen.num_old) == ([2, 5, 6], 0)
    seen.update(experience_of(1, [4, 1]))
    seen.update(experience_of(1, [1, 4]))  # a second plugin sharing it
    assert (seen.class_ids, seen.num_old, seen.num_seen) == ([2, 5, 6, 1, 4], 3, 5)
    output = torch.arange(9.0).repeat(2, 1)
    assert seen.logits(output)[0].tolist() == [2, 5, 6, 1, 4]
    assert seen.old_logits(output)[0].tolist() == [2, 5, 6]
    assert seen.targets(torch.tensor([4, 2, 0, 8])).tolist() == [4, 0, -100, -100]
    assert seen.columns is not None and seen.columns.tolist() == [2, 5, 6, 1, 4]
    with pytest.raises(ValueError, match="class id 6"):
        seen.logits(torch.zeros(1, 6))


def test_seen_classes_in_order_need_no_index() -> None:
    seen = SeenClasses()
    seen.update(experience_of(0, [0, 1]))
    seen.update(experience_of(1, [2]))
    output = torch.randn(3, 5)
    assert seen.columns is None
    assert seen.logits(output).data_ptr() == output.data_ptr()  # a view
    assert seen.old_logits(output).shape == (3, 2)


def test_class_counts_are_of_the_training_data_in_arrival_order() -> None:
    counts = ClassCounts()
    first, second = Labels([3] * 5 + [1] * 2), Labels([0] * 4)
    for index, classes, own, adapted in (
        (0, [3, 1], first, first),
        (1, [0], second, Labels([0] * 4 + [3] * 2 + [1] * 2)),
    ):
        experience = SimpleNamespace(current_experience=index, classes_in_this_experience=classes, dataset=own)
        counts.update(SimpleNamespace(experience=experience, adapted_dataset=adapted, dataloader=[]))
    assert counts.seen.class_ids == [1, 3, 0]
    assert counts.available.tolist() == [2, 2, 4] and counts.original.tolist() == [2, 5, 4]
    assert counts.lost.tolist() == [0, 3] and (counts.num_seen_images, counts.num_new_images) == (7, 4)


def test_criteria_use_seen_columns_only() -> None:
    output = torch.randn(6, 9)
    labels = torch.tensor([2, 5, 6, 1, 4, 4])
    positions = torch.tensor([0, 1, 2, 3, 4, 4])
    plain = SeenCrossEntropy()
    assert plain(output, labels) == F.cross_entropy(output, labels)  # nothing seen yet
    new = NewCrossEntropy(plain.seen)
    for index, classes in enumerate(([2, 5, 6], [1, 4])):
        plain.seen.update(experience_of(index, classes))
    columns = output[:, [2, 5, 6, 1, 4]]
    torch.testing.assert_close(plain(output, labels), F.cross_entropy(columns, positions))
    torch.testing.assert_close(new(output, labels), F.cross_entropy(columns[3:, 3:], torch.tensor([0, 1, 1])))
    wider = torch.cat([labels, torch.tensor([7])]), torch.cat([output, output[:1]])
    torch.testing.assert_close(plain(wider[1], wider[0]), plain(output, labels))  # an unseen class is skipped


def test_balanced_softmax_criterion_uses_the_counts_really_trained_on() -> None:
    criterion = BalancedSoftmax()
    expected = []

    def check(strategy: Any) -> None:
        ids = criterion.seen.class_ids
        counts = [min(COUNTS[c], 6) if j < criterion.seen.num_old else COUNTS[c] for j, c in enumerate(ids)]
        positions = torch.tensor([ids.index(int(c)) for c in strategy.mb_y])
        loss = losses.balanced_softmax_loss(strategy.mb_output[:, ids], positions, counts)
        expected.append((loss.item(), strategy.loss.item()))

    strategy = template_of(perceptron(), criterion, [FirstImages(6), Each(check)])
    for experience in benchmark_of(COUNTS, SHUFFLED).train_stream:
        strategy.train(experience)
    ours, theirs = zip(*expected, strict=True)
    assert theirs == pytest.approx(ours, rel=1e-5)


def test_teacher_is_a_frozen_copy() -> None:
    model = perceptron()
    teacher = Teacher()
    teacher.snapshot(model)
    x = torch.randn(5, 8)
    before = teacher.logits(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model(x)  # batch norm of the student moves
    assert torch.equal(teacher.logits(x), before) and not before.requires_grad
    features, logits = teacher.features_and_logits(x)
    assert torch.equal(logits, before) and features.shape == (5, 16)
    assert torch.equal(last_linear(teacher.model)(features), before)  # type: ignore[arg-type]
