"""Batches without a DataLoader: index a uint8 tensor, augment the whole batch, normalise.

One core makes 50,000 CIFAR batches' images a second this way, against 8,000 through torchvision's per-image transforms,
so no worker processes are needed. On an accelerator small datasets are resident and batches are made there; large
images are read ahead from their memory map (`benchmark.prefetch`). Every random number comes from the generator passed
in: batches repeat under a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from benchmark.prefetch import LARGE, gather, read_ahead
from strategies.batches import batch_sizes
from strategies.features import targets_array
from strategies.transfer import sent

if TYPE_CHECKING:
    from benchmark.datasets import ImageArrays
    from benchmark.streams import ImageStore

PAD = 4
RESIDENT = 2 * 1024**3  # bytes of a split; CIFAR's training images have 150 MB
AUGMENTATIONS = ("crop", "resized_crop", "crop_jitter", "none")
Augment = Callable[[Tensor, torch.Generator], Tensor]


def make_augment(name: str, flip: bool, crop_size: int | None = None) -> Augment:
    """Batched augmentation, uint8 (B, H, W, 3) -> uint8 or float (B, h, w, 3) in 0…255.

    crop : zero-pad 4, random crop of the original size, flip (LUCIR and most CIFAR code).
    resized_crop : zero-pad 4, random resized crop, flip (FACIL, LT-CIL, GR); images stored larger than `crop_size`
        are cropped without padding, the ImageNet recipe. Deviation: bilinear without antialiasing, on the batch.
    crop_jitter : crop, then brightness factor in 1 ± 63/255 (PyCIL, PODNet).
    none : nothing.

    `flip` False (digits, glyphs: chiral classes) leaves mirroring out of all of them.
    """
    if name not in AUGMENTATIONS:
        raise ValueError(f'training.augmentation "{name}" is unknown. Valid choices: {", ".join(AUGMENTATIONS)}.')

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        if name == "none":
            return centre_crop(images, crop_size)
        if crop_size is not None or name == "resized_crop":
            return random_resized_crop(images, generator, flip, crop_size)
        cropped = random_crop(images, generator, flip)
        return jitter_brightness(cropped, generator) if name == "crop_jitter" else cropped

    return augment


def random_crop(images: Tensor, generator: torch.Generator, flip: bool) -> Tensor:
    """Zero-pad 4 and crop at a random offset per image, mirrored with probability 1/2 if `flip`; one gather."""
    b, h, w, _ = images.shape
    device = images.device
    padded = torch.nn.functional.pad(images, (0, 0, PAD, PAD, PAD, PAD))
    rows = torch.randint(2 * PAD + 1, (b, 1), generator=generator) + torch.arange(h)
    columns = torch.arange(w).expand(b, w)
    if flip:
        mirrored = torch.rand(b, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    columns = columns + torch.randint(2 * PAD + 1, (b, 1), generator=generator)
    which = torch.arange(b, device=device)[:, None, None]
    return padded[which, sent(rows, device)[:, :, None], sent(columns, device)[:, None, :]]


def random_resized_crop(images: Tensor, generator: torch.Generator, flip: bool, crop_size: int | None) -> Tensor:
    """A random box of 8-100 % of the area and aspect 3/4-4/3 per image, resized to the output size (float result)."""
    if crop_size is None:
        crop_size = images.shape[1]
        images = torch.nn.functional.pad(images, (0, 0, PAD, PAD, PAD, PAD))
    b, height, width, _ = images.shape
    area = height * width * (0.08 + 0.92 * torch.rand(b, generator=generator))
    aspect = torch.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * torch.rand(b, generator=generator))
    w = (area * aspect).sqrt().round().clamp(1, width)
    h = (area / aspect).sqrt().round().clamp(1, height)
    left = (torch.rand(b, generator=generator) * (width - w + 1)).floor()
    top = (torch.rand(b, generator=generator) * (height - h + 1)).floor()
    sign = torch.ones(b)
    if flip:
        sign = torch.where(torch.rand(b, generator=generator) < 0.5, -1.0, 1.0)
    theta = torch.zeros(b, 2, 3)  # output square [-1, 1] -> the box, in normalised input coordinates
    theta[:, 0, 0], theta[:, 0, 2] = sign * w / width, (2 * left + w) / width - 1
    theta[:, 1, 1], theta[:, 1, 2] = h / height, (2 * top + h) / height - 1
    grid = torch.nn.functional.affine_grid(theta, [b, 3, crop_size, crop_size], align_corners=False)
    pixels = images.permute(0, 3, 1, 2).float()
    cropped = torch.nn.functional.grid_sample(
        pixels, sent(grid, images.device), padding_mode="border", align_corners=False
    )
    return cropped.permute(0, 2, 3, 1)


def jitter_brightness(images: Tensor, generator: torch.Generator) -> Tensor:
    """Multiply each image by a factor in 1 ± 63/255 and clip."""
    factor = 1 + 63 / 255 * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)
    return (images.float() * sent(factor, images.device)).clamp_(0, 255)


def centre_crop(images: Tensor, crop_size: int | None) -> Tensor:
    """The centre square of side `crop_size`; None leaves the images as they are."""
    if crop_size is None:
        return images
    top, left = (images.shape[1] - crop_size) // 2, (images.shape[2] - crop_size) // 2
    return images[:, top : top + crop_size, left : left + crop_size]


@dataclass
class InMemoryBatches:
    """Iterates over `[x, y, t]`: x float (B, 3, h, w) in channels_last layout, y labels, t zeros (B,) (one task)."""

    images: Tensor | np.ndarray  # uint8 (N, H, W, 3)
    rows: np.ndarray  # row of `images` per sample
    visits: int  # samples in one pass
    labels: Tensor  # (N,) or, of a multi-label dataset, (N, C)
    batch_size: int
    last_batch: str  # see `strategies.batches`
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
    """Loader factory over a stream's images (see `strategies.recipe.LoaderFactory`).

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
