"""The entry point `load`, the digits, the per-class split, the statistics and the cache."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmark import datasets
from benchmark.datasets.arrays import channel_statistics
from benchmark.datasets.cache import CacheWriter, cache_root, cached_arrays
from benchmark.datasets.split import held_out
from benchmark.errors import UserError


def test_names_import_nothing_heavy():
    code = (
        "import sys, benchmark.datasets as d; assert 'digits' in d.names() and d.describe('digits');"
        "print([m for m in ('torch', 'avalanche', 'sklearn', 'matplotlib', 'PIL', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(UserError, match='Did you mean "cifar100"') as caught:
        datasets.load("cifar_100")
    assert all(name in str(caught.value) for name in datasets.names())


@pytest.mark.parametrize(
    ("name", "option", "takers"),
    [
        ("cifar100", {"test_fraction": 0.2}, ("digits", "folder")),
        ("digits", {"classes": 5}, ("glyphs",)),
        ("digits", {"root": "."}, ("cifar10", "folder", "food101")),
        ("glyphs", {"test_fraction": 0.2}, ("digits", "folder")),
        ("imagenet_full", {"resolution": 64}, ("glyphs", "folder")),
        ("cifar10", {"seed": 3}, ("digits", "glyphs", "folder")),
    ],
)
def test_an_option_the_dataset_does_not_take(name, option, takers):
    with pytest.raises(UserError, match=f"does not take the option {next(iter(option))}") as caught:
        datasets.load(name, **option)
    assert all(taker in str(caught.value).split("these do:")[1] for taker in takers)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("digits", {"test_fraction": 0.0}),
        ("digits", {"test_fraction": 1}),
        ("digits", {"test_fraction": True}),
        ("digits", {"test_fraction": float("nan")}),
        ("digits", {"test_fraction": "half"}),
        ("digits", {"seed": -1}),
        ("glyphs", {"classes": 0}),
        ("glyphs", {"classes": 2.5}),
        ("glyphs", {"train_per_class": 0}),
        ("folder", {"resolution": -8}),
    ],
)
def test_a_value_out_of_range_names_the_option(name, option):
    key, value = next(iter(option.items()))
    with pytest.raises(UserError, match=f"{key} must be .*{value!r}"):
        datasets.load(name, **option)


def test_a_root_that_is_no_folder(tmp_path: Path):
    with pytest.raises(UserError, match=r"cifar1000.*does not exist"):
        datasets.load("cifar100", root=tmp_path / "cifar1000")
    assert not (tmp_path / "cifar1000").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        datasets.load("folder", root=tmp_path / "file")


@pytest.mark.parametrize("name", ["folder", "imagenet_subset", "imagenet_full"])
def test_a_root_is_required(name):
    with pytest.raises(UserError, match=f'"{name}" needs a root'):
        datasets.load(name)


def test_digits():
    digits = datasets.load("digits")
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    assert digits.train_images.shape == (len(digits.train_labels), 8, 8, 3)
    assert digits.train_images.dtype == np.uint8 and digits.train_labels.dtype == np.int64
    assert digits.train_images.flags.c_contiguous and digits.test_images.flags.c_contiguous
    assert digits.train_images.max() == 255 and digits.train_images.min() == 0
    assert (digits.train_images[..., 0] == digits.train_images[..., 2]).all()
    train, test = np.bincount(digits.train_labels), np.bincount(digits.test_labels)
    assert (np.abs(test - (train + test) / 4) <= 0.5).all()
    assert digits.class_names == tuple("0123456789") and not digits.flip and digits.num_classes == 10
    assert digits.mean == pytest.approx([digits.train_images.mean() / 255] * 3)
    assert digits.std == pytest.approx([digits.train_images.std() / 255] * 3)


def test_digits_split_follows_seed_and_fraction():
    first, again, other = (datasets.load("digits", seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.test_images, again.test_images)
    assert not np.array_equal(first.test_images, other.test_images)
    assert len(datasets.load("digits", test_fraction=0.5).test_labels) == pytest.approx(1797 / 2, abs=10)


def test_held_out_keeps_both_sides_and_ignores_other_classes():
    assert held_out(2, 0.01, "cat", 0).sum() == 1
    assert held_out(2, 0.99, "cat", 0).sum() == 1
    assert held_out(100, 0.2, "cat", 0).sum() == 20
    assert not np.array_equal(held_out(100, 0.2, "cat", 0), held_out(100, 0.2, "dog", 0))
    assert np.array_equal(held_out(100, 0.2, "cat", 7), held_out(100, 0.2, "cat", 7))


def test_channel_statistics_match_numpy():
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 5, 3), dtype=np.uint8)
    images[..., 1] = 17
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((images / 255).mean((0, 1, 2)))
    assert std[0] == pytest.approx((images[..., 0] / 255).std())
    assert std[1] == 1.0


def build(writer: CacheWriter) -> None:
    for split in ("train", "test"):
        writer.images(split, (2, 4, 4, 3))[:] = 7
        writer.labels(split, np.array([0, 1]))


def never(writer: CacheWriter) -> None:
    raise AssertionError("built although it was in the cache")


def test_cache_builds_once_and_keeps_arrays_apart_by_key(tmp_path: Path):
    arrays = cached_arrays("set", {"seed": 1}, tmp_path, build)
    assert isinstance(arrays.train_images, np.memmap) and not arrays.train_images.flags.writeable
    assert (arrays.train_images == 7).all() and arrays.test_labels.tolist() == [0, 1]
    cached_arrays("set", {"seed": 1}, tmp_path, never)
    with pytest.raises(AssertionError):
        cached_arrays("set", {"seed": 2}, tmp_path, never)


def test_a_build_that_fails_leaves_nothing_behind(tmp_path: Path):
    def fail(writer: CacheWriter) -> None:
        build(writer)
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        cached_arrays("set", {}, tmp_path, fail)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    cached_arrays("set", {}, tmp_path, build)


def test_an_entry_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Power may fail at any moment: the files, then their names, then the name of the entry."""
    calls: list[object] = []
    fsync, replace = os.fsync, os.replace

    def synced(file: int) -> None:
        fsync(file)
        calls.append(os.fstat(file).st_ino)

    def renamed(source: Path, target: Path) -> None:
        replace(source, target)
        calls.append("renamed")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    cached_arrays("set", {}, tmp_path, build)
    (entry,) = tmp_path.glob("set-*[!k]")
    files = {path.stat().st_ino for path in entry.iterdir()}
    assert len(files) == 4 and set(calls[:4]) == files
    assert calls[4:] == [entry.stat().st_ino, "renamed", tmp_path.stat().st_ino]


@pytest.mark.parametrize("damage", ["truncated", "missing", "garbage"])
def test_a_damaged_entry_is_rebuilt(tmp_path: Path, damage: str):
    cached_arrays("set", {}, tmp_path, build)
    (path,) = tmp_path.glob("set-*/test_images.npy")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10] if damage == "truncated" else b"no array")
    assert (cached_arrays("set", {}, tmp_path, build).test_images == 7).all()
    cached_arrays("set", {}, tmp_path, never)


BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
from benchmark.datasets.cache import cached_arrays

def build(writer):
    with Path(sys.argv[2]).open("a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    for split in ("train", "test"):
        writer.images(split, (2, 4, 4, 3))[:] = 7
        writer.labels(split, np.array([0, 1]))

assert (cached_arrays("set", {}, sys.argv[1], build).train_images == 7).all()
"""


def test_processes_that_start_together_build_one_entry(tmp_path: Path):
    pytest.importorskip("fcntl", reason="no file locks on this system")
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "cache"), str(tmp_path / "log")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def test_without_locks_the_first_builder_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmark.datasets.cache.fcntl", None)

    def overtaken(writer: CacheWriter) -> None:
        cached_arrays("set", {}, tmp_path, build)
        writer.images("train", (2, 4, 4, 3))

    assert (cached_arrays("set", {}, tmp_path, overtaken).train_images == 7).all()


def test_cache_root_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IMCIL_CACHE", str(tmp_path / "variable"))
    assert cache_root(tmp_path / "argument") == tmp_path / "argument"
    assert cache_root() == tmp_path / "variable"
    monkeypatch.delenv("IMCIL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "imcil" and cache_root().is_dir()


def test_a_cache_that_cannot_be_made_or_written(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        cache_root(tmp_path / "file" / "cache")
    if os.geteuid() != 0:  # root writes anywhere
        tmp_path.chmod(0o500)
        with pytest.raises(UserError, match="not writable"):
            cached_arrays("set", {}, tmp_path, build)


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path):
    with pytest.raises(UserError, match=r"GB free, the train images need 3000000.0 GB"):
        cached_arrays("set", {}, tmp_path, lambda writer: writer.images("train", (10**9, 1000, 1000, 3)))
