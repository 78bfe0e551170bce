"""Image datasets as arrays: `names()` lists them, `load(name, ...)` yields ImageArrays.

Each source lives in a module of its own that is imported when one of its datasets is loaded.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmark.datasets.arrays import ImageArrays
from benchmark.errors import UserError, did_you_mean

__all__ = ["ImageArrays", "describe", "generated", "load", "names", "task_kind"]


@dataclass(frozen=True)
class _Source:
    module: str
    options: frozenset[str]  # the optional arguments of `load` that its module takes
    summary: str
    task_kind: str


def _source(module: str, options: str, summary: str, task_kind: str = "single") -> _Source:
    return _Source(f"benchmark.datasets.{module}", frozenset(options.split()), summary, task_kind)


_SOURCES: Mapping[str, _Source] = MappingProxyType(
    {
        "digits": _source("digits", "test_fraction seed", "8x8 handwritten digits of scikit-learn, 10 classes"),
        "glyphs": _source(
            "glyphs.images",
            "classes train_per_class test_per_class resolution seed",
            "characters rendered from matplotlib's fonts, 2 to 10,000 classes, generated",
        ),
        "glyph_scenes": _source(
            "glyphs.scenes",
            "classes train_images test_images rho resolution seed",
            "several such characters in one image, 12 to 80 labels, long-tailed by rho, generated",
            "multi",
        ),
        "cifar10": _source("cifar", "root", "CIFAR-10: pickles, a PNG tree, or downloaded"),
        "cifar100": _source("cifar", "root", "CIFAR-100: pickles, a PNG tree, or downloaded"),
        "folder": _source(
            "folder", "root test_fraction resolution seed", "any train/<class>/* and test/<class>/* tree, PNG or JPEG"
        ),
        "imagenet_subset": _source("imagenet", "root", "100 ImageNet classes (seed 1993) of a local ImageNet tree"),
        "imagenet_full": _source("imagenet", "root", "all 1000 classes of a local ImageNet tree"),
        "food101": _source("food101", "root", "Food-101: the original archive's layout, or downloaded"),
        "voc2007": _source(
            "voc",
            "root resolution",
            "PASCAL VOC 2007, 20 labels, trainval and test: a local VOCdevkit, or downloaded",
            "multi",
        ),
        "voc2012": _source(
            "voc",
            "root resolution",
            "PASCAL VOC 2012, 20 labels, train and val: a local VOCdevkit, or downloaded",
            "multi",
        ),
        "coco": _source(
            "coco",
            "root resolution",
            "COCO 2014 or 2017, 80 labels, train and val: local images and instances_*.json",
            "multi",
        ),
    }
)


def names() -> tuple[str, ...]:
    """Names of all datasets."""
    return tuple(_SOURCES)


def describe(name: str) -> str:
    """One line on the dataset `name`; UserError if there is none of that name."""
    return _get(name).summary


def generated(name: str) -> bool:
    """Whether the dataset's images are made on demand, for any number of classes asked for."""
    return "classes" in _get(name).options


def splits_itself(name: str) -> bool:
    """Whether `test_fraction` and `seed` decide which images of the dataset are for testing."""
    return "test_fraction" in _get(name).options


def task_kind(name: str) -> str:
    """Labels an image of the dataset has, "single" or "multi", without loading it."""
    return _get(name).task_kind


def load(
    name: str,
    root: str | Path | None = None,
    *,
    classes: int | None = None,
    test_fraction: float | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    train_images: int | None = None,
    test_images: int | None = None,
    rho: float | None = None,
    resolution: int | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> ImageArrays:
    """Load a dataset; None means the dataset's own default.

    Parameters
    ----------
    name : one of `names()`
    root : folder that holds the files (required for folder and imagenet_*; where the others look before they download)
    classes, train_per_class, test_per_class : size of a generated set (glyphs)
    train_images, test_images, rho : size and imbalance of a generated multi-label set (glyph_scenes)
    test_fraction : share of each class's images held out for the test set, in (0, 1), where no split is given
    resolution : side of the stored images in pixels
    seed : of the generated images or of the held-out choice
    cache_dir : where decoded, generated and downloaded data are kept; default $IMCIL_CACHE or ~/.cache/imcil

    Raises
    ------
    UserError
        unknown name, an option this dataset does not take, a value out of range, missing or unreadable data
    """
    source = _get(name)
    given: dict[str, Any] = {
        "root": root,
        "classes": classes,
        "test_fraction": test_fraction,
        "train_per_class": train_per_class,
        "test_per_class": test_per_class,
        "train_images": train_images,
        "test_images": test_images,
        "rho": rho,
        "resolution": resolution,
        "seed": seed or None,
    }
    options = {option: value for option, value in given.items() if value is not None}
    for option, value in options.items():
        if option not in source.options:
            takers = ", ".join(other for other, candidate in _SOURCES.items() if option in candidate.options)
            raise UserError(f'The dataset "{name}" does not take the option {option}; these do: {takers}.')
        _check_value(option, value)
    if root is not None:
        options["root"] = _existing_folder(name, root)
    module = importlib.import_module(source.module)
    arrays: ImageArrays = module.load(name, cache_dir=cache_dir, **options)
    return arrays


def _get(name: str) -> _Source:
    if name not in _SOURCES:
        raise UserError(f'There is no dataset "{name}".{did_you_mean(str(name), _SOURCES)}')
    return _SOURCES[name]


def _check_value(option: str, value: Any) -> None:
    if option == "test_fraction":
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise UserError(f"test_fraction must be a number between 0 and 1 (both excluded), not {value!r}.")
    elif option == "rho":
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < math.inf:
            raise UserError(f"rho must be a number from 1, not {value!r}.")
    elif option != "root" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        least = "a non-negative integer" if option == "seed" else "a positive integer"
        raise UserError(f"{option} must be {least}, not {value!r}.")


def _existing_folder(name: str, root: str | Path) -> Path:
    folder = Path(root).expanduser()
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f'The root of dataset "{name}", {folder}, {problem}.')
    return folder.resolve()
