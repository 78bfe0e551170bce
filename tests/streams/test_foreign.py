"""Existing Avalanche benchmarks as source, and stock Avalanche strategies on our streams."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, nc_benchmark
from avalanche.benchmarks.scenarios.supervised import class_incremental_benchmark
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import SimpleMLP
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import EWC, ICaRL, LwF, Naive, Replay
from torch import nn
from torch.utils.data import TensorDataset

from benchmark.errors import UserError
from benchmark.streams import long_tailed_benchmark

TRAIN, TEST = 12, 3  # images per class


def tensors(per_class, classes, seed=0):
    """Images whose value tells their row."""
    labels = torch.tensor([label for label in classes for _ in range(per_class)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    images = torch.arange(len(labels), dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    data = TensorDataset(images, labels)
    data.targets = labels.tolist()
    return data


def plus_thousand(x):
    return x + 1000


def minus_thousand(x):
    return x - 1000


def split_by_nc():
    return nc_benchmark(
        tensors(TRAIN, range(6)),
        tensors(TEST, range(6)),
        n_experiences=3,
        task_labels=False,
        fixed_class_order=[4, 1, 0, 5, 3, 2],
        train_transform=plus_thousand,
        eval_transform=minus_thousand,
    )


def split_by_class_incremental():
    def make(per_class, classes):
        return _make_taskaware_classification_dataset(
            tensors(per_class, classes),
            transform_groups={"train": (plus_thousand, None), "eval": (minus_thousand, None)},
            task_labels=0,
        )

    return class_incremental_benchmark(
        {"train": make(TRAIN, range(6)), "test": make(TEST, range(6))},
        class_order=[4, 1, 0, 5, 3, 2],
        num_classes_per_exp=[2, 2, 2],
    )


def split_by_datasets(classes=((40, 7), (0, 55), (3, 12))):
    def make(per_class, group):
        return _make_taskaware_classification_dataset(
            tensors(per_class, group),
            transform_groups={"train": (plus_thousand, None), "eval": (minus_thousand, None)},
            task_labels=0,
        )

    return benchmark_from_datasets(
        train=[make(TRAIN, group) for group in classes], test=[make(TEST, group) for group in classes]
    )


@pytest.mark.parametrize("split", [split_by_nc, split_by_class_incremental, split_by_datasets])
@pytest.mark.parametrize("ranks", ["by_label", "by_order", "random"])
def test_only_the_training_stream_is_thinned(split, ranks):
    source = split()
    made = long_tailed_benchmark(source, rho=6, ranks=ranks, rank_seed=3)
    assert made.test_stream is source.test_stream
    assert made.images is None and made.info.tasks == 3 and len(made.train_stream) == 3
    arrival = [label for experience in made.train_stream for label in experience.classes_in_this_experience]
    counts = dict(zip(arrival, made.info.profile_counts, strict=True))
    assert sorted(counts.values(), reverse=True) == [12, 8, 5, 4, 2, 2]
    if ranks == "by_order":
        assert list(counts.values()) == [12, 8, 5, 4, 2, 2]
    if ranks == "by_label":
        assert [counts[label] for label in sorted(counts)] == [12, 8, 5, 4, 2, 2]
    for number, (before, after) in enumerate(zip(source.train_stream, made.train_stream, strict=True)):
        assert after.current_experience == number
        assert set(after.classes_in_this_experience) == set(before.dataset.targets)
        assert after.class_counts == Counter(after.dataset.targets)
        assert after.class_counts == {label: counts[label] for label in after.classes_in_this_experience}
        assert not hasattr(after.dataset, "sample_index")
        items = {int(x.flatten()[0]): int(y) for x, y, *_ in before.dataset}
        for x, y, *_ in after.dataset:
            assert x.flatten()[0] >= 1000 and items[int(x.flatten()[0])] == y  # its transform, its image, its label
        assert all(x.flatten()[0] < 0 for x, *_ in after.dataset.eval())
    assert made.info.test_counts == (TEST,) * 6


def test_a_choice_is_nested_and_seeded():
    def rows(**settings):
        made = long_tailed_benchmark(split_by_datasets(), **settings)
        return [sorted(float(x.flatten()[0]) for x, *_ in experience.dataset) for experience in made.train_stream]

    small, large = rows(rho=6), rows(rho=2)
    assert all(set(a) <= set(b) for a, b in zip(small, large, strict=True)) and small != large
    assert rows(rho=6, subset_seed=1) != small
    assert rows(profile="natural") == rows(profile="conventional")
    assert [len(part) for part in rows(profile=[1, 2, 3, 4, 5, 6], subset="first")] == [8, 7, 6]


def test_a_hold_out_adds_a_validation_stream():
    made = long_tailed_benchmark(split_by_datasets(), rho=1, holdout=0.25)
    assert [len(experience.dataset) for experience in made.train_stream] == [18, 18, 18]
    assert [len(experience.dataset) for experience in made.valid_stream] == [6, 6, 6]
    assert all(x.flatten()[0] < 0 for x, *_ in made.valid_stream[0].dataset)
    with pytest.raises(UserError, match="valid_stream already"):
        long_tailed_benchmark(made, rho=1, holdout=0.25)


def test_what_does_not_fit_an_existing_benchmark_is_refused():
    with pytest.raises(UserError, match="class 7 comes in 2 training experiences"):
        long_tailed_benchmark(split_by_datasets(((7, 1), (7, 2), (3, 4))), rho=2)
    with pytest.raises(UserError, match="classes, compat and generator cannot be set"):
        long_tailed_benchmark(split_by_nc(), classes=[1, 2])
    with pytest.raises(UserError, match=r"Class \d+ .* has 12 training images, fewer than the 13"):
        long_tailed_benchmark(split_by_nc(), max_count=13, rho=2)


def tiny_images():
    """Six classes of 12 x 12 images, 16 training images each, told apart by colour."""
    generator = np.random.default_rng(0)
    fields = {}
    for split, per_class in (("train", 16), ("test", 4)):
        labels = generator.permutation(np.repeat(np.arange(6), per_class))
        noise = generator.integers(0, 20, (len(labels), 12, 12, 3))
        fields[f"{split}_labels"] = labels
        colour = 200 * ((labels[:, None] + 1) >> np.arange(3) & 1)
        fields[f"{split}_images"] = (colour[:, None, None, :] + noise).astype(np.uint8)
    names = tuple("abcdef")
    return SimpleNamespace(name="tiny", class_names=names, mean=(0.4,) * 3, std=(0.3,) * 3, flip=False, **fields)


class Features(nn.Sequential):
    """A flattening feature extractor for ICaRL."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(432, 16), nn.ReLU())


def stock_strategy(name):
    evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])
    common = {"train_mb_size": 8, "train_epochs": 2, "eval_mb_size": 16, "evaluator": evaluator}
    if name == "icarl":
        features, head = Features(), nn.Linear(16, 6)
        optimizer = torch.optim.SGD([*features.parameters(), *head.parameters()], lr=0.05)
        return ICaRL(
            feature_extractor=features, classifier=head, optimizer=optimizer, memory_size=12, buffer_transform=None,
            fixed_memory=True, **common,
        )  # fmt: skip
    model = SimpleMLP(num_classes=6, input_size=432, hidden_size=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    arguments = {"model": model, "optimizer": optimizer, "criterion": nn.CrossEntropyLoss(), **common}
    if name == "naive":
        return Naive(**arguments)
    if name == "lwf":
        return LwF(alpha=1.0, temperature=2.0, **arguments)
    if name == "ewc":
        return EWC(ewc_lambda=1.0, **arguments)
    return Replay(mem_size=12, **arguments)


@pytest.mark.parametrize("generator", ["datasets", "nc"])
@pytest.mark.parametrize("name", ["naive", "lwf", "ewc", "replay", "icarl"])
@pytest.mark.filterwarnings("ignore")
def test_stock_avalanche_strategies_train_unchanged(name, generator):
    torch.manual_seed(0)
    made = long_tailed_benchmark(tiny_images(), tasks=3, rho=4, generator=generator)
    strategy = stock_strategy(name)
    for experience in made.train_stream:
        strategy.train(experience, eval_streams=[])
        results = strategy.eval(made.test_stream[: experience.current_experience + 1])
        (accuracy,) = (value for key, value in results.items() if "Stream" in key)
        assert 0 <= accuracy <= 1
    assert strategy.clock.train_exp_counter == 3
    parameters = torch.cat([parameter.flatten() for parameter in strategy.model.parameters()])
    assert torch.isfinite(parameters).all()


@pytest.mark.filterwarnings("ignore")
def test_a_stock_strategy_learns_and_sees_no_more_than_its_images():
    torch.manual_seed(0)
    made = long_tailed_benchmark(tiny_images(), protocol="single", profile="conventional")
    model = SimpleMLP(num_classes=6, input_size=432, hidden_size=32, drop_rate=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])
    strategy = Naive(
        model=model, optimizer=optimizer, train_mb_size=16, train_epochs=20, eval_mb_size=24, evaluator=evaluator
    )
    strategy.train(made.train_stream[0], eval_streams=[])
    assert strategy.clock.train_iterations == 20 * 6  # 96 images
    (accuracy,) = strategy.eval(made.test_stream).values()
    assert accuracy > 0.8


@pytest.mark.filterwarnings("ignore")
def test_a_stock_strategy_trains_on_a_thinned_benchmark():
    made = long_tailed_benchmark(split_by_nc(), rho=3)
    assert made.train_stream[1].benchmark is made
    model = SimpleMLP(num_classes=6, input_size=4, hidden_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    strategy = Replay(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        mem_size=4,
        train_mb_size=8,
        evaluator=EvaluationPlugin(loggers=[]),
    )
    for experience in made.train_stream:
        strategy.train(experience, eval_streams=[])
        strategy.eval(made.test_stream[: experience.current_experience + 1])
    assert strategy.clock.train_exp_counter == 3
