"""Batches without a DataLoader: index a uint8 tensor, augment the whole batch, normalise.

One core makes 50,000 CIFAR batches' images a second this way, against 8,000 through torchvision's per-image transforms,
so no worker processes are needed. On an accelerator small datasets are resident and batches are made there; large
images are read ahead from their memory map (`loading.prefetch`). Every random number comes from the generator passed
in: batches repeat under a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from benchmark.loading.augmentation import Augment, make_augment
from benchmark.loading.prefetch import LARGE, gather, read_ahead
from strategies.networks.precision import sent
from strategies.training.labels import targets_array
from strategies.training.recipe import batch_sizes

if TYPE_CHECKING:
    from benchmark.datasets import ImageArrays
    from benchmark.streams import ImageStore

RESIDENT = 2 * 1024**3  # bytes of a split; CIFAR's training images have 150 MB


@dataclass
class InMemoryBatches:
    """Iterates over `[x, y, t]`: x float (B, 3, h, w) in channels_last layout, y labels, t zeros (B,) (one task)."""

    images: Tensor | np.ndarray  # uint8 (N, H, W, 3)
    rows: np.ndarray  # row of `images` per sample
    visits: int  # samples in one pass
    labels: Tensor  # (N,) or, of a multi-label dataset, (N, C)
    batch_size: int
    last_batch: str  # see `strategies.training.recipe`
    augment: Augment
    order: Callable[[], Tensor]
    generator: torch.Generator
    scale: Tensor
    offset: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(batch_sizes(self.visits, self.batch_size, self.last_batch))

    def __iter__(self) -> Iterator[list[Tensor]]:
        return self.iterate_from(0)

    def iterate_from(self, first: int) -> Iterator[list[Tensor]]:
        """The batches from number `first` on. Their order is drawn now; no image before them is read or augmented."""
        order = self.order()
        sizes = batch_sizes(len(order), self.batch_size, self.last_batch)
        return self._make(order.split(sizes)[first:] if sizes else ())

    def _pixels(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The stored images of every batch, uint8 (B, H, W, 3)."""
        rows = (self.rows[chosen.numpy()] for chosen in batches)
        if isinstance(self.images, Tensor):
            resident = self.images
            return (resident[sent(torch.from_numpy(chosen), resident.device)] for chosen in rows)
        stored, pinned = self.images, self.device.type == "cuda"
        if stored[:1].nbytes >= LARGE:
            return read_ahead(lambda chosen: gather(stored, chosen, pinned), rows)
        return (torch.from_numpy(stored[chosen]) for chosen in rows)

    def _make(self, batches: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        for chosen, pixels in zip(batches, self._pixels(batches), strict=True):
            batch = self.augment(pixels.to(self.device, non_blocking=True), self.generator)
            x = batch.float().mul_(self.scale).sub_(self.offset).permute(0, 3, 1, 2)
            y = sent(self.labels[chosen], self.device)
            yield [x, y, torch.zeros(len(y), dtype=torch.long, device=self.device)]


class ArrayLoader:
    """Loader factory over a stream's images (see `strategies.training.recipe.LoaderFactory`).

    A dataset without `sample_index` goes through a plain DataLoader, so any Avalanche benchmark still trains.
    """

    def __init__(
        self,
        images: ImageStore | None,
        arrays: ImageArrays | None,
        augmentation: str,
        device: str | torch.device = "cpu",
        last_batch: str = "keep",
    ) -> None:
        self.images, self.last_batch = images, last_batch
        self.device = torch.device(device)
        self.augments = augmentation != "none"
        if images is not None:
            self.train, self.test = resident(images.train, self.device), resident(images.test, self.device)
        if arrays is not None:
            self.augment = make_augment(augmentation, arrays.flip, arrays.crop_size)
            self.plain = make_augment("none", False, arrays.crop_size)
            mean, std = torch.tensor(arrays.mean), torch.tensor(arrays.std)
            self.scale = (1 / (255 * std)).to(self.device)
            self.offset = (mean / std).to(self.device)

    def __call__(
        self,
        dataset: AvalancheDataset,
        batch_size: int,
        train: bool,
        generator: torch.Generator | None = None,
        sampler: Sequence[int] | Sampler[int] | None = None,
    ) -> Iterable[list[Tensor]]:
        """Batches of `dataset`: shuffled by `generator` and augmented if `train`, else in order.

        sampler : positions to visit instead, in this order (a class-balanced second stage, for instance); a Sampler
            draws them anew in every pass, from `generator` if a resumed epoch is to repeat them.
        """
        if self.images is None or not hasattr(dataset, "sample_index"):
            dataset = dataset.train() if train else dataset.eval()
            if sampler is not None:
                return DataLoader(dataset, batch_size, sampler=sampler)
            return DataLoader(dataset, batch_size, shuffle=train, generator=generator)
        generator = generator or torch.Generator()
        index, labels = attribute_array(dataset.sample_index), trimmed(targets_array(dataset))
        source, rows = self._source(index)
        n = len(index) if sampler is None else len(sampler)  # type: ignore[arg-type]

        def order() -> Tensor:
            if sampler is not None:
                return torch.as_tensor(list(sampler) if isinstance(sampler, Sampler) else sampler, dtype=torch.long)
            return torch.randperm(n, generator=generator) if train else torch.arange(n)

        last_batch = self.last_batch if train else "keep"
        return InMemoryBatches(
            source, rows, n, torch.from_numpy(labels), batch_size, last_batch,
            self.augment if train else self.plain, order, generator, self.scale, self.offset, self.device,
        )  # fmt: skip

    def _source(self, index: np.ndarray) -> tuple[Tensor | np.ndarray, np.ndarray]:
        """The array that holds these samples, and their rows in it. Training and test images never share a batch."""
        assert self.images is not None
        first_test = len(self.images.train)
        is_test = index >= first_test
        if is_test.any() and not is_test.all():
            raise ValueError("A dataset joins training and test images; load them one after the other.")
        return (self.test, index - first_test) if is_test.any() else (self.train, index)


def resident(images: np.ndarray, device: torch.device) -> Tensor | np.ndarray:
    """The images on an accelerator, where all of them fit easily; else as they are. On the CPU nothing is copied."""
    if device.type == "cpu" or images.nbytes > RESIDENT:
        return images
    return torch.from_numpy(np.array(images)).to(device)


def trimmed(labels: np.ndarray) -> np.ndarray:
    """Annotations (N, K) without the last columns that no image annotates: classes still to come. Class ids stay."""
    if labels.ndim == 1:
        return labels
    known = np.flatnonzero((labels >= 0).any(axis=0))
    return labels[:, : known.max(initial=-1) + 1]


def attribute_array(attribute: Iterable[int]) -> np.ndarray:
    """An Avalanche DataAttribute as int64 (N,)."""
    return np.fromiter(attribute, dtype=np.int64)
