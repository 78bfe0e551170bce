"""What every measurement of training shares: a stream of noise, a learner that has begun an experience."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmark.config.checks import check
from benchmark.config.schema import RunConfig
from benchmark.datasets import ImageArrays
from benchmark.loading.loader import ArrayLoader
from benchmark.runs.environment import Resolved, resolve
from benchmark.runs.prepare import build_learner
from benchmark.streams import LongTailedBenchmark, long_tailed_benchmark
from strategies.training.learner import IncrementalLearner

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


def make_learner(
    run: RunConfig, arrays: ImageArrays, benchmark: LongTailedBenchmark, device: str = "cpu"
) -> IncrementalLearner:
    """The learner that `imcil run` would train."""
    loader = ArrayLoader(benchmark.images, arrays, run.training.augmentation, device)
    return build_learner(run, check(run), loader, resolve(run, benchmark, device))


def resolved(run: RunConfig, benchmark: LongTailedBenchmark) -> Resolved:
    """What `auto` became for a run on the CPU."""
    return resolve(run, benchmark, "cpu")


def begin(learner: IncrementalLearner, experience: Any) -> None:
    """Everything `train` does before its first epoch."""
    learner.is_training = True
    learner.model.train()
    learner.experience = experience
    learner._before_training()
    learner._before_training_exp()
    learner._before_training_epoch()


def epoch_of(learner: IncrementalLearner) -> Callable[[], float]:
    """One epoch of an experience that has begun; it returns its images."""

    def epoch() -> float:
        before = learner.images_trained
        learner.training_epoch()
        return float(learner.images_trained - before)

    return epoch
