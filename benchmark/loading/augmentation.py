"""Augmentation of whole batches on the device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from strategies.networks.precision import sent

PAD = 4
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
