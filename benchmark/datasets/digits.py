"""Handwritten digits (UCI, in scikit-learn): 1,797 grey images of 8x8 pixels, small enough for smoke tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.datasets.arrays import ImageArrays, channel_statistics
from benchmark.datasets.split import held_out


def load(name: str, *, test_fraction: float = 0.25, seed: int = 0, cache_dir: str | Path | None = None) -> ImageArrays:
    """The ten digits as uint8 RGB (N, 8, 8, 3); nothing is cached, `cache_dir` is not used."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    labels = bunch.target.astype(np.int64)
    test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        test[rows] = held_out(len(rows), test_fraction, str(digit), seed)
    train_images = np.ascontiguousarray(images[~test])
    mean, std = channel_statistics(train_images)
    return ImageArrays(
        name=name,
        train_images=train_images,
        train_labels=labels[~test],
        test_images=np.ascontiguousarray(images[test]),
        test_labels=labels[test],
        class_names=tuple(str(digit) for digit in range(10)),
        mean=mean,
        std=std,
        flip=False,
    )
