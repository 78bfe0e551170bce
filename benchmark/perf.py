"""`make perf`: the harness against a bare PyTorch loop doing the same step, interleaved in one process, one thread.

A benchmark, never a test. Both loops train ResNet-32 with batches of 128 from uint8 images in memory, crop, flip and
normalise them, and run in the same precision and layout. Epochs of both alternate, so that a busy machine slows both.
Results go to results/perf/*.json, with the machine's description and what other processes used of it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import models
from benchmark.config import RunConfig, check
from benchmark.datasets import ImageArrays
from benchmark.loading import ArrayLoader, random_crop
from benchmark.run import Resolved, build_learner, environment, resolve
from benchmark.store import write_json
from benchmark.streams import LongTailedBenchmark, long_tailed_benchmark
from strategies.template import IncrementalLearner

OUT = Path("results/perf")
BATCH, STEPS, ROUNDS = 128, 4, 9
STRATEGIES = ("replay", "lwf", "dgr")


def main() -> int:
    """Measure, print a table, write the files."""
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for precision in ("bf16", "fp32"):
        record = measure_steps(precision)
        write_json(OUT / f"step_{precision}.json", record)
        for name, row in record["strategies"].items():
            print(
                f"{precision} {name}: {row['images_per_second']:.0f} images/s, bare loop "
                f"{row['bare_images_per_second']:.0f}; ratio {row['ratio']:.3f} ({row['ratio_range'][0]:.3f}-"
                f"{row['ratio_range'][1]:.3f})"
            )
    record = measure_growth()
    write_json(OUT / "growth.json", record)
    for name, row in record["strategies"].items():
        print(f"{name}: last experience / second, time per image: {row['ratio']:.3f}")
    return 0


def measure_steps(precision: str) -> dict[str, Any]:
    """Step time of strategies in their first experience against the bare loop."""
    arrays, benchmark = _stream(tasks=2, classes=8, per_class=BATCH * STEPS // 8)
    strategies = {}
    resolved = None
    for name in STRATEGIES:
        run = _config(name, precision)
        resolved = resolve(run, benchmark, "cpu")
        learner = _learner(run, arrays, benchmark, resolved)
        _begin(learner, benchmark.train_stream[0])
        epoch = bare_loop(arrays, benchmark, precision)
        ours, bare = _interleave(learner.training_epoch, epoch)
        ratios = sorted(b / o for o, b in zip(ours, bare, strict=True))
        images = STEPS * BATCH
        strategies[name] = {
            "images_per_second": images / median(ours),
            "bare_images_per_second": images / median(bare),
            "ratio": median(ratios),
            "ratio_range": [ratios[0], ratios[-1]],
        }
    assert resolved is not None
    return {
        "what": f"ResNet-32, batch {BATCH}, {precision}, channels_last, 1 thread, first experience; "
        f"median of {ROUNDS} epochs of {STEPS} steps, interleaved",
        "environment": environment(resolved),
        "strategies": strategies,
    }


def measure_growth(tasks: int = 10) -> dict[str, Any]:
    """Time per image of the last experience against the second, at equal batch counts.

    Two classes an experience and a fixed total that both 2 and 18 old classes fill exactly: 320 new and 288 old images.
    """
    arrays, benchmark = _stream(tasks=tasks, classes=2, per_class=160)
    budget = 2 * (tasks - 1) * 16
    strategies = {}
    resolved = None
    for name in ("replay", "dgr"):
        run = _config(name, "bf16", memory={"budget": budget, "mode": "total", "selection": "random"})
        resolved = resolve(run, benchmark, "cpu")
        learners = []
        for until in (1, tasks - 1):
            learner = _learner(run, arrays, benchmark, resolved)
            learner.train_epochs = 1
            for t in range(until):
                learner.train(benchmark.train_stream[t], eval_streams=[])
            _begin(learner, benchmark.train_stream[until])
            learners.append(learner)

        def per_image(learner: IncrementalLearner) -> Callable[[], float]:
            def epoch() -> float:
                before = learner.images_trained
                learner.training_epoch()
                return float(learner.images_trained - before)

            return epoch

        second, last = _interleave(per_image(learners[0]), per_image(learners[1]))
        ratios = sorted(b / a for a, b in zip(second, last, strict=True))
        strategies[name] = {"ratio": median(ratios), "ratio_range": [ratios[0], ratios[-1]]}
    assert resolved is not None
    return {
        "what": f"time per image, experience {tasks} of {tasks} over experience 2, memory of {budget} in total",
        "environment": environment(resolved),
        "strategies": strategies,
    }


def bare_loop(arrays: ImageArrays, benchmark: LongTailedBenchmark, precision: str) -> Callable[[], None]:
    """One epoch of the same step in plain PyTorch."""
    torch.manual_seed(0)
    backbone = models.build("resnet32").to(memory_format=torch.channels_last)
    head = nn.Linear(64, 8)
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.1, momentum=0.9, weight_decay=5e-4)
    rows = np.fromiter(benchmark.train_stream[0].dataset.sample_index, dtype=np.int64)
    images = torch.from_numpy(np.ascontiguousarray(arrays.train_images[rows]))
    labels = torch.from_numpy(np.fromiter(benchmark.train_stream[0].dataset.targets, dtype=np.int64))
    std = torch.tensor(arrays.std)
    scale, offset = 1 / (255 * std), torch.tensor(arrays.mean) / std
    generator = torch.Generator().manual_seed(0)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            features = backbone(x)
        nn.functional.cross_entropy(head(features.float()), y).backward()
        optimizer.step()

    def epoch() -> None:
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):
            x = random_crop(images[batch], generator, flip=True)
            step(x.float().mul_(scale).sub_(offset).permute(0, 3, 1, 2), labels[batch])

    return epoch


def _interleave(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[list[float], list[float]]:
    """Seconds of both, alternating and swapping the first; one warm-up each. A number returned divides its time."""
    times: tuple[list[float], list[float]] = ([], [])
    for r in range(ROUNDS + 1):
        order = ((0, first), (1, second)) if r % 2 else ((1, second), (0, first))
        for i, function in order:
            started = time.perf_counter()
            count = function()
            elapsed = (time.perf_counter() - started) / (count or 1.0)
            if r:
                times[i].append(elapsed)
    return times


def _stream(tasks: int, classes: int, per_class: int) -> tuple[ImageArrays, LongTailedBenchmark]:
    """Random images, `classes` new ones an experience: speed does not depend on what they show."""
    rng = np.random.default_rng(0)
    num_classes = classes * tasks
    labels = np.repeat(np.arange(num_classes), per_class)
    images = rng.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    arrays = ImageArrays(
        name="noise", train_images=images, train_labels=labels, test_images=images, test_labels=labels,
        class_names=tuple(map(str, range(num_classes))), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), flip=True,
    )  # fmt: skip
    stream = long_tailed_benchmark(
        arrays, protocol="lfs", tasks=tasks, profile="conventional", rho=1, max_count=per_class, order="ordered"
    )
    return arrays, stream


def _config(strategy: str, precision: str, memory: dict[str, Any] | None = None) -> RunConfig:
    return RunConfig.model_validate(
        {
            "strategy": {"name": strategy},
            "memory": memory or {},
            "training": {"backbone": "resnet32", "batch_size": BATCH, "precision": precision, "compile": "off"},
        }
    )


def _learner(
    run: RunConfig, arrays: ImageArrays, benchmark: LongTailedBenchmark, resolved: Resolved
) -> IncrementalLearner:
    loader = ArrayLoader(benchmark.images, arrays, run.training.augmentation)
    return build_learner(run, check(run), loader, resolved)


def _begin(learner: IncrementalLearner, experience: Any) -> None:
    """Everything `train` does before its first epoch."""
    learner.is_training = True
    learner.model.train()
    learner.experience = experience
    learner._before_training()
    learner._before_training_exp()
    learner._before_training_epoch()


if __name__ == "__main__":
    sys.exit(main())
