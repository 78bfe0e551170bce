"""COCO (Lin et al., ECCV 2014) as a multi-label set: which of 80 classes an image shows, from its instances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.datasets.arrays import ImageArrays
from benchmark.datasets.decode import Listing, multilabel_arrays
from benchmark.datasets.tree import listed_file, refuse_outside
from benchmark.errors import UserError

YEARS = ("2014", "2017")  # the first that is there; multi-label class-incremental work uses 2014
_LAYOUT = (
    "annotations/instances_train2014.json and instances_val2014.json with the images in train2014/ and val2014/ "
    "(or 2017)"
)


def load(
    name: str, *, root: Path | None = None, resolution: int = 224, cache_dir: str | Path | None = None
) -> ImageArrays:
    """COCO, uint8 (N, resolution, resolution, 3), labels uint8 (N, K); train is the training set, val the test set.

    Labels are ranks of the class names in alphabetical order, so that the order ``ordered`` is the one of KRT (Dong et
    al., ICCV 2023). Crowds do not count as present, as in its code; images without any other object are left out.

    Raises
    ------
    UserError
        no root; a missing or damaged annotation file; an annotation of an image or category that the file does not
        list; a missing image: each named
    """
    if root is None:
        raise UserError(f'The dataset "{name}" needs a root: a folder that holds {_LAYOUT}.')
    year = next((year for year in YEARS if _annotations(root, "train", year).is_file()), None)
    if year is None:
        raise UserError(f"There is no annotations/instances_train{YEARS[0]}.json under {root}: wanted {_LAYOUT}.")
    classes, train = _listing(root, "train", year)
    test_classes, test = _listing(root, "val", year)
    if test_classes != classes:
        raise UserError(
            f"{_annotations(root, 'train', year)} and {_annotations(root, 'val', year).name} list different categories."
        )
    return multilabel_arrays(name, root, train, test, classes, resolution=resolution, cache_dir=cache_dir)


def _annotations(root: Path, split: str, year: str) -> Path:
    return root / "annotations" / f"instances_{split}{year}.json"


def _listing(root: Path, split: str, year: str) -> tuple[tuple[str, ...], Listing]:
    """Class names and the labelled images of a split."""
    path = _annotations(root, split, year)
    refuse_outside(root, path)
    content = _read(path)
    names = {
        _entry(category, "id", path, "categories"): str(category.get("name")) for category in content["categories"]
    }
    classes = tuple(sorted(names.values()))
    if len(set(classes)) < len(classes) or not classes:
        raise UserError(f"The categories of {path} are missing or share a name.")
    column = {number: classes.index(name) for number, name in names.items()}
    files = {_entry(image, "id", path, "images"): image.get("file_name") for image in content["images"]}
    row = {number: place for place, number in enumerate(files)}
    labels = np.zeros((len(files), len(classes)), dtype=np.uint8)
    for instance in content["annotations"]:
        image = _entry(instance, "image_id", path, "annotations")
        category = _entry(instance, "category_id", path, "annotations")
        if image not in row or category not in column:
            what = f"image {image}" if image not in row else f"category {category}"
            raise UserError(f"Annotation {instance.get('id')} of {path} is of {what}, which the file does not list.")
        if not instance.get("iscrowd"):
            labels[row[image], column[category]] = 1
    shown = labels.max(axis=1, initial=0) > 0
    if not shown.any():
        raise UserError(f"No image of {path} is annotated.")
    kept = [(number, name) for (number, name), is_shown in zip(files.items(), shown, strict=True) if is_shown]
    for number, name in kept:
        if not isinstance(name, str):
            raise UserError(f"Image {number} of {path} has no file_name.")
    return classes, Listing([listed_file(root, f"{split}{year}/{name}", path) for _, name in kept], labels[shown])


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"The annotation file {path} is missing or not JSON.") from error
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f'The annotation file {path} has no list "{key}": it must be an instances file of COCO.')
    return content


def _entry(record: dict[str, Any], key: str, path: Path, where: str) -> int:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f'An entry of "{where}" in {path} has no number "{key}".')
    return value
