"""What every measurement shares: a stream of noise, a learner that has begun an experience, honest clocks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmark.config import RunConfig, check
from benchmark.datasets import ImageArrays
from benchmark.loading import ArrayLoader
from benchmark.run import Resolved, build_learner, resolve
from benchmark.streams import LongTailedBenchmark, long_tailed_benchmark
from strategies.template import IncrementalLearner

BATCH = 128


def noise_stream(
    sizes: Sequence[int], per_class: int | Sequence[int], test_per_class: int = 20
) -> tuple[ImageArrays, Any]:
    """Random 32x32 images, sizes[t] new classes in experience t: speed does not depend on what images show.

    `per_class` is a number of images for all classes, or one for each class.
    """
    rng = np.random.default_rng(0)
    classes = sum(sizes)
    labels, test_labels = (np.repeat(np.arange(classes), n) for n in (per_class, test_per_class))
    arrays = ImageArrays(
        name="noise",
        train_images=rng.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8),
        train_labels=labels,
        test_images=rng.integers(0, 256, (len(test_labels), 32, 32, 3), dtype=np.uint8),
        test_labels=test_labels,
        class_names=tuple(map(str, range(classes))),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        flip=True,
    )
    return arrays, long_tailed_benchmark(arrays, protocol=list(sizes), profile="natural", order="ordered")


def config(strategy: str, mode: str, memory: dict[str, Any] | None = None, **training: Any) -> RunConfig:
    """A run of `strategy`; mode is bf16 or fp32, with "+compile" behind it for a compiled backbone."""
    precision, _, compiled = mode.partition("+")
    settings = {"backbone": "resnet32", "batch_size": BATCH, "precision": precision}
    settings |= {"compile": "on" if compiled else "off"} | training
    return RunConfig.model_validate({"strategy": {"name": strategy}, "memory": memory or {}, "training": settings})


def make_learner(run: RunConfig, arrays: ImageArrays, benchmark: LongTailedBenchmark) -> IncrementalLearner:
    """The learner that `imcil run` would train, on the CPU."""
    loader = ArrayLoader(benchmark.images, arrays, run.training.augmentation)
    return build_learner(run, check(run), loader, resolve(run, benchmark, "cpu"))


def resolved(run: RunConfig, benchmark: LongTailedBenchmark) -> Resolved:
    return resolve(run, benchmark, "cpu")


def begin(learner: IncrementalLearner, experience: Any) -> None:
    """Everything `train` does before its first epoch."""
    learner.is_training = True
    learner.model.train()
    learner.experience = experience
    learner._before_training()
    learner._before_training_exp()
    learner._before_training_epoch()


def interleave(functions: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of each function per round, in rotating order after one warm-up, so that a busy machine slows all alike.

    A number that a function returns divides its time.
    """
    times: list[list[float]] = [[] for _ in functions]
    for r in range(rounds + 1):
        for k in range(len(functions)):
            i = (k + r) % len(functions)
            started = time.perf_counter()
            count = functions[i]()
            elapsed = (time.perf_counter() - started) / (count or 1.0)
            if r:
                times[i].append(elapsed)
    return times


def interval(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """Median of the ratios of rounds that ran side by side, and its 95 % confidence interval (order statistics)."""
    from scipy.stats import binom

    ratios = sorted(a / b for a, b in zip(numerators, denominators, strict=True))
    low = max(int(binom.ppf(0.025, len(ratios), 0.5)) - 1, 0)
    return {"ratio": median(ratios), "interval": [ratios[low], ratios[-1 - low]], "pairs": len(ratios)}


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """Median and range of the ratios of rounds that ran side by side."""
    ratios = sorted(a / b for a, b in zip(numerators, denominators, strict=True))
    return {"ratio": median(ratios), "ratio_range": [ratios[0], ratios[-1]]}


class ForeignLoad:
    """Cores that other processes kept busy while a measurement ran; None where /proc/stat cannot be read."""

    def __init__(self) -> None:
        self.start = self._read()

    def cores(self) -> float | None:
        if self.start is None:
            return None
        now = self._read()
        assert now is not None
        wall = max(now[0] - self.start[0], 1e-9)
        return round(max((now[1] - self.start[1]) - (now[2] - self.start[2]), 0.0) / wall, 2)

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """(wall, seconds all processes were busy, seconds this one and its children were)."""
        try:
            fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        except OSError:
            return None
        user, nice, system, _, _, irq, soft = fields[:7]
        busy = (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return time.perf_counter(), busy, own.user + own.system + own.children_user + own.children_system
