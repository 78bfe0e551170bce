"""ImageArrays: what every dataset yields, and the figures computed from it. Needs numpy only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

IMAGES_HASHED = 4096
Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageArrays:
    """A labelled image dataset as plain arrays; the images may be read-only memory maps.

    Attributes
    ----------
    name : the name it was loaded by
    train_images, test_images : uint8 (N, H, W, 3), C-contiguous
    train_labels, test_labels : int64 (N,), values 0 .. K-1; of a multi-label set uint8 (N, K) of 0 and 1
    class_names : K names, by label
    mean, std : per channel, of pixels scaled to [0, 1]
    flip : whether a horizontal flip keeps the label
    crop_size : side of the crop to train on, None for the stored size
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    mean: Triple
    std: Triple
    flip: bool
    crop_size: int | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def task_kind(self) -> str:
        """Labels an image has: "single" or "multi"."""
        return "single" if self.train_labels.ndim == 1 else "multi"


_SAMPLE = 50_000  # images that are read for the statistics, at most
_BLOCK = 4096  # of which in memory at a time


def channel_statistics(images: np.ndarray) -> tuple[Triple, Triple]:
    """Mean and standard deviation of each channel, pixels scaled to [0, 1].

    Of more than 50,000 images, evenly spaced ones serve. A channel without any variation gets a deviation of 1, so that
    dividing by it is safe.
    """
    sample = images[:: -(-len(images) // _SAMPLE)]
    histogram = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(sample), _BLOCK):
        for channel in range(3):
            pixels = sample[start : start + _BLOCK, ..., channel]
            histogram[channel] += np.bincount(pixels.ravel(), minlength=256)
    values = np.arange(256) / 255.0
    weights = histogram / histogram.sum(axis=1, keepdims=True)
    mean = weights @ values
    variance = (weights * (values[None, :] - mean[:, None]) ** 2).sum(axis=1)
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return _triple(mean), _triple(std)


def _triple(values: np.ndarray) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def images_hash(arrays: ImageArrays) -> str:
    """SHA-256 of shapes, labels, and up to 4,096 evenly spaced images of each half: another dataset gives another."""
    digest = hashlib.sha256()
    for images, labels in ((arrays.train_images, arrays.train_labels), (arrays.test_images, arrays.test_labels)):
        digest.update(f"{images.shape} {labels.shape}".encode())
        digest.update(labels.tobytes())
        digest.update(images[:: -(-len(images) // IMAGES_HASHED) or 1].tobytes())
    return digest.hexdigest()
