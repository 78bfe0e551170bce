"""Decoding image files once, in parallel, into the cache of uint8 arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.datasets.arrays import IMAGENET_MEAN, IMAGENET_STD, ImageArrays, channel_statistics
from benchmark.datasets.cache import CachedArrays, CacheWriter, cached_arrays
from benchmark.datasets.progress import progress_bar
from benchmark.datasets.tree import ImageFile, ImageTree
from benchmark.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

DECODER_VERSION = 1  # raise when the same file decodes to other pixels
LARGE = 256  # short side at which photographs are stored; training crops 224 of it
CROP = 224
_BLOCK = 128  # images a worker decodes at a time


@dataclass(frozen=True)
class Listing:
    """The images of a split and their labels, (N,) or (N, K)."""

    files: list[ImageFile]
    labels: np.ndarray


def tree_arrays(
    name: str, tree: ImageTree, *, resolution: int | None = None, cache_dir: str | Path | None = None
) -> ImageArrays:
    """The images of `tree` at one size, decoded now or found in the cache.

    Parameters
    ----------
    resolution : short side after resizing, before the centre square is cut (as torchvision's Resize and CenterCrop);
        None keeps the images as they are if all have one size, else it means 256

    Raises
    ------
    UserError
        naming the first file that cannot be decoded, or the cache folder if the arrays do not fit there
    """
    key = {
        "decoder": DECODER_VERSION,
        "root": str(tree.root),
        "files": tree.fingerprint(),
        "resolution": resolution,
    }

    def build(writer: CacheWriter) -> None:
        splits = {split: _labelled(classes) for split, classes in (("train", tree.train), ("test", tree.test))}
        size = _common_size(tree) if resolution is None else None
        side = resolution or LARGE
        _decode(name, tree.root, splits, size or (side, side), False, writer)

    return _image_arrays(name, cached_arrays(name, key, cache_dir, build), tree.class_names)


def multilabel_arrays(
    name: str,
    root: Path,
    train: Listing,
    test: Listing,
    class_names: tuple[str, ...],
    *,
    resolution: int,
    cache_dir: str | Path | None = None,
) -> ImageArrays:
    """Multi-label images, resized to a square of `resolution` whatever their shape: cutting could lose what they show.

    Raises as `tree_arrays` does.
    """
    digest = hashlib.sha256()
    for listing in (train, test):
        for file in listing.files:
            digest.update(os.fsencode(f"{file.path}\0{file.size}\0{file.mtime_ns}\0"))
        digest.update(np.ascontiguousarray(listing.labels).tobytes())
    key = {
        "decoder": DECODER_VERSION,
        "root": str(root),
        "files": digest.hexdigest(),
        "classes": class_names,
        "squeezed": resolution,
    }

    def build(writer: CacheWriter) -> None:
        _decode(name, root, {"train": train, "test": test}, (resolution, resolution), True, writer)

    return _image_arrays(name, cached_arrays(name, key, cache_dir, build), class_names)


def _image_arrays(name: str, arrays: CachedArrays, class_names: tuple[str, ...]) -> ImageArrays:
    height, width = arrays.train_images.shape[1:3]
    if max(height, width) > 64:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    else:
        mean, std = channel_statistics(arrays.train_images)
    return ImageArrays(
        name=name,
        **arrays._asdict(),
        class_names=class_names,
        mean=mean,
        std=std,
        flip=True,
        crop_size=CROP if height == width == LARGE else None,
    )


def _labelled(classes: Mapping[str, list[ImageFile]]) -> Listing:
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
    return Listing([file for files in classes.values() for file in files], labels)


def _decode(
    name: str, root: Path, splits: Mapping[str, Listing], size: tuple[int, int], squeeze: bool, writer: CacheWriter
) -> None:
    total = sum(len(listing.files) for listing in splits.values())
    with progress_bar(f"decoding {name}", total) as advance, ThreadPoolExecutor(_workers()) as pool:
        for split, listing in splits.items():
            paths = [root / file.path for file in listing.files]
            writer.labels(split, listing.labels)
            images = writer.images(split, (len(paths), *size, 3))

            def fill(start: int, paths: list[Path] = paths, images: np.ndarray = images) -> None:
                for row, path in enumerate(paths[start : start + _BLOCK], start):
                    images[row] = decode_image(path, size, squeeze)
                advance(len(paths[start : start + _BLOCK]))

            try:
                for job in [pool.submit(fill, start) for start in range(0, len(paths), _BLOCK)]:
                    job.result()
            except BaseException:  # an interrupt, too, must not wait for the rest
                pool.shutdown(cancel_futures=True)
                raise
            images.flush()  # type: ignore[attr-defined]


def decode_image(path: Path, size: tuple[int, int], squeeze: bool = False) -> np.ndarray:
    """One PNG or JPEG as uint8 (H, W, 3): as it is if it has that size, else short side resized and the centre cut.

    `squeeze` resizes both sides instead and cuts nothing.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            rgb = _to_rgb(image)
            if (rgb.height, rgb.width) != size:
                rgb = rgb.resize(size[::-1], Image.Resampling.BILINEAR) if squeeze else _resize_and_crop(rgb, size[0])
            return np.asarray(rgb)
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise _undecodable(path, error) from error


def _to_rgb(image: Image) -> Image:
    from PIL import Image as pillow

    if image.mode.startswith("I"):  # 16-bit grey: convert() would clip it at 255
        return pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _resize_and_crop(image: Image, side: int) -> Image:
    from PIL import Image as pillow

    short = min(image.size)
    width, height = (max(side, int(side * length / short)) for length in image.size)
    image = image.resize((width, height), pillow.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def _common_size(tree: ImageTree) -> tuple[int, int] | None:
    """(height, width) if all images share it, else None; reads headers only, and only as far as needed."""
    sizes: set[tuple[int, int]] = set()
    for split in (tree.train, tree.test):
        for files in split.values():
            for file in files:
                sizes.add(_header_size(tree.root, file))
                if len(sizes) > 1:
                    return None
    return sizes.pop()


def _header_size(root: Path, file: ImageFile) -> tuple[int, int]:
    from PIL import Image

    path = root / file.path
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            return image.height, image.width
    except Exception as error:
        raise _undecodable(path, error) from error


def _undecodable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"The image {path} cannot be decoded as PNG or JPEG ({type(error).__name__}: {reason}).")


def _workers() -> int:
    """Threads to decode with: the cores this process may use (Pillow decodes outside the interpreter's lock)."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(len(affinity(0)) if affinity else os.cpu_count() or 1, 32)
