"""PASCAL VOC 2007 and 2012 (Everingham et al., IJCV 2010) as multi-label sets of 20 classes."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from benchmark.datasets.arrays import ImageArrays
from benchmark.datasets.decode import Listing, multilabel_arrays
from benchmark.datasets.download import download
from benchmark.datasets.tree import listed_file, refuse_outside
from benchmark.errors import UserError, did_you_mean

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_SPLITS = {"voc2007": ("trainval", "test"), "voc2012": ("train", "val")}  # the labels of 2012's test are secret
_LAYOUT = "VOCdevkit/VOC{year}/ with JPEGImages/, Annotations/ and ImageSets/Main/"


def load(
    name: str, *, root: Path | None = None, resolution: int = 224, cache_dir: str | Path | None = None
) -> ImageArrays:
    """VOC by `name` ("voc2007" or "voc2012"), uint8 (N, resolution, resolution, 3), labels uint8 (N, 20).

    `root` may hold VOCdevkit/VOC<year>/ or VOC<year>/; otherwise it is downloaded there (without a root, into the
    cache). An object marked difficult does not count as present, as in the code of KRT (Dong et al., ICCV 2023); VOC's
    own evaluation would leave such an entry out. Images that show no other object are left out.

    Raises
    ------
    UserError
        naming the list, the annotation or the image that is missing or damaged, or the object that is no class of VOC
    """
    year = name.removeprefix("voc")
    layout = _LAYOUT.format(year=year)
    folder = _folder(root, year)
    if folder is None:
        root = download(name, root, layout, lambda target: _fetch(target, year), cache_dir=cache_dir)
        folder = _folder(root, year)
        if folder is None:
            raise UserError(f"{root} does not hold {layout} after the download.")
    train, test = (_listing(folder, split) for split in _SPLITS[name])
    return multilabel_arrays(name, folder, train, test, CLASSES, resolution=resolution, cache_dir=cache_dir)


def _folder(root: Path | None, year: str) -> Path | None:
    places = [] if root is None else [root / "VOCdevkit" / f"VOC{year}", root / f"VOC{year}"]
    return next((place for place in places if place.is_dir()), None)


def _fetch(folder: str, year: str) -> None:
    from torchvision.datasets import VOCDetection

    for split in _SPLITS[f"voc{year}"]:
        VOCDetection(folder, year=year, image_set=split, download=True)


def _listing(folder: Path, split: str) -> Listing:
    """The images that ImageSets/Main/<split>.txt names, with the objects of their annotations."""
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    refuse_outside(folder, path)
    try:
        stems = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise UserError(f"The list {path} is missing or not text.") from error
    if not stems:
        raise UserError(f"The list {path} names no image.")
    files, rows = [], []
    for stem in stems:
        row = _objects(folder, stem, path)
        if row.any():
            files.append(listed_file(folder, f"JPEGImages/{stem}.jpg", path))
            rows.append(row)
    if not files:
        raise UserError(f"No image of the list {path} has an object that is not difficult.")
    return Listing(files, np.stack(rows))


def _objects(folder: Path, stem: str, named_in: Path) -> np.ndarray:
    """Which classes Annotations/<stem>.xml names, uint8 (20,)."""
    path = folder / "Annotations" / f"{stem}.xml"
    refuse_outside(folder, path)
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ValueError) as error:
        raise UserError(
            f"The annotation {path} of the image {stem}, named in {named_in}, is missing or cannot be read."
        ) from error
    except ElementTree.ParseError as error:
        raise UserError(f"The annotation {path} of the image {stem} is not XML ({error}).") from error
    row = np.zeros(len(CLASSES), dtype=np.uint8)
    for item in root.findall("object"):
        shown = (item.findtext("name") or "").strip()
        if shown not in CLASSES:
            raise UserError(
                f'The annotation {path} of the image {stem} has an object "{shown}".{did_you_mean(shown, CLASSES)}'
            )
        if (item.findtext("difficult") or "0").strip() != "1":
            row[CLASSES.index(shown)] = 1
    return row
