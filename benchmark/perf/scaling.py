"""What a step, an evaluation and a memory cost as experiences and classes grow."""

from __future__ import annotations

import resource
import time
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmark.perf.clock import ForeignLoad, interleave, ratio
from benchmark.perf.setting import BATCH, begin, config, epoch_of, make_learner, noise_stream
from strategies.training.memory import herding_order

ROUNDS = 7


def over_experiences(strategies: tuple[str, ...], mode: str, tasks: int = 50, early: int = 5) -> dict[str, Any]:
    """Time per image in experience `tasks` over experience `early`, at equal batch counts (small net: overhead shows).

    One class an experience, a fixed total memory that both moments fill exactly.
    """
    arrays, benchmark = noise_stream([1] * tasks, 2 * BATCH, 4)
    memory = {"budget": 2 * BATCH, "mode": "total", "selection": "random"}
    rows = {}
    load = ForeignLoad()
    for name in strategies:
        learners = []
        for until in (early - 1, tasks - 1):
            learner = make_learner(config(name, mode, memory, backbone="convnet"), arrays, benchmark)
            learner.train_epochs = 1
            for t in range(until):
                learner.train(benchmark.train_stream[t], eval_streams=[])
            begin(learner, benchmark.train_stream[until])
            learners.append(learner)
        early_times, late_times = interleave([epoch_of(learner) for learner in learners], ROUNDS)
        rows[name] = ratio(late_times, early_times)
    return {
        "what": f"time per image, experience {tasks} over experience {early}, convnet, memory of {2 * BATCH} in total",
        "mode": mode,
        "foreign_cores": load.cores(),
        "strategies": rows,
    }


def over_classes(strategies: tuple[str, ...], mode: str, counts: tuple[int, ...] = (10, 100, 1000)) -> dict[str, Any]:
    """Milliseconds a step of 128 images with 10 to 1,000 classes, half of them old, convnet."""
    load = ForeignLoad()
    rows: dict[str, dict[str, float]] = {}
    for name in strategies:
        learners = []
        for classes in counts:
            per_class = -(-2 * BATCH // classes)
            arrays, benchmark = noise_stream([classes // 2, classes // 2], per_class, 1)
            memory = {"budget": per_class, "mode": "per_class", "selection": "random"}
            learner = make_learner(config(name, mode, memory, backbone="convnet"), arrays, benchmark)
            learner.train_epochs = 1
            learner.parts.stages.clear()
            learner.train(benchmark.train_stream[0], eval_streams=[])
            begin(learner, benchmark.train_stream[1])
            learners.append(learner)
        times = interleave([epoch_of(learner) for learner in learners], ROUNDS)
        rows[name] = {
            str(classes): 1000 * BATCH * median(seconds) for classes, seconds in zip(counts, times, strict=True)
        }
    return {
        "what": f"milliseconds per {BATCH} images, convnet, half of the classes old",
        "mode": mode,
        "foreign_cores": load.cores(),
        "strategies": rows,
    }


def evaluation_and_herding(mode: str) -> dict[str, Any]:
    """Images a second of an evaluation with every classifier, and of herding 20 of 500 images a class."""
    arrays, benchmark = noise_stream([10], 60, 100)
    learner = make_learner(config("icarl", mode, epochs=1), arrays, benchmark)
    learner.train(benchmark.train_stream[0], eval_streams=[])
    dataset = benchmark.test_stream[0].dataset
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32))

    def evaluate() -> float:
        learner.predict(dataset)
        return float(len(dataset))

    def herd() -> float:
        herding_order(features, 20)
        return float(len(features))

    evaluated, herded = interleave([evaluate, herd], ROUNDS)
    return {
        "what": "images a second: evaluation (ResNet-32, head and NME), herding 20 of 500 images of one class",
        "mode": mode,
        "evaluation": 1 / median(evaluated),
        "herding": 1 / median(herded),
    }


def thousand_classes(mode: str, experiences: int = 100, strategy: str = "replay") -> dict[str, Any]:
    """1,000 classes of glyph pairs in 100 experiences, 20 exemplars and 10 test images a class: memory, time.

    Run it in a process of its own: the peak it reads is the process's.
    """
    from benchmark import datasets
    from benchmark.config.checks import check
    from benchmark.loading.loader import ArrayLoader
    from benchmark.runs.environment import resolve
    from benchmark.runs.evaluation import evaluate
    from benchmark.runs.prepare import build_learner
    from benchmark.streams import long_tailed_benchmark

    run = config(
        strategy, mode, {"budget": 20, "mode": "per_class", "selection": "herding"}, backbone="convnet", epochs=1
    )
    arrays = datasets.load("glyphs", classes=1000, train_per_class=40, test_per_class=10)
    benchmark = long_tailed_benchmark(
        arrays, protocol="lfs", tasks=experiences, profile="conventional", rho=1, order="ordered"
    )
    learner = build_learner(
        run, check(run), ArrayLoader(benchmark.images, arrays, "crop"), resolve(run, benchmark, "cpu")
    )
    steps = []
    for t, experience in enumerate(benchmark.train_stream):
        started = time.perf_counter()
        learner.train(experience, eval_streams=[])
        trained = time.perf_counter()
        evaluate(learner, benchmark, t)
        steps.append(
            {
                "experience": t + 1,
                "train_seconds": round(trained - started, 4),
                "images": learner.images_trained,
                "eval_seconds": round(time.perf_counter() - trained, 4),
                "peak_bytes": _peak_bytes(),
            }
        )
    return {
        "what": f"1,000 classes of glyph pairs in {experiences} experiences, {strategy}, convnet, 20 exemplars and 10 "
        "test images a class; peak memory at experience 100, exemplars included, over that at experience 10",
        "mode": mode,
        "peak_ratio": steps[-1]["peak_bytes"] / steps[9]["peak_bytes"],
        "steps": steps,
    }


def memory_of_a_run(mode: str, strategy: str = "dgr") -> dict[str, Any]:
    """Peak memory of a run on as many images as CIFAR-100 has, above that of the imported libraries.

    Two long-tailed experiences, one epoch each, the second with a teacher, and the evaluations. Run it in a process of
    its own: the peak it reads is the process's.
    """
    from benchmark.runs.evaluation import evaluate
    from benchmark.streams import long_tailed_benchmark

    libraries = _peak_bytes()
    memory = {"budget": 20, "mode": "per_class", "selection": "herding"}
    arrays, _ = noise_stream([100], 500, 100)
    benchmark = long_tailed_benchmark(arrays, protocol="lfs", tasks=2, rho=100, order="ordered")
    learner = make_learner(config(strategy, mode, memory, epochs=1), arrays, benchmark)
    for t, experience in enumerate(benchmark.train_stream):
        learner.train(experience, eval_streams=[])
        evaluate(learner, benchmark, t)
    peak = _peak_bytes()
    return {
        "what": f"peak memory of `{strategy}` on 60,000 images of 32x32, ResNet-32, batch {BATCH}, two long-tailed "
        "experiences and their evaluation",
        "mode": mode,
        "peak_bytes": peak,
        "libraries_bytes": libraries,
    }


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
