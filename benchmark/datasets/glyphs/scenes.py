"""Glyph scenes: images that show one to five characters of different classes, generated; a multi-label set.

Training labels are long-tailed: class c is shown in a share of the images that falls by rho ** (-c / (C - 1)), exactly,
from head (label 0) to tail. In the test set every class is shown equally often, as in the single-label sets here, so
that the precision of rare classes is not measured on a handful of images. Classes co-occur in groups: an image has a
theme, a group of about four classes from head to tail, and most images of a class have the theme of its own group.
Sessions of a stream cut across groups, which is what makes missing labels hurt.

Characters, fonts (test fonts are unseen in training) and noise are those of the dataset "glyphs".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.datasets.arrays import ImageArrays, channel_statistics
from benchmark.datasets.cache import CacheWriter, cached_arrays
from benchmark.datasets.glyphs.fonts import TEST_FONTS, TRAIN_FONTS, glyph_masks
from benchmark.datasets.glyphs.images import class_name, class_texts, derived_seed, pose_maps, tint, uniform
from benchmark.datasets.progress import progress_bar
from benchmark.errors import UserError

if TYPE_CHECKING:
    import torch

GENERATOR_VERSION = 1  # raise when the same parameters give other images
CLASSES = (12, 80)
MOST = 5  # glyphs an image shows at most
_SIDES = (16, 512)

_MEAN_LABELS = 2.4  # per image, less where the head would fill more than _HEAD of the images
_HEAD = 0.8
_GROUP = 4  # classes in a group, about
_IN_THEME = 0.85  # share of the images of a class that have the theme of its group, while shares are small

_ANGLE = 0.26  # radians, 15 degrees
_SCALE = (0.3, 0.5)  # share of the image's side that a glyph fills
_SHEAR = 0.2
_STRETCH = 0.15
_TRIES = 3  # places drawn for a glyph; it goes where the others are farthest: overlaps are common, hiding is rare
_LIGHT = (0.6, 1.0)  # luminance of the ground
_CONTRAST = 0.35  # least difference in luminance between any ink and the ground
_NOISE = (0.03, 0.10)  # standard deviation of the pixel noise, drawn per image
_BLOCK = 512  # images rendered at a time


def load(
    name: str,
    *,
    classes: int = 12,
    train_images: int = 3000,
    test_images: int = 1000,
    rho: float = 20.0,
    resolution: int = 64,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> ImageArrays:
    """Generate the dataset or find it in the cache: uint8 (train_images, resolution, resolution, 3), labels (N, C).

    Parameters
    ----------
    rho : images that show the most frequent class, over images that show the rarest; of the training set

    Raises
    ------
    UserError
        classes outside 12 to 80, a resolution outside 16 to 512, so few images that a class would be shown in none
    """
    if not CLASSES[0] <= classes <= CLASSES[1]:
        raise UserError(f'The dataset "{name}" has {CLASSES[0]} to {CLASSES[1]} classes, not {classes}.')
    if not _SIDES[0] <= resolution <= _SIDES[1]:
        raise UserError(f'The resolution of "{name}" must lie between {_SIDES[0]} and {_SIDES[1]}, not {resolution}.')
    counts = {"train": label_counts(classes, train_images, rho), "test": label_counts(classes, test_images, 1.0)}
    sizes = {"train": train_images, "test": test_images}
    for split, images in sizes.items():
        if not counts[split].all() or counts[split].sum() < images:
            raise UserError(
                f'"{name}" with {split}_images {images} and rho {rho:g} would leave a class without images, or an '
                "image without classes: give more images, or a lower rho."
            )
    key = {
        "generator": GENERATOR_VERSION,
        "classes": classes,
        "train_images": train_images,
        "test_images": test_images,
        "rho": rho,
        "resolution": resolution,
        "seed": seed,
    }
    texts = class_texts(classes)

    def generate(writer: CacheWriter) -> None:
        labels = {
            split: draw_labels(counts[split], images, np.random.default_rng(derived_seed(seed, split, "labels")))
            for split, images in sizes.items()
        }
        _draw(texts, labels, resolution, seed, writer)

    arrays = cached_arrays(name, key, cache_dir, generate)
    mean, std = channel_statistics(arrays.train_images)
    return ImageArrays(
        name=name,
        **arrays._asdict(),
        class_names=tuple(class_name(text) for text in texts),
        mean=mean,
        std=std,
        flip=False,
    )


def label_counts(classes: int, images: int, rho: float) -> np.ndarray:
    """Images that show each class, head first, int64 (C,): their sum is 2.4 labels an image, or what rho allows."""
    shares = rho ** (-np.arange(classes) / (classes - 1))
    head = min(_HEAD, _MEAN_LABELS / shares.sum())
    return np.floor(head * shares * images + 1e-9).astype(np.int64)


def class_groups(classes: int) -> np.ndarray:
    """The group of each class, int64 (C,): every group runs from head to tail."""
    return np.arange(classes) % (classes // _GROUP)


def draw_labels(counts: np.ndarray, images: int, generator: np.random.Generator) -> np.ndarray:
    """Multi-hot rows, uint8 (images, C), with exactly `counts` positives a class and one to five an image.

    Every class draws its images without replacement, weighted by theme; then images without a label take one from
    images that have several.
    """
    groups = class_groups(len(counts))
    number = groups.max() + 1
    theme = generator.integers(number, size=images)
    favour = _IN_THEME / (1 - _IN_THEME) * (number - 1)
    labels = np.zeros((images, len(counts)), dtype=np.uint8)
    for column in np.argsort(-counts, kind="stable"):
        keys = generator.gumbel(size=images) + np.log(favour) * (theme == groups[column])
        keys[labels.sum(axis=1) == MOST] = -np.inf
        labels[np.argsort(-keys, kind="stable")[: counts[column]], column] = 1
    shown = labels.sum(axis=1)
    spare = np.maximum(shown - 1.0, 0)
    for empty in np.flatnonzero(shown == 0):
        donor = generator.choice(images, p=spare / spare.sum())
        column = generator.choice(np.flatnonzero(labels[donor]))
        labels[donor, column], labels[empty, column] = 0, 1
        spare[donor] -= 1
    return labels


def _draw(texts: list[str], labels: dict[str, np.ndarray], side: int, seed: int, writer: CacheWriter) -> None:
    import torch

    with progress_bar("generating glyph scenes", sum(map(len, labels.values()))) as advance:
        for split, fonts in (("train", TRAIN_FONTS), ("test", TEST_FONTS)):
            shown = labels[split]
            writer.labels(split, shown)
            images = writer.images(split, (len(shown), side, side, 3))
            height = round(_SCALE[1] * side)
            masks = torch.from_numpy(glyph_masks("".join(texts), fonts, height, height))
            generator = torch.Generator().manual_seed(derived_seed(seed, split, "images"))
            for start in range(0, len(shown), _BLOCK):
                block = slice(start, start + _BLOCK)
                images[block] = render(masks, shown[block], side, generator).numpy()
                advance(len(shown[block]))
            images.flush()  # type: ignore[attr-defined]


def render(masks: torch.Tensor, labels: np.ndarray, side: int, generator: torch.Generator) -> torch.Tensor:
    """One image per row of `labels`.

    Parameters
    ----------
    masks : uint8 (fonts, C, h, w), each class drawn in each font, 255 = ink
    labels : uint8 (n, C), at most five positives a row
    generator : source of all randomness: fonts, poses, places, colours, noise

    Returns
    -------
    uint8 (n, side, side, 3)
    """
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    n = len(labels)
    shown = torch.from_numpy(labels).float()
    # the classes of each image in random order, positives first
    order = (shown + torch.rand(shown.shape, generator=generator) * 0.5).argsort(dim=1, descending=True)[:, :MOST]
    active = shown.gather(1, order).bool()
    scale = uniform((n, MOST), _SCALE, generator)
    places = _places(scale, generator)
    light = uniform((n,), _LIGHT, generator)
    images = tint(light, generator).expand(n, 3, side, side).clone()
    for slot in range(MOST):
        font = torch.randint(len(masks), (n,), generator=generator)
        angle = uniform((n,), (-_ANGLE, _ANGLE), generator)
        shear = uniform((n,), (-_SHEAR, _SHEAR), generator)
        stretch = 1 + uniform((n,), (-_STRETCH, _STRETCH), generator)
        colour = tint(uniform((n,), (0, 1), generator) * (light - _CONTRAST), generator)
        rows = active[:, slot].nonzero()[:, 0]
        if not len(rows):  # no image shows so many
            continue
        maps = pose_maps(angle, scale[:, slot], shear, stretch, places[:, slot])[rows]
        ink = masks[font[rows], order[rows, slot]].unsqueeze(1).float() / 255
        grid = affine_grid(maps, [len(rows), 1, side, side], align_corners=False)
        ink = grid_sample(ink, grid, align_corners=False)
        images[rows] += ink * (colour[rows] - images[rows])
    noise = torch.randn(images.shape, generator=generator)
    images = images + uniform((n, 1, 1, 1), _NOISE, generator) * noise
    return images.clamp_(0, 1).mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _places(scale: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Centres of glyphs of these scales (n, m) in [-1, 1], (n, m, 2), whole glyphs inside the image."""
    import torch

    n, m = scale.shape
    places = torch.zeros(n, m, 2)
    for slot in range(m):
        tries = uniform((n, _TRIES, 2), (-1, 1), generator) * (1 - scale[:, slot, None, None])
        best = torch.zeros(n, dtype=torch.long)
        if slot:
            best = torch.cdist(tries, places[:, :slot]).amin(dim=2).argmax(dim=1)
        places[:, slot] = tries[torch.arange(n), best]
    return places
