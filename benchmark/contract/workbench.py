"""A stream and training runs that take a fraction of a second: what the contract trains a recipe on.

Nine classes of 8x8 images with 20 to 1 training images arrive in three experiences; the second is smaller than a batch.
Recipes for several labels an image get images that show one or two of nine classes, as many positives of each.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Tensor, nn

from benchmark import backbones
from benchmark.contract.probes import Camera, Watch, differences, trainable
from benchmark.datasets.arrays import ImageArrays, channel_statistics
from benchmark.loading.loader import ArrayLoader
from benchmark.runs.checkpoint import detached
from benchmark.runs.evaluation import evaluate
from benchmark.streams import LongTailedBenchmark, long_tailed_benchmark
from strategies.networks.incremental import IncrementalNetwork
from strategies.training.labels import targets_array
from strategies.training.learner import IncrementalLearner, Optimisation
from strategies.training.memory import concatenate
from strategies.training.recipe import Context, MemoryPolicy, Parts, Recipe
from strategies.training.schedule import Schedule
from strategies.training.stages import Stage, Unit

COUNTS = (20, 12, 6, 4, 1, 3, 16, 9, 5)  # training images per class in arrival order
FROM_SCRATCH, FROM_HALF = (3, 3, 3), (5, 2, 2)  # classes per experience
TEST_IMAGES = 6  # per class; positives of it, where images have several labels
BATCH_SIZE = 10  # the second experience has eight images
EPOCHS, FEW_EPOCHS = 6, 1  # few where nothing needs to be learned
STAGE_EPOCHS = 4  # of second stages in the contract, which have up to 200
LR = 0.05
MEMORY = MemoryPolicy(3, "per_class", "herding")


def patterns() -> ImageArrays:
    """Every class is a pattern of four colours plus noise."""
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 256, (len(COUNTS), 2, 2, 3)).repeat(4, axis=1).repeat(4, axis=2)

    def noisy(per_class: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(len(COUNTS)), per_class)
        images = pattern[labels] + rng.normal(0, 30, (len(labels), 8, 8, 3))
        return images.clip(0, 255).astype(np.uint8), labels

    train, test = noisy(max(COUNTS)), noisy(TEST_IMAGES)
    names = tuple(f"pattern {i}" for i in range(len(COUNTS)))
    return ImageArrays("patterns", *train, *test, names, *channel_statistics(train[0]), flip=False)


def scenes() -> ImageArrays:
    """Every class is a tile of four colours; one or two classes stand in the quarters of a noisy grey image."""
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (len(COUNTS), 2, 2, 3)).repeat(2, axis=1).repeat(2, axis=2)

    def drawn(positives: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        shown = rng.permutation(np.repeat(np.arange(len(COUNTS)), positives)).tolist()
        rows = []
        while shown:  # the next class, and the one behind it where it is another
            other = shown.pop() if len(shown) > 1 and shown[-1] != shown[-2] and rng.random() < 0.7 else None
            rows.append([shown.pop(), other])
        labels = np.zeros((len(rows), len(COUNTS)), dtype=np.uint8)
        images = 128 + rng.normal(0, 20, (len(rows), 8, 8, 3))
        for row, classes in enumerate(rows):
            places = rng.permutation(4)
            for label, place in zip(classes, places, strict=False):
                if label is not None:
                    top, left = 4 * (place // 2), 4 * (place % 2)
                    images[row, top : top + 4, left : left + 4] += tiles[label] - 128
                    labels[row, label] = 1
        return images.clip(0, 255).astype(np.uint8), labels

    train, test = drawn(COUNTS), drawn([TEST_IMAGES] * len(COUNTS))
    names = tuple(f"tile {i}" for i in range(len(COUNTS)))
    return ImageArrays("scenes", *train, *test, names, *channel_statistics(train[0]), flip=False)


def scene_stream(arrays: ImageArrays, sizes: Sequence[int] = FROM_SCRATCH) -> LongTailedBenchmark:
    """Classes arrive in the order of their labels, `sizes` per experience."""
    return long_tailed_benchmark(arrays, protocol=list(sizes), profile="natural", order="ordered")


def pattern_stream(arrays: ImageArrays, sizes: Sequence[int] = FROM_SCRATCH) -> LongTailedBenchmark:
    """`COUNTS` images of each class, `sizes` classes per experience."""
    ranked = sorted(range(len(COUNTS)), key=lambda c: -COUNTS[c])
    order = [ranked.index(c) for c in range(len(COUNTS))]  # label r has the r-th largest count
    return long_tailed_benchmark(arrays, protocol=list(sizes), profile=[COUNTS[c] for c in ranked], order=order)


MATERIAL = {"single": (patterns, pattern_stream), "multi": (scenes, scene_stream)}  # by the recipe's task_kind


@dataclass(frozen=True)
class Saved:
    """The state of a run after `done` experiences, or inside the next one."""

    where: str
    done: int
    content: bytes


def packed(content: dict[str, Any]) -> bytes:
    """As a checkpoint file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@dataclass
class Trained:
    """A training run and what was seen of it; lists have one entry per experience where nothing else is said."""

    learner: IncrementalLearner
    stream: LongTailedBenchmark
    arrays: ImageArrays
    watch: Watch
    losses: list[float] = field(default_factory=list)  # one per epoch
    epochs: int = 0  # of all experiences, as the strategy wants them: a plugin may change `train_epochs`
    records: list[dict[str, Any]] = field(default_factory=list)  # lines of metrics.jsonl
    predictions: list[dict[str, Tensor]] = field(default_factory=list)  # scores by classifier
    thawed: list[str] = field(default_factory=list)  # parameters whose requires_grad was left changed
    data_changes: list[str] = field(default_factory=list)
    global_changes: list[str] = field(default_factory=list)

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.learner.model.state_dict()

    @property
    def memories(self) -> list[Any]:
        """Plugins that hold exemplars."""
        return [plugin for plugin in self.learner.plugins if hasattr(plugin, "held")]


class Workbench:
    """Trains one recipe as often as the checks need; the plain run is shared by those that only look at it.

    Stages train for at most `stage_epochs`; None leaves them as the recipe has them.
    """

    def __init__(self, recipe: Recipe, stage_epochs: int | None = None) -> None:
        self.recipe, self.stage_epochs = recipe, stage_epochs

    @cached_property
    def plain(self) -> Trained:
        """The whole stream, default memory, seed 0."""
        return self.train()

    def parts(self, memory: MemoryPolicy = MEMORY, seed: int = 0, epochs: int = EPOCHS) -> tuple[nn.Module, Parts]:
        """A backbone and the recipe's parts, weights drawn from `seed`."""
        torch.manual_seed(seed)
        backbone: Any = backbones.build("convnet", self.recipe.last_relu)
        context = Context(backbone.num_features, backbone, memory, seed, epochs, BATCH_SIZE, LR)
        parts = self.recipe.build(context)
        if self.stage_epochs is not None and isinstance(parts, Parts):
            parts.stages = [self._shortened(stage) for stage in parts.stages]
        return backbone, parts

    def _shortened(self, stage: Unit) -> Unit:
        assert self.stage_epochs is not None
        return replace(stage, epochs=min(stage.epochs, self.stage_epochs)) if isinstance(stage, Stage) else stage

    def start(
        self,
        sizes: Sequence[int] = FROM_SCRATCH,
        memory: MemoryPolicy = MEMORY,
        seed: int = 0,
        epochs: int = EPOCHS,
    ) -> Trained:
        """A learner and its stream, nothing trained; both of its own, so that runs cannot reach each other."""
        make_arrays, make_stream = MATERIAL[self.recipe.task_kind]
        arrays = make_arrays()
        stream = make_stream(arrays, sizes)
        backbone, parts = self.parts(memory, seed, epochs)
        watch = Watch()
        learner = IncrementalLearner(
            network=IncrementalNetwork(backbone, parts.head),
            parts=parts,
            optimisation=Optimisation(epochs, BATCH_SIZE, LR, schedule=Schedule("cosine")),
            loader=ArrayLoader(stream.images, arrays, "none"),
            seed=seed,
            plugins=[watch],
        )
        trained = Trained(learner, stream, arrays, watch)
        learner.on_epoch = lambda epoch, epochs, loss, images: trained.losses.append(loss)
        return trained

    def train(self, experiences: int | None = None, **settings: Any) -> Trained:
        """Train on the first `experiences` of a stream (default: all); `settings` as in `start`."""
        with torch.random.fork_rng(devices=[]):
            trained = self.start(**settings)
            self.go_on(trained, range(experiences or len(trained.stream.train_stream)))
        return trained

    def states(self) -> list[Saved]:
        """Taken in one run: between experiences, in the middle of the second, behind the last epoch of the third."""
        found = []
        with torch.random.fork_rng(devices=[]):
            trained = self.start()
            camera = Camera({1: (EPOCHS // 2, 1), 2: (EPOCHS, 0)})
            trained.learner.plugins.append(camera)
            state = None
            for t in range(len(FROM_SCRATCH)):
                camera.picture = None
                self.go_on(trained, [t])
                if camera.picture:
                    found.append(Saved(f"in experience {t + 1}", t, packed({"state": state, **camera.picture})))
                state = detached(trained.learner.state_dict())
                if t + 1 < len(FROM_SCRATCH):
                    found.append(Saved(f"after {t + 1}", t + 1, packed({"state": state, "progress": None})))
        return found

    def resume(self, saved: Saved) -> Trained:
        """Load a saved state into a fresh learner and go on to the end."""
        with torch.random.fork_rng(devices=[]):
            trained = self.start()
            loaded = torch.load(io.BytesIO(saved.content), weights_only=True)
            trained.learner.load_state_dict(loaded["state"], list(trained.stream.train_stream)[: saved.done])
            if loaded["progress"]:
                trained.learner.resume_progress(loaded["progress"])
            self.go_on(trained, range(saved.done, len(FROM_SCRATCH)))
        return trained

    def go_on(self, trained: Trained, experiences: Sequence[int]) -> None:
        """Train and evaluate experiences, and note what that changed outside the learner."""
        data = data_fingerprint(trained)
        with restored_global_state() as shared:
            for t in experiences:
                self._train_experience(trained, t)
            trained.global_changes += differences(shared, global_state())
        trained.data_changes += differences(data, data_fingerprint(trained))

    def _train_experience(self, trained: Trained, t: int) -> None:
        learner = trained.learner
        learner.train(trained.stream.train_stream[t], eval_streams=[])
        trained.epochs += learner.train_epochs
        if trained.watch.trainable:  # there was a step
            trained.thawed += differences(trained.watch.trainable, trainable(learner.model))
        trained.records.append(evaluate(learner, trained.stream, t)[0])
        trained.predictions.append(learner.predict(seen_tests(trained.stream, t)))


def seen_tests(stream: LongTailedBenchmark, t: int) -> AvalancheDataset:
    """The test images of all classes seen after experience t."""
    return concatenate([experience.dataset for experience in stream.test_stream[: t + 1]])


def data_fingerprint(trained: Trained) -> dict[str, Any]:
    """Images by their bytes, experiences by their rows and labels."""
    found: dict[str, Any] = {
        "the training images": hashlib.sha256(trained.arrays.train_images.tobytes()).hexdigest(),
        "the test images": hashlib.sha256(trained.arrays.test_images.tobytes()).hexdigest(),
    }
    for name in ("train_stream", "test_stream"):
        for t, experience in enumerate(getattr(trained.stream, name)):
            found[f"targets of {name}[{t}]"] = targets_array(experience.dataset).tolist()
            found[f"sample_index of {name}[{t}]"] = list(experience.dataset.sample_index)
    return found


def global_state() -> dict[str, Any]:
    """Settings of torch that a strategy shares with everything else in the process."""
    return {
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
    }


@contextmanager
def restored_global_state() -> Iterator[dict[str, Any]]:
    """Yield the state on entry and put it back on exit: one bad strategy must not spoil the next."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    gradients, deterministic = torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
    try:
        yield global_state()
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        torch.use_deterministic_algorithms(deterministic)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
