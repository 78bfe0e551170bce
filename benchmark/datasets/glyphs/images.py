"""Glyphs: characters in random poses, colours and noise, generated; test images use fonts unseen in training.

Up to 300 classes a class is one character, above that an ordered pair side by side (100 x 100 at most). The images of
a class depend on its own identity only, so the first n classes stay the same, pixel for pixel, when more are asked for
(within either regime).
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.datasets.arrays import ImageArrays, channel_statistics
from benchmark.datasets.cache import CacheWriter, cached_arrays
from benchmark.datasets.glyphs.alphabet import ALPHABET
from benchmark.datasets.glyphs.fonts import TEST_FONTS, TRAIN_FONTS, glyph_masks
from benchmark.datasets.progress import progress_bar
from benchmark.errors import UserError

if TYPE_CHECKING:
    import torch

GENERATOR_VERSION = 2  # raise when the same parameters give other images
MAX_SINGLE = len(ALPHABET)
MAX_CLASSES = 100 * 100
_SIDES = (8, 512)

_ROTATION = math.radians(20)
_SCALE = (0.5, 0.95)  # share of the image's side that the character fills
_SHEAR = 0.35
_STRETCH = 0.2  # relative change of width against height
_SHIFT = 0.6  # share of the free margin by which the character may leave the centre
_CONTRAST = 0.25  # least difference in luminance between ink and ground
_NOISE = (0.04, 0.18)  # standard deviation of the pixel noise, drawn per image
_LUMA = (0.299, 0.587, 0.114)
_BLOCK = 2048  # images rendered at a time


def load(
    name: str,
    *,
    classes: int = 100,
    train_per_class: int = 500,
    test_per_class: int = 100,
    resolution: int = 32,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> ImageArrays:
    """Generate the dataset or find it in the cache: uint8 (classes * train_per_class, resolution, resolution, 3).

    Raises
    ------
    UserError
        fewer than 2 or more than 10,000 classes, a resolution outside 8 to 512, a full disk
    """
    if not 2 <= classes <= MAX_CLASSES:
        raise UserError(f'The dataset "{name}" has 2 to {MAX_CLASSES} classes, not {classes}.')
    if not _SIDES[0] <= resolution <= _SIDES[1]:
        raise UserError(f'The resolution of "{name}" must lie between {_SIDES[0]} and {_SIDES[1]}, not {resolution}.')
    texts = class_texts(classes)
    key = {
        "generator": GENERATOR_VERSION,
        "classes": classes,
        "train_per_class": train_per_class,
        "test_per_class": test_per_class,
        "resolution": resolution,
        "seed": seed,
    }
    counts = {"train": train_per_class, "test": test_per_class}
    arrays = cached_arrays(name, key, cache_dir, lambda writer: _generate(texts, counts, resolution, seed, writer))
    mean, std = channel_statistics(arrays.train_images)
    return ImageArrays(
        name=name,
        **arrays._asdict(),
        class_names=tuple(class_name(text) for text in texts),
        mean=mean,
        std=std,
        flip=False,
    )


def class_texts(classes: int) -> list[str]:
    """What each class shows: one character, or two.

    Pairs come in growing squares, (0,0) (0,1) (1,0) (1,1) (0,2) …, so that n classes use the fewest characters and
    the order does not depend on n.
    """
    if classes <= MAX_SINGLE:
        return list(ALPHABET[:classes])
    pairs = ((max(i, j), i, j) for i in range(100) for j in range(100))
    return [ALPHABET[i] + ALPHABET[j] for _, i, j in sorted(pairs)[:classes]]


def class_name(text: str) -> str:
    """Code points and characters: "U+0041 A", or "U+0041 U+0042 AB" for a pair."""
    return " ".join([*(f"U+{ord(character):04X}" for character in text), text])


def _generate(texts: list[str], counts: dict[str, int], side: int, seed: int, writer: CacheWriter) -> None:
    """Fill both splits class by class: memory stays bounded whatever the number of classes."""
    import torch

    characters = "".join(dict.fromkeys("".join(texts)))
    column = {character: index for index, character in enumerate(characters)}
    width = side // len(texts[0])
    with progress_bar("generating glyphs", len(texts) * sum(counts.values())) as advance:
        for split, fonts in (("train", TRAIN_FONTS), ("test", TEST_FONTS)):
            count = counts[split]
            masks = torch.from_numpy(glyph_masks(characters, fonts, side, width))
            images = writer.images(split, (len(texts) * count, side, side, 3))
            writer.labels(split, np.repeat(np.arange(len(texts)), count))
            for label, text in enumerate(texts):
                shapes = torch.cat([masks[:, column[character]] for character in text], dim=-1)  # (F, side, <= side)
                generator = torch.Generator().manual_seed(derived_seed(seed, split, text))
                for start in range(0, count, _BLOCK):
                    size = min(_BLOCK, count - start)
                    first = label * count + start
                    images[first : first + size] = render(shapes, size, side, generator).numpy()
                    advance(size)
            images.flush()  # type: ignore[attr-defined]


def derived_seed(*parts: object) -> int:
    """A seed that depends on every part, for torch's generators."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1  # manual_seed takes signed 64 bits


def render(shapes: torch.Tensor, count: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """`count` images of one class.

    Parameters
    ----------
    shapes : uint8 (fonts, h, w), the class drawn in each font, 255 = ink
    generator : source of all randomness: font, pose, colours, noise

    Returns
    -------
    uint8 (count, side, side, 3)
    """
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    font = torch.randint(len(shapes), (count,), generator=generator)
    ink = shapes[font].unsqueeze(1).float() / 255
    grid = affine_grid(_poses(count, generator), [count, 1, side, side], align_corners=False)
    ink = grid_sample(ink, grid, align_corners=False)
    ground_colour, ink_colour = _colours(count, generator)
    images = ground_colour + ink * (ink_colour - ground_colour)
    noise = torch.randn(images.shape, generator=generator)
    strength = uniform((count, 1, 1, 1), _NOISE, generator)
    images = (images + strength * noise).clamp_(0, 1).mul_(255).round_()
    return images.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _poses(count: int, generator: torch.Generator) -> torch.Tensor:
    """Random maps from image to mask coordinates, (count, 2, 3), both in [-1, 1]."""
    angle = uniform((count,), (-_ROTATION, _ROTATION), generator)
    scale = uniform((count,), _SCALE, generator)
    shear = uniform((count,), (-_SHEAR, _SHEAR), generator)
    stretch = 1 + uniform((count,), (-_STRETCH, _STRETCH), generator)
    shift = uniform((count, 2), (-_SHIFT, _SHIFT), generator) * (1 - scale)[:, None]
    return pose_maps(angle, scale, shear, stretch, shift)


def pose_maps(
    angle: torch.Tensor, scale: torch.Tensor, shear: torch.Tensor, stretch: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """Maps from image to mask coordinates, (n, 2, 3): the mask is turned, scaled, sheared, moved by `shift` (n, 2)."""
    import torch

    cos, sin = torch.cos(angle), torch.sin(angle)
    rotate = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    one, zero = torch.ones_like(shear), torch.zeros_like(shear)
    skew = torch.stack([torch.stack([stretch, shear], -1), torch.stack([zero, one], -1)], -2)
    linear = skew @ rotate / scale[:, None, None]
    return torch.cat([linear, -(linear @ shift[..., None])], dim=-1)


def _colours(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours of ground and ink, (count, 3, 1, 1) each: dark ink on light ground, _CONTRAST apart at least.

    One polarity, as in print: with both, a class of five images is out of reach for a network trained for a minute.
    """
    dark = uniform((count,), (0, 1 - _CONTRAST), generator)
    light = dark + _CONTRAST + uniform((count,), (0, 1), generator) * (1 - _CONTRAST - dark)
    return tint(light, generator), tint(dark, generator)


def tint(luminance: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random colour of that luminance, (count, 3, 1, 1) in [0, 1]."""
    import torch

    chroma = torch.rand(len(luminance), 3, generator=generator) - 0.5
    chroma -= (chroma @ torch.tensor(_LUMA))[:, None]  # adds no luminance
    grey = luminance[:, None]
    room = torch.where(chroma > 0, 1 - grey, grey) / chroma.abs().clamp(min=1e-6)
    colour = grey + chroma * room.amin(dim=1, keepdim=True).clamp(max=1)
    return colour[..., None, None]


def uniform(shape: tuple[int, ...], bounds: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    """Numbers of `shape`, evenly distributed within `bounds`."""
    import torch

    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator)
