"""Images as row numbers: the store that batches are cut from, and the datasets Avalanche's own loader reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

PADDING = 4  # of the random crop at stored size, as in LUCIR


@dataclass(frozen=True)
class ImageStore:
    """A dataset's images, uint8 (N, H, W, 3) and (M, H, W, 3), in memory or memory-mapped; never copied here.

    `sample_index` i below ``len(train)`` is row i of `train`, any other is row ``i - len(train)`` of `test`.
    """

    train: np.ndarray
    test: np.ndarray

    def __len__(self) -> int:
        return len(self.train) + len(self.test)

    def __getitem__(self, index: int) -> np.ndarray:
        """One image, uint8 (H, W, 3)."""
        return self.train[index] if index < len(self.train) else self.test[index - len(self.train)]


class StoredImages(Dataset[tuple[Tensor, int]]):
    """The images at some sample indices, as (uint8 (3, H, W) tensor, arrival label)."""

    def __init__(self, store: ImageStore, sample_index: Sequence[int], targets: Sequence[int]) -> None:
        self.store, self.sample_index, self.targets = store, list(sample_index), list(targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        image = np.array(self.store[self.sample_index[place]])  # a copy of one image: the store may be read-only
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), self.targets[place]


class RelabelledRows(Dataset[tuple[Any, int]]):
    """Some rows of a torch dataset, with its own transform, as (item, arrival label)."""

    def __init__(self, dataset: Any, rows: Sequence[int], targets: Sequence[int]) -> None:
        self.dataset, self.rows, self.targets = dataset, list(rows), list(targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        return self.dataset[self.rows[place]][0], self.targets[place]


class WithoutTargets(Dataset[tuple[Any]]):
    """The items of a dataset without their labels, which come from an attribute that may change."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> tuple[Any]:
        return (self.dataset[place][0],)


def transform_groups(arrays: Any) -> dict[str, tuple[Any, None]]:
    """Avalanche's ``train`` and ``eval`` transforms from uint8 (3, H, W) to normalised float, for an ImageArrays.

    Training crops at random after padding by 4 pixels or, where the dataset has a `crop_size` (its images are stored
    larger), resizes a random crop to it; evaluation then takes the centre. Flips happen where the dataset allows them.
    """
    height, width = arrays.train_images.shape[1:3]
    scale = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(arrays.mean), list(arrays.std))]
    flip = [v2.RandomHorizontalFlip()] if arrays.flip else []
    crop_size = getattr(arrays, "crop_size", None)
    if crop_size is None:
        train, evaluation = [v2.RandomCrop((height, width), padding=PADDING)], []
    else:
        train, evaluation = [v2.RandomResizedCrop(crop_size, antialias=True)], [v2.CenterCrop(crop_size)]
    return {"train": (v2.Compose([*train, *flip, *scale]), None), "eval": (v2.Compose([*evaluation, *scale]), None)}
