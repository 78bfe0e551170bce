"""A deterministic test split, class by class."""

from __future__ import annotations

import zlib

import numpy as np


def held_out(count: int, fraction: float, class_name: str, seed: int) -> np.ndarray:
    """Mark the test images among the `count` images of a class.

    At least one image lands on either side (`count` >= 2). The choice depends on the class's own name and count only,
    so other classes may come and go.

    Returns
    -------
    bool (count,), True = test
    """
    tests = min(max(round(fraction * count), 1), count - 1)
    order = np.random.default_rng([seed, zlib.crc32(class_name.encode())]).permutation(count)
    mask = np.zeros(count, dtype=bool)
    mask[order[:tests]] = True
    return mask
