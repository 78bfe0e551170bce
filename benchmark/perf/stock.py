"""The same job on stock Avalanche: `Naive` + `ReplayPlugin`, the way its documentation shows, beside `replay` here.

Stock Avalanche draws as many exemplars as new images into every batch, so jobs are compared by the images they really
process: our time is scaled to the stock job's images, training and evaluation apart.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.supervised import Naive
from torch import nn

from benchmark import backbones
from benchmark.perf.ceiling import operations_per_second, training_operations
from benchmark.perf.clock import ForeignLoad
from benchmark.perf.setting import BATCH, config, make_learner, noise_stream
from strategies.training.learner import silent_evaluator
from strategies.training.memory import concatenate

TASKS, PER_CLASS, CLASSES, TEST = 3, 128, 4, 64


class CountingNaive(Naive):
    """Naive that counts the images it trains on."""

    images = 0

    def forward(self) -> torch.Tensor:
        if self.is_training:
            self.images += len(self.mb_x)
        return super().forward()


def side_by_side(mode: str, rounds: int = 3) -> dict[str, Any]:
    """Train and evaluate after every experience of a three-experience stream, one epoch each, jobs alternating."""
    arrays, benchmark = noise_stream([CLASSES] * TASKS, PER_CLASS, TEST)
    budget = CLASSES * PER_CLASS
    memory = {"budget": budget, "mode": "total", "selection": "random"}
    run = config("replay", mode, memory, epochs=1)
    load = ForeignLoad()
    compile_seconds = 0.0
    if run.training.compile == "on":  # once per process: a second learner finds the compiled code; 4 steps included
        warm = make_learner(run, arrays, benchmark)
        started = time.perf_counter()
        warm.train(benchmark.train_stream[0], eval_streams=[])
        compile_seconds = time.perf_counter() - started
    ours, stock, limits = [], [], []
    operations = training_operations("resnet32")
    for _ in range(rounds):
        limits.append(operations_per_second(run.training.precision) / operations)  # images a second
        ours.append(_ours(run, arrays, benchmark))
        stock.append(_stock(benchmark, budget))
    train, evaluate = [], []  # seconds an image, (ours, stock) per round
    for mine, theirs in zip(ours, stock, strict=True):
        train.append((mine[0] / mine[1], theirs[0] / theirs[1]))
        evaluate.append((mine[2] / mine[3], theirs[2] / theirs[3]))
    limit = [images * theirs for images, (_, theirs) in zip(limits, train, strict=True)]
    images = stock[0][1], stock[0][3]
    ends = [
        (t[1] * images[0] + e[1] * images[1]) / (t[0] * images[0] + e[0] * images[1])
        for t, e in zip(train, evaluate, strict=True)
    ]
    return {
        "what": f"`replay` here, {mode}, against stock Avalanche (fp32, Naive + ReplayPlugin, its loader); ResNet-32,"
        f" batch {BATCH}, {TASKS} experiences of {CLASSES} classes, {PER_CLASS} images a class, 1 thread, no workers",
        "mode": mode,
        "foreign_cores": load.cores(),
        "compile_seconds": compile_seconds,
        "train_images_per_second": [1 / median(t[i] for t in train) for i in (0, 1)],
        "eval_images_per_second": [1 / median(e[i] for e in evaluate) for i in (0, 1)],
        "train_limit": median(limit),
        "train_speedup": median(t[1] / t[0] for t in train),
        "eval_speedup": median(e[1] / e[0] for e in evaluate),
        "end_to_end_speedup": median(ends),
        "end_to_end_range": [min(ends), max(ends)],
    }


def _ours(run: Any, arrays: Any, benchmark: Any) -> tuple[float, int, float, int]:
    """(training seconds, images trained, evaluation seconds, images evaluated)."""
    learner = make_learner(run, arrays, benchmark)
    train = evaluate = 0.0
    trained = evaluated = 0
    for t, experience in enumerate(benchmark.train_stream):
        started = time.perf_counter()
        learner.train(experience, eval_streams=[])
        between = time.perf_counter()
        seen = concatenate([exp.dataset for exp in benchmark.test_stream[: t + 1]])
        learner.predict(seen)
        evaluate += time.perf_counter() - between
        train += between - started
        trained += learner.images_trained
        evaluated += len(seen)
    return train, trained, evaluate, evaluated


class _Network(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = backbones.build("resnet32")
        self.head = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


def _stock(benchmark: Any, memory: int) -> tuple[float, int, float, int]:
    torch.manual_seed(0)
    model = _Network(CLASSES * TASKS)
    strategy = CountingNaive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        train_epochs=1,
        eval_mb_size=500,
        plugins=[ReplayPlugin(mem_size=memory)],
        evaluator=silent_evaluator(),
    )
    train = evaluate = 0.0
    evaluated = 0
    for t, experience in enumerate(benchmark.train_stream):
        started = time.perf_counter()
        strategy.train(experience)
        between = time.perf_counter()
        strategy.eval(benchmark.test_stream[: t + 1])
        evaluate += time.perf_counter() - between
        train += between - started
        evaluated += sum(len(exp.dataset) for exp in benchmark.test_stream[: t + 1])
    return train, strategy.images, evaluate, evaluated
