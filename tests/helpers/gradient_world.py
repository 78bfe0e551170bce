"""A small world for gradient reweighting: a long-tailed stream, a network, stock templates, autograd's gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.utils.data import Dataset

from strategies.dgr.distillation import DistributionAwareDistillationPlugin
from strategies.dgr.reweighting import GradientReweightingPlugin
from strategies.training import losses
from strategies.training.criteria import BalancedSoftmax
from strategies.training.teacher import last_linear

COUNTS = {0: 40, 1: 7, 2: 25, 3: 12, 4: 30, 5: 5, 6: 18}
SHUFFLED = [[2, 5, 6], [1, 4], [0, 3]]


class Points(Dataset):
    """Random vectors, `counts[id]` of each class."""

    def __init__(self, counts: dict[int, int], features: int) -> None:
        self.targets = [label for label in sorted(counts) for _ in range(counts[label])]
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(len(self.targets), features, generator=generator, dtype=torch.get_default_dtype())

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], self.targets[index]


def benchmark_of(counts: dict[int, int], tasks: list[list[int]], features: int = 8) -> Any:
    return nc_benchmark(
        Points(counts, features),
        Points(dict.fromkeys(counts, 2), features),
        n_experiences=len(tasks),
        task_labels=False,
        fixed_class_order=[c for task in tasks for c in task],
        per_exp_classes={i: len(task) for i, task in enumerate(tasks)},
    )


class Labels:
    """A dataset of which only the labels matter."""

    def __init__(self, targets: list[int]) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)


class FirstImages(SupervisedPlugin):
    """A memory of the first m images of every old class, joined to the training data."""

    def __init__(self, m: int) -> None:
        super().__init__()
        self.m, self.kept = m, None

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        if self.kept is not None:
            strategy.adapted_dataset = strategy.adapted_dataset.concat(self.kept)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        dataset = strategy.experience.dataset
        groups = dataset.targets.val_to_idx.values()
        first = dataset.subset([i for group in groups for i in list(group)[: self.m]])
        self.kept = first if self.kept is None else self.kept.concat(first)


class Each(SupervisedPlugin):
    """Calls a function before every update."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        super().__init__()
        self.function = function

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.function(strategy)


def template_of(
    model: nn.Module, criterion: Any, plugins: list[Any], lr: float = 0.1, **kwargs: Any
) -> SupervisedTemplate:
    return SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
        criterion=criterion,
        plugins=plugins,
        train_mb_size=kwargs.pop("train_mb_size", 17),
        evaluator=EvaluationPlugin(),
        **kwargs,
    )


def perceptron(width: int = 7, *, growing: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), IncrementalClassifier(16) if growing else nn.Linear(16, width)
    )


def split_gradients(strategy: Any, kd: DistributionAwareDistillationPlugin, criterion: Any) -> Any:
    """((W, b) of the criterion, (W, b) of the distillation, backbone gradient of the sum), by autograd."""
    model = copy.deepcopy(strategy.model)  # the batch statistics must not move twice
    output = model(strategy.mb_x)
    head = last_linear(model)
    ce = criterion(output, strategy.mb_y)
    of_ce = torch.autograd.grad(ce, [head.weight, head.bias], retain_graph=True)
    if not kd.counts.seen.num_old:
        (backbone,) = torch.autograd.grad(ce, next(model.parameters()))
        return of_ce, None, backbone
    old = torch.tensor(kd.counts.seen.class_ids[: kd.counts.seen.num_old])
    args = output[:, old], kd.teacher.logits(strategy.mb_x)[:, old]
    if kd.kind == "vanilla":
        loss = losses.distillation_loss(*args, kd.temperature)
    else:
        loss = losses.distribution_aware_distillation_loss(*args, kd.counts.lost, kd.temperature)
    loss = kd.kd_ratio * kd.temperature**2 * loss
    of_kd = torch.autograd.grad(loss, [head.weight, head.bias], retain_graph=True)
    (backbone,) = torch.autograd.grad(ce + loss, next(model.parameters()))
    return of_ce, of_kd, backbone


def run(reweighting: GradientReweightingPlugin, kd: Any, check: Callable[[Any], None], **kwargs: Any) -> None:
    """Two experiences of a long-tailed stream with shuffled ids on a stock template."""
    plugins = [FirstImages(kwargs.pop("memory", 6)), *([kd] if kd else []), reweighting, Each(check)]
    criterion = kwargs.pop("criterion", None) or BalancedSoftmax()
    model = kwargs.pop("model", None) or perceptron()
    strategy = template_of(model, criterion, plugins, **kwargs)
    for experience in list(benchmark_of(COUNTS, SHUFFLED).train_stream)[:2]:
        strategy.train(experience)


def batches(
    dataset: Any, batch_size: int, train: bool, generator: Any = None, sampler: Any = None
) -> Iterator[list[Tensor]]:
    for first in range(0, len(dataset), batch_size):
        rows = [dataset[i] for i in range(first, min(first + batch_size, len(dataset)))]
        x, y = torch.stack([row[0] for row in rows]), torch.tensor([row[1] for row in rows])
        yield [x, y, torch.zeros_like(y)]
