"""Any image tree: `train/<class>/*` and `test/<class>/*`, or `<class>/*` split here."""

from __future__ import annotations

from pathlib import Path

from benchmark.datasets.arrays import ImageArrays
from benchmark.datasets.decode import tree_arrays
from benchmark.datasets.split import held_out
from benchmark.datasets.tree import ImageFile, ImageTree, class_folders, list_split, train_test_tree
from benchmark.errors import UserError


def load(
    name: str,
    *,
    root: Path | None = None,
    test_fraction: float | None = None,
    resolution: int | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> ImageArrays:
    """Decode a tree of PNG and JPEG files (any case of the extension); labels are alphabetical ranks of the folders.

    Parameters
    ----------
    test_fraction : share of each class for the test set, for a tree without a test/ folder
    resolution : short side after resizing, before the centre square is cut; None keeps images that all have one size as
        they are, and means 256 for others. Images stored at 256 are trained at 224.

    Raises
    ------
    UserError
        naming the missing folder, the class without images on one side, the file that cannot be decoded, or the link
        that leads out of the root
    """
    if root is None:
        raise UserError(f'The dataset "{name}" needs a root: a folder that holds train/<class>/* and test/<class>/*.')
    return tree_arrays(name, _tree(root, test_fraction, seed), resolution=resolution, cache_dir=cache_dir)


def _tree(root: Path, test_fraction: float | None, seed: int) -> ImageTree:
    has_train = (root / "train").is_dir() and bool(class_folders(root, "train"))
    if has_train and (root / "test").is_dir():
        if test_fraction is not None:
            raise UserError(f"{root} has a test/ folder of its own: leave out test_fraction.")
        return train_test_tree(root)
    base = "train" if has_train else "."
    if not class_folders(root, base):
        raise UserError(f"{root} holds no class folders: wanted train/<class>/* and test/<class>/*, or <class>/*.")
    if test_fraction is None:
        raise UserError(
            f"{root} has no train/ and test/ folders: set test_fraction to hold out a share of each class for testing."
        )
    return _split(root, list_split(root, base, class_folders(root, base)), test_fraction, seed)


def _split(root: Path, classes: dict[str, list[ImageFile]], fraction: float, seed: int) -> ImageTree:
    train, test = {}, {}
    for name, files in classes.items():
        if len(files) < 2:
            found = "1 image" if files else "no PNG or JPEG images"
            raise UserError(f'The class "{name}" under {root} has {found}: test_fraction needs at least 2 per class.')
        chosen = held_out(len(files), fraction, name, seed)
        train[name] = [file for file, is_test in zip(files, chosen, strict=True) if not is_test]
        test[name] = [file for file, is_test in zip(files, chosen, strict=True) if is_test]
    return ImageTree(root, train, test)
