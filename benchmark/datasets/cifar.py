"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): from the original pickles, a PNG tree, or downloaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.datasets.arrays import ImageArrays, Triple
from benchmark.datasets.decode import tree_arrays
from benchmark.datasets.download import download
from benchmark.datasets.tree import train_test_tree
from benchmark.errors import UserError


@dataclass(frozen=True)
class _Variant:
    loader: str  # class in torchvision.datasets
    pickles: str  # the folder it unpacks
    num_classes: int
    mean: Triple
    std: Triple

    def open(self, folder: str, **options: bool) -> Any:
        """torchvision's dataset object on `folder`."""
        from torchvision import datasets

        return getattr(datasets, self.loader)(folder, **options)


# CIFAR-100: mean and averaged per-image deviation of the LUCIR, LT-CIL and GR codes (the deviation over all pixels
# would be 0.267, 0.256, 0.276); CIFAR-10: over all pixels.
_VARIANTS = {
    "cifar10": _Variant("CIFAR10", "cifar-10-batches-py", 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": _Variant("CIFAR100", "cifar-100-python", 100, (0.5071, 0.4866, 0.4409), (0.2009, 0.1984, 0.2023)),
}


def load(name: str, *, root: Path | None = None, cache_dir: str | Path | None = None) -> ImageArrays:
    """CIFAR by `name`, uint8 (N, 32, 32, 3); labels are alphabetical ranks, as in the original release.

    `root` may hold the original pickles, a PNG tree train/<class>/*.png and test/<class>/*.png, or neither: then the
    data are downloaded into it (without a root, into the cache).

    Raises
    ------
    UserError
        damaged files, another number of classes, a failed download
    """
    variant = _VARIANTS[name]
    if root is not None and (root / variant.pickles).is_dir():
        return _from_pickles(name, root, variant)
    if root is not None and (root / "train").is_dir():
        return _from_tree(name, root, variant, cache_dir)
    layouts = f"the pickles ({variant.pickles}/) or a PNG tree (train/<class>/*.png and test/<class>/*.png)"
    folder = download(name, root, layouts, lambda folder: variant.open(folder, download=True), cache_dir=cache_dir)
    return _from_pickles(name, folder, variant)


def _from_pickles(name: str, folder: Path, variant: _Variant) -> ImageArrays:
    try:  # torchvision compares checksums before it unpickles anything
        train, test = (variant.open(str(folder), train=is_train) for is_train in (True, False))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"The files in {folder / variant.pickles} are incomplete or not the original {name} release: "
            "remove that folder to download it again."
        ) from error
    return ImageArrays(
        name=name,
        train_images=np.ascontiguousarray(train.data),
        train_labels=np.asarray(train.targets, dtype=np.int64),
        test_images=np.ascontiguousarray(test.data),
        test_labels=np.asarray(test.targets, dtype=np.int64),
        class_names=tuple(train.classes),
        mean=variant.mean,
        std=variant.std,
        flip=True,
    )


def _from_tree(name: str, root: Path, variant: _Variant, cache_dir: str | Path | None) -> ImageArrays:
    tree = train_test_tree(root)
    if len(tree.class_names) != variant.num_classes:
        raise UserError(
            f"{root / 'train'} holds {len(tree.class_names)} class folders, {name} has {variant.num_classes}; "
            'load other trees as the dataset "folder".'
        )
    arrays = tree_arrays(name, tree, resolution=32, cache_dir=cache_dir)
    return replace(arrays, mean=variant.mean, std=variant.std)
