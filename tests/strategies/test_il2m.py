"""IL2M: the worked example, and the statistics it stores."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmark.contract.workbench import COUNTS, MEMORY, Workbench
from strategies.il2m import IL2M, RectificationPlugin, RectifiedHead, rectify
from strategies.replay import Replay
from strategies.training.features import class_means, extract_features
from strategies.training.recipe import MemoryPolicy

RATIOS = torch.tensor([0.9 / 0.45 * 0.95 / 0.90, 0.8 / 0.64 * 0.95 / 0.90, 1.0, 1.0], dtype=torch.float64)
NEWEST = torch.tensor([False, False, True, True])


def test_worked_example() -> None:
    """methods, 6.9: the prediction changes from 3 to 0; the same from logarithms of the scores."""
    scores = torch.tensor([[0.2, 0.3, 0.1, 0.4]], dtype=torch.float64)
    wanted = [0.422222, 0.395833, 0.1, 0.4]
    assert rectify(scores, RATIOS, NEWEST, raw=True)[0].tolist() == pytest.approx(wanted, abs=1e-6)
    assert rectify(scores.log(), RATIOS, NEWEST, raw=False).exp()[0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_images_that_an_old_class_wins_keep_their_scores() -> None:
    logits = torch.tensor([[3.0, 0.0, 1.0, 2.0], [0.0, 1.0, 1.5, 0.0]], dtype=torch.float64)
    rectified = rectify(logits, RATIOS, NEWEST, raw=False)
    assert torch.equal(rectified[0], logits[0]) and not torch.equal(rectified[1], logits[1])
    assert torch.equal(rectified[1, 2:], logits[1, 2:])


def test_class_means_leave_out_nothing_and_divide_by_nothing() -> None:
    means, counts = class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([2, 2, 0]), 4)
    assert means.flatten().tolist() == [5.0, 0.0, 2.0, 0.0] and counts.tolist() == [1, 0, 2, 0]


@pytest.mark.parametrize("scores", ["softmax", "raw"])
def test_statistics_are_those_of_the_definition(scores: Any) -> None:
    """mu^N and M of each experience as it ended, mu^P of the exemplars now, class by class."""
    bench = Workbench(IL2M(scores=scores))
    trained = bench.start(epochs=2)
    learner = trained.learner
    plugin = next(p for p in learner.plugins if isinstance(p, RectificationPlugin))
    head: Any = learner.model.head
    assert isinstance(head, RectifiedHead)
    own: list[float] = []  # mu^N of each class
    confidence: list[float] = []  # M of its experience

    def statistics(dataset: Any, num_seen: int) -> tuple[list[float], float]:
        extracted = extract_features(learner, dataset)
        logits = head.linear(extracted.features)
        values = logits if scores == "raw" else logits.softmax(dim=1)
        means = [float(values[extracted.targets == c, c].mean()) for c in range(num_seen)]
        return means, float(values.max(dim=1).values.mean())

    for t, num_seen in enumerate((3, 6, 9)):
        bench.go_on(trained, [t])
        with torch.no_grad():
            fresh, top = statistics(trained.stream.train_stream[t].dataset, num_seen)
            own += fresh[num_seen - 3 :]
            confidence += 3 * [top]
            assert plugin.initial.tolist() == pytest.approx(own, rel=1e-4)
            assert plugin.confidence.tolist() == pytest.approx(confidence, rel=1e-4)
            if t == 0:
                assert head.ratios.tolist() == [1.0] * 3 and not head.newest.any()
                continue
            present, _ = statistics(plugin.memory.dataset(range(num_seen - 3)), num_seen)
        wanted = [own[c] / present[c] * top / confidence[c] for c in range(num_seen - 3)]
        assert head.ratios.tolist() == pytest.approx([*wanted, 1.0, 1.0, 1.0], rel=1e-3)
        assert head.newest.tolist() == [c >= num_seen - 3 for c in range(num_seen)]


def test_training_is_replay_and_classes_without_exemplars_are_left_alone() -> None:
    il2m, replay = (Workbench(recipe).train(epochs=2) for recipe in (IL2M(), Replay()))
    for name, value in replay.weights.items():
        assert torch.equal(il2m.weights[name], value), name
    assert torch.equal(il2m.predictions[0]["head"], replay.predictions[0]["head"])
    assert not torch.equal(il2m.predictions[2]["head"], replay.predictions[2]["head"])
    none = MemoryPolicy(0, MEMORY.mode, MEMORY.selection)
    assert Workbench(IL2M()).train(memory=none, epochs=1).learner.model.head.ratios.tolist() == [1.0] * len(COUNTS)
