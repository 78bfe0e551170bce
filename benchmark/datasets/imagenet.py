"""ImageNet (ILSVRC 2012) from a local tree train/<wnid>/* and val/<wnid>/*: all 1000 classes or the usual 100."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.datasets.arrays import ImageArrays
from benchmark.datasets.decode import LARGE, tree_arrays
from benchmark.datasets.tree import class_folders, train_test_tree
from benchmark.errors import UserError

_FULL, _SUBSET = 1000, 100


def load(name: str, *, root: Path | None = None, cache_dir: str | Path | None = None) -> ImageArrays:
    """ImageNet by `name` ("imagenet_subset" or "imagenet_full"), uint8 (N, 256, 256, 3), trained at 224.

    val/ is the test set; a class's label is its alphabetical rank among those chosen. The subset is that of LUCIR
    (Hou et al., CVPR 2019) and LT-CIL (Liu et al., ECCV 2022); PODNet's list of 100 is another one.

    Raises
    ------
    UserError
        no root, a missing folder, another number of classes, a file that cannot be decoded
    """
    if root is None:
        raise UserError(f'The dataset "{name}" needs a root: a folder that holds train/<wnid>/* and val/<wnid>/*.')
    for folder in ("train", "val"):
        if not (root / folder).is_dir():
            raise UserError(f"There is no folder {folder}/ under {root}: wanted train/<wnid>/* and val/<wnid>/*.")
    if not class_folders(root, "val"):
        raise UserError(f"{root / 'val'} holds no class folders: sort its images into val/<wnid>/ first.")
    wnids = class_folders(root, "train")
    wanted = (_FULL,) if name == "imagenet_full" else (_SUBSET, _FULL)
    if len(wnids) not in wanted:
        numbers = " or ".join(str(number) for number in wanted)
        raise UserError(f'{root / "train"} holds {len(wnids)} class folders; "{name}" needs {numbers}.')
    if name == "imagenet_subset" and len(wnids) == _FULL:
        wnids = [wnids[index] for index in subset_indices()]
    tree = train_test_tree(root, "val", classes=wnids)
    return tree_arrays(name, tree, resolution=LARGE, cache_dir=cache_dir)


def subset_indices() -> list[int]:
    """Ranks, among the 1000 sorted wnids, of the subset's 100 classes: 54, 7, 894, 512, … in the order drawn.

    As np.random.seed(1993); np.random.choice(1000, 100, replace=False), without touching numpy's global state.
    """
    return np.random.RandomState(1993).choice(_FULL, _SUBSET, replace=False).tolist()
