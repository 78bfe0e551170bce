"""Large images: how fast the loader alone delivers them, beside how fast they are trained on."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmark.datasets import ImageArrays
from benchmark.loading.loader import ArrayLoader
from benchmark.perf.clock import ForeignLoad
from benchmark.perf.setting import begin, config, make_learner
from benchmark.streams import long_tailed_benchmark

SIDE, CROP, IMAGES, BATCH = 256, 224, 512, 32


def loader_and_training(mode: str, rounds: int = 3) -> dict[str, Any]:
    """Images a second of random resized crops from a memory map on disk, and of ResNet-18's training steps on them."""
    load = ForeignLoad()
    with tempfile.TemporaryDirectory() as folder:
        arrays = _arrays(Path(folder))
        benchmark = long_tailed_benchmark(
            arrays, protocol=[2], profile="conventional", rho=1, max_count=IMAGES // 2, order="ordered"
        )
        experience = benchmark.train_stream[0]
        loader = ArrayLoader(benchmark.images, arrays, "resized_crop")
        alone = []
        for _ in range(rounds):
            started = time.perf_counter()
            for _ in loader(experience.dataset, BATCH, train=True, generator=torch.Generator().manual_seed(0)):
                pass
            alone.append(IMAGES / (time.perf_counter() - started))
        run = config("replay", mode, backbone="resnet18", batch_size=BATCH, augmentation="resized_crop")
        learner = make_learner(run, arrays, benchmark)
        begin(learner, experience)
        x, y, _ = next(iter(learner.dataloader))
        trained = []
        for r in range(rounds + 1):
            started = time.perf_counter()
            learner.dataloader = [[x, y, torch.zeros_like(y)]]  # a batch at hand: the step without its loading
            learner.training_epoch()
            if r:
                trained.append(BATCH / (time.perf_counter() - started))
    return {
        "what": f"the loader alone, random resized crops of {CROP} from a memory map, ResNet-18, batch {BATCH}",
        "mode": mode,
        "foreign_cores": load.cores(),
        "loader_images_per_second": median(alone),
        "training_images_per_second": median(trained),
        "ratio": median(alone) / median(trained),
    }


def _arrays(folder: Path) -> ImageArrays:
    """Noise on disk, memory-mapped as the cache's images are."""
    path = folder / "images.npy"
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(IMAGES, SIDE, SIDE, 3))
    images[:] = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    images.flush()
    stored, labels = np.load(path, mmap_mode="r"), np.repeat(np.arange(2), IMAGES // 2)
    return ImageArrays(
        name="noise", train_images=stored, train_labels=labels, test_images=stored[:2], test_labels=np.arange(2),
        class_names=("a", "b"), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), flip=True, crop_size=CROP,
    )  # fmt: skip
