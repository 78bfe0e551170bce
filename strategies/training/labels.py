"""Labels, rows and annotations of a dataset as arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from avalanche.benchmarks.utils import AvalancheDataset

UNANNOTATED = -1  # of an image and a class: nobody said whether it is shown


def targets_array(dataset: AvalancheDataset) -> np.ndarray:
    """Labels of a dataset: class ids (N,) int64, or the annotations (N, K) int8 of a multi-label one.

    Annotations: 1 where the image shows the class, 0 where it does not, -1 where nobody said; columns are class ids.
    """
    if hasattr(dataset, "annotations"):
        rows = list(dataset.annotations)
        return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.int8)
    return np.fromiter((int(label) for label in dataset.targets), dtype=np.int64, count=len(dataset))


def rows_array(attribute: Iterable[Any]) -> np.ndarray:
    """A data attribute with one row of labels per image (`annotations`, `truth`) as an array (N, K) int8."""
    return np.array(list(attribute), dtype=np.int8)


def with_annotations(dataset: AvalancheDataset, rows: np.ndarray) -> AvalancheDataset:
    """The same images with other multi-label annotations (N, K): 1, 0, or -1 for not annotated."""
    changed = dataset.update_data_attribute("annotations", rows)
    changed.annotations = changed._data_attributes["annotations"]  # Avalanche leaves the old one where there was one
    return changed


def class_positions(dataset: AvalancheDataset) -> dict[int, np.ndarray]:
    """label -> positions of its images in `dataset`, labels ascending; several labels may share an image."""
    targets = targets_array(dataset)
    if targets.ndim == 2:
        return {int(c): np.flatnonzero(targets[:, c] == 1) for c in np.flatnonzero((targets == 1).any(axis=0))}
    return {int(label): np.flatnonzero(targets == label) for label in np.unique(targets)}
