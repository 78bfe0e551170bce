"""Listing an image tree, `<split>/<class>/<image>`, that may come from anywhere: nothing outside its root is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmark.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")


class ImageFile(NamedTuple):
    """A file's path relative to the tree's root, and what tells whether it changed."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class ImageTree:
    """The images of each class in both splits; classes in label order, the same in both."""

    root: Path
    train: Mapping[str, list[ImageFile]]
    test: Mapping[str, list[ImageFile]]

    def __post_init__(self) -> None:
        if not self.train:
            raise UserError(f"There are no class folders with images under {self.root}.")
        _require_all(self.train, self.test, f"have test images but no training images under {self.root}")
        _require_all(self.test, self.train, f"have training images but no test images under {self.root}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names by label."""
        return tuple(self.train)

    def fingerprint(self) -> str:
        """Hash of the file list, sizes and times of change."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            for name, files in split.items():
                digest.update(os.fsencode(f"\0{name}\0"))
                for file in files:
                    digest.update(os.fsencode(f"{file.path}\0{file.size}\0{file.mtime_ns}\0"))
        return digest.hexdigest()


def _require_all(there: Mapping[str, list[ImageFile]], wanted: Iterable[str], complaint: str) -> None:
    missing = [name for name in wanted if not there.get(name)]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UserError(f"These classes {complaint}: {shown}.")


def class_folders(root: Path, folder: str = ".") -> list[str]:
    """Names of the folders in `root`/`folder`, sorted; hidden ones are left out."""
    return sorted(entry.name for entry in _scan(root, folder) if _is_folder(root, entry))


def list_split(root: Path, folder: str, classes: Iterable[str]) -> dict[str, list[ImageFile]]:
    """The images of `root`/`folder`/<class> for each of `classes`, each list sorted by name."""
    return {name: _list_images(root, str(Path(folder, name))) for name in classes}


def train_test_tree(root: Path, test_folder: str = "test", classes: Iterable[str] | None = None) -> ImageTree:
    """The tree `train/<class>/*` and `<test_folder>/<class>/*`, of all classes or those named."""
    for folder in ("train", test_folder):
        if not (root / folder).is_dir():
            raise UserError(f"There is no folder {folder}/ under {root}.")
    if classes is None:
        train, test = class_folders(root, "train"), class_folders(root, test_folder)
    else:
        train = test = sorted(classes)
    # label order is train's; a class that only test has is for ImageTree to refuse
    test = [name for name in train if name in set(test)] + [name for name in test if name not in set(train)]
    return ImageTree(root, train=list_split(root, "train", train), test=list_split(root, test_folder, test))


def listed_file(root: Path, path: str, named_in: Path) -> ImageFile:
    """The image `root`/`path` that the file `named_in` names; UserError where it is missing or outside of `root`."""
    refuse_outside(root, root / path)
    try:
        status = (root / path).stat()
    except (OSError, ValueError) as error:  # the latter: a null byte in the name
        raise UserError(f"The image {root / path}, named in {named_in}, is missing or cannot be read.") from error
    return ImageFile(path, status.st_size, status.st_mtime_ns)


def _list_images(root: Path, folder: str) -> list[ImageFile]:
    files = []
    for entry in _scan(root, folder):
        if not entry.name.lower().endswith(SUFFIXES):
            continue
        if entry.is_symlink():
            refuse_outside(root, Path(entry.path))
        try:
            if not entry.is_file():
                raise UserError(f"The image {entry.path} is not a regular file, or a link to nowhere.")
            status = entry.stat()
        except OSError as error:
            raise UserError(f"The image {entry.path} cannot be read ({error.strerror}).") from error
        files.append(ImageFile(str(Path(folder, entry.name)), status.st_size, status.st_mtime_ns))
    return sorted(files)


def _is_folder(root: Path, entry: os.DirEntry[str]) -> bool:
    try:
        if not entry.is_dir():
            return False
    except OSError:  # a loop of links
        return False
    refuse_outside(root, Path(entry.path))
    return True


def _scan(root: Path, folder: str) -> list[os.DirEntry[str]]:
    refuse_outside(root, root / folder)
    try:
        with os.scandir(root / folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"The folder {root / folder} cannot be read ({error.strerror}).") from error


def refuse_outside(root: Path, path: Path) -> None:
    """UserError if following the links in `path` leads out of `root`."""
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a loop of links
        inside = False
    if not inside:
        raise UserError(f"{path} is reached by a symbolic link out of the root {root}; put the files themselves there.")
