"""The cache of decoded and generated images: one folder per entry, present only when complete."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmark.errors import UserError
from benchmark.storage.files import sync_folder

try:
    import fcntl
except ImportError:  # Windows: no locks there; two builders then do the work twice, and the first to finish wins
    fcntl = None  # type: ignore[assignment]


class CachedArrays(NamedTuple):
    """An entry's content; the images are read-only memory maps."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """The cache folder: `cache_dir`, else $IMCIL_CACHE, else ~/.cache/imcil; created if missing."""
    root = Path(cache_dir or os.environ.get("IMCIL_CACHE") or Path.home() / ".cache" / "imcil").expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The cache folder {root} cannot be made ({error.strerror}); name another with cache_dir or IMCIL_CACHE."
        ) from error
    return root


class CacheWriter:
    """The arrays of an entry under construction, written straight to disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def images(self, split: str, shape: tuple[int, int, int, int]) -> np.ndarray:
        """A writable uint8 memory map of `shape` for `split` ("train" or "test"); UserError if the disk is too full."""
        needed = int(np.prod(shape, dtype=np.int64))
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"The cache folder {self.folder.parent} has {free / 1e9:.1f} GB free, the {split} images need "
                f"{needed / 1e9:.1f} GB; name another folder with cache_dir or IMCIL_CACHE, or delete what killed "
                "runs left there (its hidden folders)."
            )
        path = self.folder / f"{split}_images.npy"
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)

    def labels(self, split: str, labels: np.ndarray) -> None:
        """Store the labels of `split`: class ids (N,) as int64, multi-hot rows (N, K) as uint8."""
        np.save(self.folder / f"{split}_labels.npy", labels.astype(np.int64 if labels.ndim == 1 else np.uint8))


def cached_arrays(
    name: str, key: dict[str, Any], cache_dir: str | Path | None, build: Callable[[CacheWriter], None]
) -> CachedArrays:
    """Arrays of the entry `name` + hash of `key`, made by `build` when missing.

    Parameters
    ----------
    key : JSON values that determine the content
    build : writes the images and labels of both splits through the CacheWriter it is given

    Raises
    ------
    UserError
        the cache folder cannot be written or is too full
    """
    root = cache_root(cache_dir)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    entry = root / f"{name}-{digest}"
    arrays = _read(entry)
    if arrays is not None:
        return arrays
    with exclusive(root / f"{entry.name}.lock"):
        arrays = _read(entry)  # another process may have built it while we waited
        if arrays is None:
            _build(entry, build)
            arrays = _read(entry)
    if arrays is None:
        raise UserError(f"The cache entry {entry} cannot be read back; delete it or name another cache_dir.")
    return arrays


@contextlib.contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold an advisory lock on the file `lock`; waits for other processes, and goes on without where there are none."""
    try:
        handle = lock.open("w")
    except OSError as error:
        raise UserError(
            f"The cache folder {lock.parent} is not writable ({error.strerror}); "
            "name another with cache_dir or IMCIL_CACHE."
        ) from error
    with handle:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # file systems without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(entry: Path, build: Callable[[CacheWriter], None]) -> None:
    """Build in a temporary folder beside the entry, then rename it: readers see all of it or nothing.

    It is on the disk before it has its name: after a loss of power, pages of zeros would pass for images.
    """
    working = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=entry.parent))
    try:
        build(CacheWriter(working))
        if entry.exists() and _read(entry) is None:  # damaged; a good one is that of a builder that overtook us
            shutil.rmtree(entry)
        for path in working.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        sync_folder(working)
        _rename_folder(working, entry)
        sync_folder(entry.parent)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _rename_folder(source: Path, target: Path) -> None:
    source.chmod(0o755)  # mkdtemp makes it private; a cache may be shared
    try:
        os.replace(source, target)  # noqa: PTH105  (the atomic rename, by its usual name)
    except OSError:
        if not target.exists():  # otherwise a builder without locks was faster: its entry serves as well
            raise


def _read(entry: Path) -> CachedArrays | None:
    """The arrays of a complete entry, or None if it is missing or damaged."""
    try:
        return CachedArrays(
            train_images=np.load(entry / "train_images.npy", mmap_mode="r"),
            train_labels=np.load(entry / "train_labels.npy"),
            test_images=np.load(entry / "test_images.npy", mmap_mode="r"),
            test_labels=np.load(entry / "test_labels.npy"),
        )
    except (OSError, ValueError, EOFError):
        return None
