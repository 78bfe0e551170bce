"""Exemplar memory, herding and the nearest mean of exemplars."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_classification_dataset
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmark.datasets.arrays import ImageArrays
from benchmark.streams import long_tailed_benchmark
from strategies.training.classifiers import HeadClassifier, NearestMeanClassifier
from strategies.training.memory import ExemplarMemoryPlugin, concatenate, herding_order

FIVE = torch.tensor([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1], [0.96, 0.28]])
LENGTHS = torch.tensor([[2, 0], [0.8, 0.6], [0.3, 0.4], [0, 3], [0.96, 0.28]])
DIVERGENT = torch.tensor([[1, 0], [0, 1], [0.6, 0.8], [0.28, 0.96], [0.96, 0.28]])


def dataset_of(points: Tensor, labels: list[int]) -> Any:
    data = TensorDataset(points, torch.tensor(labels))
    return _make_taskaware_classification_dataset(data, targets=labels, task_labels=0)


class Points(nn.Module):
    """A network whose features are its input, with `width` columns of zeros as logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def features(self, x: Tensor) -> Tensor:
        return x

    def classify(self, features: Tensor) -> Tensor:
        return features.new_zeros(len(features), self.width)


def strategy_of(width: int = 9, **attributes: Any) -> Any:
    return SimpleNamespace(model=Points(width), eval_mb_size=3, device=torch.device("cpu"), **attributes)


# --- herding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_of_equal_features_herding_picks_the_first(seed: int) -> None:
    """A matrix product rounds equal rows unequally, by their place among the others."""
    generator = np.random.default_rng(seed)
    kinds = generator.permutation(np.repeat(np.arange(4), generator.integers(2, 12)))
    points = generator.normal(size=(4, 5 + 3 * seed))
    order = herding_order(torch.from_numpy(points[kinds]), len(kinds)).numpy()
    for kind in range(4):
        picked = order[kinds[order] == kind]
        assert picked.tolist() == sorted(picked)
    assert herding_order(torch.ones(9, 7, requires_grad=True), 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("features", "m", "order"),
    [(FIVE, 5, [1, 2, 4, 3, 0]), (LENGTHS, 5, [1, 2, 4, 3, 0]), (DIVERGENT, 4, [2, 4, 3, 0]), (FIVE, 2, [1, 2])],
)
def test_herding_worked_examples(features: Tensor, m: int, order: list[int]) -> None:
    """methods, 6.6; of DIVERGENT the original loop, which picks an image twice, would keep [2, 4, 3, 1]."""
    assert herding_order(features, m).tolist() == order


def test_herding_distances_of_the_worked_example() -> None:
    picked = FIVE[herding_order(FIVE, 5)].double()
    means = picked.cumsum(dim=0) / torch.arange(1, 6)[:, None]
    distances = (FIVE.double().mean(dim=0) - means).norm(dim=1)
    assert distances.tolist() == pytest.approx([0.143108, 0.166373, 0.117151, 0.157099, 0.0], abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_herding_equals_the_literal_formula(seed: int) -> None:
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(seed)).double()
    phi = nn.functional.normalize(features, dim=1)
    order: list[int] = []
    for k in range(1, 31):
        total = phi[order].sum(dim=0)
        distance = (phi.mean(dim=0) - (total + phi) / k).norm(dim=1)
        distance[order] = torch.inf
        order.append(int(distance.argmin()))
    assert herding_order(features, 30).tolist() == order
    assert herding_order(features, 7).tolist() == order[:7]  # a shorter list is the beginning of a longer one


def test_herding_never_picks_twice_and_never_more_than_there_are() -> None:
    assert sorted(herding_order(torch.randn(6, 3), 20).tolist()) == list(range(6))
    assert herding_order(torch.ones(1, 3), 20).tolist() == [0]
    assert herding_order(torch.randn(6, 3), 0).tolist() == [] and herding_order(torch.zeros(0, 3), 4).tolist() == []
    assert herding_order(torch.ones(5, 3), 5).tolist() == [0, 1, 2, 3, 4]  # ties: lowest index
    assert herding_order(torch.zeros(3, 2), 3).tolist() == [0, 1, 2]  # a dead feature extractor


# --- nearest mean of exemplars -------------------------------------------------------------------------------------


def memory_holding(points: Tensor, labels: list[int]) -> ExemplarMemoryPlugin:
    memory = ExemplarMemoryPlugin(100, selection="random")
    memory.update(None, dataset_of(points, labels))
    return memory


def test_nearest_mean_worked_example() -> None:
    """methods, 6.6: the mean of the first two herded images, (0.7, 0.7), is normalised again."""
    classifier = NearestMeanClassifier(memory_holding(FIVE[herding_order(FIVE, 2)], [0, 0]))
    assert classifier.prepare(strategy_of(width=1))
    assert classifier.means.tolist() == [pytest.approx([0.707107, 0.707107], abs=1e-6)]


def test_nearest_mean_normalises_features_and_prefers_the_nearest() -> None:
    points = torch.tensor([[4.0, 0.0], [1.0, 0.2], [0.0, 9.0], [-0.1, 1.0]])
    classifier = NearestMeanClassifier(memory_holding(points, [0, 0, 2, 2]))
    assert classifier.prepare(strategy_of(width=4))
    tests = torch.tensor([[100.0, 10.0], [0.01, 0.3], [1.0, 1.3], [1.1, 1.0]])
    scores = classifier.scores(tests, torch.zeros(4, 4))
    assert scores.argmax(dim=1).tolist() == [0, 2, 2, 0]
    assert (scores[:, [1, 3]] == -torch.inf).all()  # classes without exemplars are never predicted
    phi = nn.functional.normalize(tests, dim=1)
    distances = torch.cdist(phi, classifier.means[[0, 2]])
    assert torch.allclose(2 - 2 * scores[:, [0, 2]], distances**2, atol=1e-5)


def test_every_exemplar_weighs_the_same_in_its_mean_whatever_its_length() -> None:
    """Features are normalised before they are averaged, too: (10, 0) and (0, 1) have their mean at 45 degrees."""
    classifier = NearestMeanClassifier(memory_holding(torch.tensor([[10.0, 0], [0, 1], [2, 1]]), [0, 0, 1]))
    assert classifier.prepare(strategy_of(width=2))
    assert classifier.means[0].tolist() == pytest.approx([0.5**0.5] * 2)
    assert classifier.scores(torch.tensor([[3.0, 3.0]]), torch.zeros(1, 2)).argmax() == 0


def test_nearest_mean_does_not_apply_without_exemplars() -> None:
    assert not NearestMeanClassifier(ExemplarMemoryPlugin(0)).prepare(strategy_of())
    logits = torch.randn(2, 3)
    assert HeadClassifier().prepare(None) and HeadClassifier().scores(logits, logits) is logits


# --- the memory ----------------------------------------------------------------------------------------------------


def test_total_budget_gives_the_floor_to_every_class() -> None:
    """methods, 1.7, FACIL's and iCaRL's ceiling would give 67, 34 and 29."""
    memory = ExemplarMemoryPlugin(2000, "total")
    assert [memory.quota(c) for c in (10, 20, 30, 50, 60, 70, 100)] == [200, 100, 66, 40, 33, 28, 20]
    assert all(memory.quota(c) * c <= 2000 for c in range(10, 101, 5))
    assert [ExemplarMemoryPlugin(20).quota(c) for c in (0, 10, 100)] == [20, 20, 20]


@pytest.mark.parametrize("order", ["ordered", "order_a"])
def test_twenty_per_class_of_cifar100_lt_are_1705_images(order: str) -> None:
    labels = np.repeat(np.arange(100), 500)
    images = np.zeros((len(labels), 1, 1, 3), np.uint8)
    names = tuple(map(str, range(100)))
    cifar = ImageArrays("cifar", images, labels, images[::500], labels[::500], names, (0.5,) * 3, (0.2,) * 3, True)
    memory = ExemplarMemoryPlugin(20, "per_class", "random")
    stream = long_tailed_benchmark(cifar, tasks=10, rho=100, order=order)
    for experience in stream.train_stream:
        memory.update(None, experience.dataset)
    assert sum(memory.held().values()) == 1705
    assert list(memory.held().values()) == [min(20, n) for n in stream.info.train_counts]
    exemplars = memory.dataset()
    assert exemplars is not None and len(exemplars) == 1705
    assert len({int(row) for row in exemplars.sample_index}) == 1705


def experience(classes: list[int], counts: list[int], seed: int = 0) -> Any:
    labels = [label for label, n in zip(classes, counts, strict=True) for _ in range(n)]
    return dataset_of(torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(seed)), labels)


@pytest.mark.parametrize("selection", ["herding", "random"])
def test_a_shrinking_quota_keeps_the_first_of_the_ranking(selection: str) -> None:
    memory = ExemplarMemoryPlugin(20, "total", selection)
    memory.update(strategy_of(), experience([0, 1], [12, 3]))
    first = {label: list(kept) for label, kept in memory.positions.items()}
    assert memory.held() == {0: 10, 1: 3}
    memory.update(strategy_of(), experience([2, 3, 4], [30, 1, 2], seed=1))
    assert memory.held() == {0: 4, 1: 3, 2: 4, 3: 1, 4: 2}  # unused slots are not given to other classes
    assert all(memory.positions[label] == first[label][:4] for label in (0, 1))
    memory.update(strategy_of(), experience(list(range(5, 25)), [2] * 20, seed=2))
    assert set(memory.held().values()) == {0} and memory.dataset() is None  # 20 slots for 25 classes


def test_a_random_choice_depends_on_seed_and_class_only() -> None:
    def kept(seed: int, classes: list[int], counts: list[int]) -> list[int]:
        memory = ExemplarMemoryPlugin(5, selection="random", seed=seed)
        memory.update(None, experience(classes, counts))
        return [position for _, position in memory.positions[3]]

    alone = kept(0, [3], [40])
    assert len(set(alone)) == 5
    assert alone == kept(0, [3, 8], [40, 7]) == kept(0, [3], [40])
    assert alone != kept(1, [3], [40])
    assert alone != [0, 1, 2, 3, 4]  # drawn, not the first ones

    memory = ExemplarMemoryPlugin(5, selection="random")
    memory.update(None, experience([0, 1], [40, 40]))
    of_0, of_1 = ({position % 40 for _, position in memory.positions[label]} for label in (0, 1))
    assert of_0 != of_1  # each class its own draw


def test_herding_looks_without_augmentation_in_eval_mode() -> None:
    seen: list[tuple[bool, bool]] = []
    strategy = strategy_of()

    def loader(dataset: Any, batch_size: int, train: bool, **kwargs: Any) -> list[list[Tensor]]:
        seen.append((train, strategy.model.training))
        return [[torch.randn(len(dataset), 3), torch.tensor([0] * len(dataset))]]

    strategy.loader = loader
    strategy.model.train()
    ExemplarMemoryPlugin(2).update(strategy, experience([0], [6]))
    assert seen == [(False, False)] and strategy.model.training


def test_herding_takes_what_enters_the_classifier_of_a_stock_model() -> None:
    """It has no `classify(features)`; what Avalanche's models call `features` may be something else."""
    generator = torch.Generator().manual_seed(0)
    data = dataset_of(torch.randn(12, 2, 2, generator=generator), [5] * 12)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(), nn.Linear(3, 6))
    strategy = SimpleNamespace(model=model, eval_mb_size=5, device=torch.device("cpu"))
    chosen = ExemplarMemoryPlugin(4).choose(strategy, data, 4)
    assert model.training and not any(module._forward_pre_hooks for module in model)
    with torch.no_grad():
        entered = model.eval()[:3](torch.stack([x for x, *_ in data]))
    assert chosen == {5: herding_order(entered, 4).tolist()}


def test_exemplars_join_the_next_experience_and_point_at_their_images() -> None:
    memory, first = ExemplarMemoryPlugin(3), experience([4, 1], [5, 2])
    strategy = strategy_of(adapted_dataset=first, experience=SimpleNamespace(dataset=first))
    memory.after_train_dataset_adaptation(strategy)
    assert strategy.adapted_dataset is first  # nothing to join yet
    memory.after_training_exp(strategy)
    second = experience([0], [4], seed=1)
    strategy.adapted_dataset = second
    memory.after_train_dataset_adaptation(strategy)
    assert list(map(int, strategy.adapted_dataset.targets)) == [0] * 4 + [1] * 2 + [4] * 3
    order = herding_order(torch.stack([first[i][0] for i in range(5)]), 3).tolist()
    assert torch.equal(
        torch.stack([strategy.adapted_dataset[i][0] for i in range(6, 9)]), torch.stack([first[i][0] for i in order])
    )
    only = memory.dataset([4])
    assert only is not None and list(map(int, only.targets)) == [4, 4, 4]


def test_state_is_json_and_needs_the_experiences() -> None:
    datasets = [experience([2, 0], [6, 4]), experience([1], [5], seed=1)]
    memory = ExemplarMemoryPlugin(3)
    for dataset in datasets:
        memory.update(strategy_of(), dataset)
    state = json.loads(json.dumps(memory.state_dict()))
    fresh = ExemplarMemoryPlugin(3)
    fresh.restore([SimpleNamespace(dataset=dataset) for dataset in datasets])
    fresh.load_state_dict(state)
    assert fresh.positions == memory.positions and list(fresh.held()) == list(memory.held()) == [0, 2, 1]
    ours, theirs = memory.dataset(), fresh.dataset()
    assert ours is not None and theirs is not None
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(ours, theirs, strict=True))
    joined = concatenate(datasets)
    assert len(joined) == 15 and list(map(int, joined.targets))[-5:] == [1] * 5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((20, "per_task"), 'memory.mode "per_task" is unknown. Valid choices: per_class, total'),
        ((20, "total", "closest"), 'memory.selection "closest" is unknown. Valid choices: herding, random'),
        ((-1,), "memory.budget must be 0 or more, got -1"),
    ],
)
def test_mistakes_are_one_sentence(arguments: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ExemplarMemoryPlugin(*arguments)
