"""What a stream is made from: one of our datasets or a (train, test) pair of torch datasets, behind one face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_classification_dataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute, TaskLabels
from avalanche.benchmarks.utils.transform_groups import TransformGroups

from benchmark.errors import UserError
from benchmark.streams.images import ImageStore, RelabelledRows, StoredImages, WithoutTargets, transform_groups


class MakeDataset(Protocol):
    """Makes the AvalancheDataset of some rows; `group` is the transform group it starts with.

    `targets` are arrival labels (n,) or, of a multi-label source, annotations (n, K).
    """

    def __call__(self, rows: Sequence[int], targets: Any, *, test: bool, group: str) -> AvalancheDataset: ...


@dataclass(frozen=True)
class Source:
    """Labels of the training and test images, a name for each label, and how rows become a dataset.

    Labels are class ids, (N,) and (M,) int64, or multi-hot rows of 0 and 1, (N, K) and (M, K) uint8.
    """

    name: str
    train_labels: np.ndarray
    test_labels: np.ndarray
    class_names: dict[int, str]
    images: ImageStore | None
    dataset: MakeDataset


def as_source(source: Any) -> Source:
    """Recognise ImageArrays (by its fields) or a pair of torch datasets with ``targets``; UserError otherwise."""
    if hasattr(source, "train_images"):
        return _from_arrays(source)
    if isinstance(source, tuple | list) and len(source) == 2:
        return _from_pair(*source)
    raise UserError(
        f"A stream cannot be made from {type(source).__name__}: pass a dataset of benchmark.datasets, "
        "a (train, test) pair of torch datasets, or an Avalanche benchmark with train_stream and test_stream."
    )


def _from_arrays(arrays: Any) -> Source:
    store = ImageStore(arrays.train_images, arrays.test_images)
    train_labels, test_labels = _labels(arrays.train_labels), _labels(arrays.test_labels)
    make = _stored_dataset if train_labels.ndim == 1 else _annotated_dataset
    return Source(
        name=arrays.name,
        train_labels=train_labels,
        test_labels=test_labels,
        class_names=dict(enumerate(map(str, arrays.class_names))),
        images=store,
        dataset=partial(make, store, transform_groups(arrays)),
    )


def _labels(labels: Any) -> np.ndarray:
    """Class ids as int64; multi-hot rows as uint8, checked."""
    array = np.asarray(labels)
    if array.ndim == 1:
        return array.astype(np.int64, copy=False)
    if not np.isin(array, (0, 1)).all():
        raise UserError("The labels of a multi-label dataset must be rows of 0 and 1.")
    return array.astype(np.uint8, copy=False)


def _from_pair(train: Any, test: Any) -> Source:
    train_labels, test_labels = _targets(train, "training"), _targets(test, "test")
    labels = [int(label) for label in np.unique(train_labels)]
    names = list(getattr(train, "classes", []))
    return Source(
        name=type(train).__name__,
        train_labels=train_labels,
        test_labels=test_labels,
        class_names={label: str(names[label]) if 0 <= label < len(names) else str(label) for label in labels},
        images=None,
        dataset=partial(_torch_dataset, train, test),
    )


def _targets(dataset: Any, role: str) -> np.ndarray:
    """Labels of a torch dataset: its ``targets``, or the last tensor of a TensorDataset."""
    targets = getattr(dataset, "targets", None)
    if targets is None and hasattr(dataset, "tensors"):
        targets = dataset.tensors[-1]
    if targets is None:
        raise UserError(f"The {role} dataset ({type(dataset).__name__}) has no targets: give it a list of labels.")
    return np.asarray(list(targets), dtype=np.int64)


def _stored_dataset(
    store: ImageStore,
    groups: dict[str, tuple[Any, None]],
    rows: Sequence[int],
    targets: Sequence[int],
    *,
    test: bool,
    group: str,
) -> AvalancheDataset:
    offset = len(store.train) if test else 0
    index = [row + offset for row in rows]
    dataset = _make_taskaware_classification_dataset(
        StoredImages(store, index, targets),
        transform_groups=groups,
        initial_transform_group=group,
        task_labels=0,
        targets=list(targets),
    )
    return dataset.update_data_attribute("sample_index", DataAttribute(index, "sample_index"))


def _annotated_dataset(
    store: ImageStore,
    groups: dict[str, tuple[Any, None]],
    rows: Sequence[int],
    annotations: np.ndarray,
    *,
    test: bool,
    group: str,
) -> AvalancheDataset:
    """Multi-label images; `annotations` is an attribute that Avalanche puts into every item, in the label's place."""
    offset = len(store.train) if test else 0
    index = [row + offset for row in rows]
    return AvalancheDataset(
        [WithoutTargets(StoredImages(store, index, index))],
        transform_groups=TransformGroups(groups, current_group=group),
        data_attributes=[
            DataAttribute(annotations, "annotations", use_in_getitem=True),
            TaskLabels([0] * len(index)),
            DataAttribute(index, "sample_index"),
        ],
    )


def _torch_dataset(
    train: Any, test_set: Any, rows: Sequence[int], targets: Sequence[int], *, test: bool, group: str
) -> AvalancheDataset:
    return _make_taskaware_classification_dataset(
        RelabelledRows(test_set if test else train, rows, targets),
        initial_transform_group=group,
        task_labels=0,
        targets=list(targets),
    )
