"""Training steps of strategies against the bare loop, in the first and in the second experience."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from benchmark.datasets import ImageArrays
from benchmark.perf.bare import bare_loop
from benchmark.perf.clock import ForeignLoad, interleave, interval, ratio
from benchmark.perf.setting import BATCH, begin, config, epoch_of, make_learner, noise_stream
from benchmark.streams import LongTailedBenchmark
from strategies.registry import NAMES, get
from strategies.training.labels import targets_array
from strategies.training.learner import IncrementalLearner

STEPS, ROUNDS = 3, 5
FIRST_ROUNDS = 12  # few methods, and the ratio that is judged: 5 rounds of a shared machine ranged from 0.79 to 1.26
PAIRS = 60  # single steps by turns: a difference of a few percent needs many
CONTROLS = ("gdumb", "ncm", "joint", "joint_bsce")  # nothing of an experience's own to step over, or all data


def first_experience(strategies: Sequence[str], mode: str) -> dict[str, Any]:
    """Steps without a teacher: the whole harness against the bare loop, ratio = bare seconds / ours."""
    arrays, benchmark = noise_stream([8, 8], BATCH * STEPS // 8)
    load = ForeignLoad()
    rows = {}
    for name in strategies:
        learner = make_learner(config(name, mode), arrays, benchmark)
        begin(learner, benchmark.train_stream[0])
        ours, bare = interleave([epoch_of(learner), _bare(learner, arrays, benchmark, mode, False)], FIRST_ROUNDS)
        rows[name] = _speeds(ours, bare)
    return {
        "what": f"first experience, ResNet-32, batch {BATCH}, channels_last, 1 thread; median of {FIRST_ROUNDS} epochs "
        f"of {STEPS} steps, interleaved",
        "mode": mode,
        "foreign_cores": load.cores(),
        "strategies": rows,
    }


def later_experience(strategies: Sequence[str], mode: str, old: int = 50, new: int = 50) -> dict[str, Any]:
    """Steps beside a teacher: 50 old and 50 new classes. All strategies alternate, so they compare with one another."""
    load = ForeignLoad()
    learners, arrays, benchmark = _in_second_experience(strategies, mode, old, new)
    floor = _bare(learners[0], arrays, benchmark, mode, True)
    *ours, bare = interleave([*map(epoch_of, learners), floor], ROUNDS)
    rows = {name: _speeds(times, bare) for name, times in zip(strategies, ours, strict=True)}
    return {
        "what": f"second experience, {old} old and {new} new classes, teacher included in the bare loop; ResNet-32, "
        f"batch {BATCH}, channels_last, 1 thread; median of {ROUNDS} epochs, interleaved",
        "mode": mode,
        "foreign_cores": load.cores(),
        "strategies": rows,
    }


def every_method(mode: str, old: int = 50, new: int = 50) -> dict[str, Any]:
    """Steps of all methods for one label an image, relative to `replay` on the same images."""
    names = [name for name in NAMES if get(name).task_kind == "single" and name not in CONTROLS]
    load = ForeignLoad()
    learners, *_ = _in_second_experience(names, mode, old, new, backbone="resnet20")
    times = dict(zip(names, interleave([*map(epoch_of, learners)], ROUNDS), strict=True))
    return {
        "what": f"time per image trained over that of `replay`, {old} old and {new} new classes, ResNet-20, batch "
        f"{BATCH}, second stages and the controls {', '.join(CONTROLS)} apart",
        "mode": mode,
        "foreign_cores": load.cores(),
        "strategies": {name: ratio(times[name], times["replay"]) for name in names if name != "replay"},
    }


def side_by_side(mode: str) -> dict[str, Any]:
    """A step over another that differs in one thing: of `dgr` over `lwf`, with diagnostics over without (of `replay`).

    50 old and 50 new classes, one step of 128 images an epoch: 50 exemplars and 78 new images.
    """
    from strategies.training.diagnostics import DiagnosticsPlugin

    old = new = 50
    extra = BATCH - old - new
    arrays, benchmark = noise_stream([old, new], [*[1] * old, *[2] * extra, *[1] * (new - extra)])
    memory = {"budget": 1, "mode": "per_class", "selection": "random"}

    def second_experience(name: str, *plugins: Any) -> Any:
        learner = make_learner(config(name, mode, memory), arrays, benchmark)
        learner.train_epochs = 1
        learner.parts.stages.clear()
        learner.plugins.extend(plugins)
        learner.train(benchmark.train_stream[0], eval_streams=[])
        begin(learner, benchmark.train_stream[1])
        return epoch_of(learner)

    load = ForeignLoad()
    lwf, dgr = interleave([second_experience("lwf"), second_experience("dgr")], PAIRS)
    plain, recorded = interleave([second_experience("replay"), second_experience("replay", DiagnosticsPlugin())], PAIRS)
    return {
        "what": f"ResNet-32, one step of {BATCH} images by turns, {old} old and {new} new classes; median of {PAIRS} "
        "pairs (95 % interval)",
        "mode": mode,
        "foreign_cores": load.cores(),
        "dgr_over_lwf": interval(dgr, lwf),
        "diagnostics_over_none": interval(recorded, plain),
    }


def _in_second_experience(
    strategies: Sequence[str], mode: str, old: int, new: int, **training: Any
) -> tuple[list[IncrementalLearner], ImageArrays, LongTailedBenchmark]:
    """A learner for each method that has begun its second experience: its epoch has `STEPS` steps, or one more."""
    per_class = BATCH * STEPS // (2 * new) + 1
    arrays, benchmark = noise_stream([old, new], per_class)
    memory = {"budget": per_class, "mode": "per_class", "selection": "random"}
    learners = []
    for name in strategies:
        learner = make_learner(config(name, mode, memory, **training), arrays, benchmark)
        learner.train_epochs = 1
        learner.parts.stages.clear()  # second stages are not steps of the main training
        learner.train(benchmark.train_stream[0], eval_streams=[])
        begin(learner, benchmark.train_stream[1])
        learners.append(learner)
    return learners, arrays, benchmark


def _bare(
    learner: IncrementalLearner, arrays: ImageArrays, benchmark: LongTailedBenchmark, mode: str, teacher: bool
) -> Any:
    """The bare loop over the very images that the learner is training on."""
    rows = np.fromiter(learner.adapted_dataset.sample_index, dtype=np.int64)
    labels = targets_array(learner.adapted_dataset)
    return bare_loop(arrays, rows, labels, int(labels.max()) + 1, mode, teacher)


def _speeds(ours: Sequence[float], bare: Sequence[float]) -> dict[str, Any]:
    """`ours` and `bare` are seconds an image."""
    return {
        "images_per_second": 1 / median(ours),
        "bare_images_per_second": 1 / median(bare),
        **ratio(bare, ours),
    }
