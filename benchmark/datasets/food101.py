"""Food-101 (Bossard et al., ECCV 2014): 101 dishes, 750 training and 250 test photographs each."""

from __future__ import annotations

import json
from pathlib import Path

from benchmark.datasets.arrays import ImageArrays
from benchmark.datasets.decode import LARGE, tree_arrays
from benchmark.datasets.download import download
from benchmark.datasets.tree import ImageFile, ImageTree, class_folders, list_split, refuse_outside
from benchmark.errors import UserError

_FOLDER = "food-101"
_LAYOUT = "food-101/images/<class>/*.jpg with food-101/meta/train.json and test.json"


def load(name: str, *, root: Path | None = None, cache_dir: str | Path | None = None) -> ImageArrays:
    """Food-101, uint8 (N, 256, 256, 3), trained at 224; labels are alphabetical ranks.

    `root` may hold the unpacked archive; otherwise it is downloaded there (without a root, into the cache; 5 GB).
    """
    if root is None or not (root / _FOLDER).is_dir():
        root = download(name, root, _LAYOUT, _fetch, cache_dir=cache_dir)
    return tree_arrays(name, _tree(root), resolution=LARGE, cache_dir=cache_dir)


def _fetch(folder: str) -> None:
    from torchvision.datasets import Food101

    Food101(folder, download=True)


def _tree(root: Path) -> ImageTree:
    """The official split: the images that the lists name, found among those that are really there."""
    images = f"{_FOLDER}/images"
    files = {
        str(Path(file.path).relative_to(images).with_suffix("")): file
        for listed in list_split(root, images, class_folders(root, images)).values()
        for file in listed
    }
    return ImageTree(root, train=_listed(root, "train", files), test=_listed(root, "test", files))


def _listed(root: Path, split: str, files: dict[str, ImageFile]) -> dict[str, list[ImageFile]]:
    path = root / _FOLDER / "meta" / f"{split}.json"
    refuse_outside(root, path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The list {path} is missing or not JSON; {root} must hold {_LAYOUT}.") from error
    if not isinstance(content, dict) or not all(_is_list_of_names(stems) for stems in content.values()):
        raise UserError(f"The list {path} must map each class to a list of its images.")
    lists: dict[str, list[ImageFile]] = {}
    for name in sorted(content):
        absent = [stem for stem in content[name] if stem not in files]
        if absent:
            raise UserError(f"The image {absent[0]}, named in {path}, is not under {root / _FOLDER / 'images'}.")
        lists[name] = [files[stem] for stem in content[name]]
    return lists


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
