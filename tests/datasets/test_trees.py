"""Datasets read from files: folder, CIFAR, ImageNet, Food-101; on small trees in the real formats."""

import hashlib
import json
import os
import pickle
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.datasets import load
from benchmark.datasets.decode import decode_image
from benchmark.errors import UserError


def picture(path: Path, size: tuple[int, int] = (8, 8), value: int | None = None) -> np.ndarray:
    """Write a random (or plain) image of (width, height) and return its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(str(path).encode()).digest()[:4]))
    shape = (size[1], size[0], 3)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8) if value is None else np.full(shape, value, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def plant(root: Path, counts: dict[str, int], suffix: str = ".png", size: tuple[int, int] = (8, 8)) -> Path:
    """A tree with counts["train/cat"] images in each folder."""
    for folder, count in counts.items():
        for index in range(count):
            picture(root / folder / f"{index}{suffix}", size)
    return root


PETS = {"train/cat": 3, "train/dog": 2, "test/cat": 1, "test/dog": 2}


def test_folder_with_both_splits(tmp_path: Path):
    root = plant(tmp_path / "pets", PETS)
    pets = load("folder", root=root, cache_dir=tmp_path / "cache")
    assert pets.class_names == ("cat", "dog") and pets.name == "folder"
    assert pets.train_labels.tolist() == [0, 0, 0, 1, 1] and pets.test_labels.tolist() == [0, 1, 1]
    assert pets.train_images.shape == (5, 8, 8, 3) and pets.train_images.dtype == np.uint8
    with Image.open(root / "train/dog/1.png") as image:
        assert np.array_equal(pets.train_images[4], np.asarray(image))
    assert pets.mean == pytest.approx((pets.train_images / 255).mean((0, 1, 2)))
    assert pets.crop_size is None and pets.flip


def test_folder_reads_only_images_and_any_case_of_extension(tmp_path: Path):
    root = plant(tmp_path / "pets", PETS)
    picture(root / "train/cat/upper.PNG")
    picture(root / "train/cat/photo.JPEG")
    picture(root / "train/cat/photo2.Jpg")
    for name in ("notes.txt", "Thumbs.db", ".hidden.png"):
        (root / "train/cat" / name).write_text("no image")
    (root / "train/.ipynb_checkpoints").mkdir()
    assert np.bincount(load("folder", root=root, cache_dir=tmp_path / "c").train_labels).tolist() == [6, 2]


def test_the_cache_notices_new_and_changed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = plant(tmp_path / "pets", PETS)
    load("folder", root=root, cache_dir=tmp_path / "c")
    with monkeypatch.context() as patch:
        patch.setattr("benchmark.datasets.decode.decode_image", lambda *_: pytest.fail("decoded again"))
        load("folder", root=root, cache_dir=tmp_path / "c")
    picture(root / "train/dog/9.png")
    assert len(load("folder", root=root, cache_dir=tmp_path / "c").train_labels) == 6
    pixels = picture(root / "train/cat/0.png", value=9)
    os.utime(root / "train/cat/0.png", ns=(1, 1))
    assert np.array_equal(load("folder", root=root, cache_dir=tmp_path / "c").train_images[0], pixels)


def test_mixed_sizes_are_stored_at_256_and_trained_at_224(tmp_path: Path):
    root = plant(tmp_path / "pets", PETS)
    picture(root / "train/cat/wide.png", (500, 300))
    pets = load("folder", root=root, cache_dir=tmp_path / "c")
    assert pets.train_images.shape == (6, 256, 256, 3)
    assert pets.crop_size == 224 and pets.mean == (0.485, 0.456, 0.406)


def test_resolution_is_obeyed(tmp_path: Path):
    root = plant(tmp_path / "pets", PETS)
    pets = load("folder", root=root, resolution=5, cache_dir=tmp_path / "c")
    assert pets.test_images.shape == (3, 5, 5, 3)
    assert load("folder", root=root, cache_dir=tmp_path / "c").test_images.shape == (3, 8, 8, 3)


def test_one_size_that_is_not_square_is_kept(tmp_path: Path):
    root = plant(tmp_path / "pets", PETS, size=(12, 6))
    assert load("folder", root=root, cache_dir=tmp_path / "c").train_images.shape == (5, 6, 12, 3)


@pytest.mark.parametrize("size", [(40, 23), (23, 40), (17, 17), (301, 7), (3, 5)])
def test_decoding_matches_torchvision_resize_and_centre_crop(tmp_path: Path, size: tuple[int, int]):
    from torchvision.transforms import v2

    picture(tmp_path / "a.png", size)
    with Image.open(tmp_path / "a.png") as image:
        wanted = v2.CenterCrop(16)(v2.Resize(16)(image))
    assert np.array_equal(decode_image(tmp_path / "a.png", (16, 16)), np.asarray(wanted))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16", "CMYK"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    grey = np.full((8, 8), 200, dtype=np.uint8)
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) << 8).save(path)
    else:
        Image.fromarray(grey).convert("RGB").convert(mode).save(path)
    pixels = decode_image(path, (8, 8))
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    wanted, share = (255, 0.6) if mode == "1" else (200, 0.9)  # modes 1 and P dither
    assert (np.abs(pixels.astype(int) - wanted) <= 5).mean() > share


def test_a_png_named_jpeg_is_read(tmp_path: Path):  # ImageNet has one
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "a.JPEG", format="PNG")
    assert decode_image(tmp_path / "a.JPEG", (8, 8))[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "gif"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_damaged_image_is_named_and_nothing_is_cached(tmp_path: Path, damage: str, suffix: str):
    root = plant(tmp_path / "pets", PETS, suffix, size=(40, 40))
    bad = root / f"train/dog/1{suffix}"
    if damage == "gif":
        Image.new("L", (40, 40)).save(bad, format="GIF")
    else:
        content = bad.read_bytes()
        bad.write_bytes({"empty": b"", "text": b"not an image", "truncated": content[: len(content) // 2]}[damage])
    with pytest.raises(UserError, match=rf"train/dog/1{suffix} cannot be decoded") as caught:
        load("folder", root=root, resolution=32, cache_dir=tmp_path / "c")
    assert "\n" not in str(caught.value)
    assert [path for path in (tmp_path / "c").iterdir() if path.is_dir()] == []
    with pytest.raises(UserError, match="cannot be decoded"):
        load("folder", root=root, cache_dir=tmp_path / "c")


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = plant(tmp_path / "pets", PETS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UserError, match=r"cannot be decoded.*bomb"):
        load("folder", root=root, cache_dir=tmp_path / "c")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train/cat": 1, "train/dog": 1, "test/cat": 1, "test/dog": 0}, "no test images .*: dog"),
        ({"train/cat": 1, "train/dog": 1, "test/cat": 1}, "no test images .*: dog"),
        ({"train/cat": 1, "test/cat": 1, "test/emu": 1}, "no training images .*: emu"),
        ({"train/cat": 1, "train/emu": 0, "test/cat": 1, "test/emu": 1}, "no training images .*: emu"),
        ({"train/cat": 1, "train/emu": 0, "test/cat": 1, "test/emu": 0}, "emu"),
        ({"train/cat": 2}, "set test_fraction"),
        ({"cat": 2, "dog": 2}, "set test_fraction"),
        ({}, "holds no class folders"),
    ],
)
def test_incomplete_trees(tmp_path: Path, counts: dict[str, int], message: str):
    root = plant(tmp_path / "pets", counts)
    root.mkdir(exist_ok=True)
    for folder in counts:
        (root / folder).mkdir(parents=True, exist_ok=True)
    with pytest.raises(UserError, match=message):
        load("folder", root=root, cache_dir=tmp_path / "c")


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_a_tree_without_test_split(tmp_path: Path, prefix: str):
    root = plant(tmp_path / "pets", {f"{prefix}cat": 10, f"{prefix}dog": 2})
    first = load("folder", root=root, test_fraction=0.3, cache_dir=tmp_path / "c")
    assert np.bincount(first.train_labels).tolist() == [7, 1]
    assert np.bincount(first.test_labels).tolist() == [3, 1]
    images = np.concatenate([first.train_images, first.test_images]).reshape(12, -1)
    assert len(np.unique(images, axis=0)) == 12
    again = load("folder", root=root, test_fraction=0.3, cache_dir=tmp_path / "c2")
    assert np.array_equal(first.test_images, again.test_images)
    other = load("folder", root=root, test_fraction=0.3, seed=1, cache_dir=tmp_path / "c")
    assert not np.array_equal(first.test_images, other.test_images)


@pytest.mark.parametrize(("count", "found"), [(1, "1 image"), (0, "no PNG or JPEG images")])
def test_a_class_too_small_to_split(tmp_path: Path, count: int, found: str):
    root = plant(tmp_path / "pets", {"cat": 4, "emu": count})
    (root / "emu").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=f'"emu" .* has {found}'):
        load("folder", root=root, test_fraction=0.5, cache_dir=tmp_path / "c")


def test_test_fraction_beside_a_test_split(tmp_path: Path):
    with pytest.raises(UserError, match="leave out test_fraction"):
        load("folder", root=plant(tmp_path / "pets", PETS), test_fraction=0.5, cache_dir=tmp_path / "c")


@pytest.mark.parametrize("link", ["train/cat/out.png", "train/emu", "test"])
def test_links_out_of_the_root_are_refused(tmp_path: Path, link: str):
    outside = plant(tmp_path / "outside", {"secret/cat": 1, "secret/dog": 1})
    root = plant(tmp_path / "pets", {name: count for name, count in PETS.items() if not name.startswith(link)})
    (root / link).symlink_to(outside / "secret/cat/0.png" if link.endswith("png") else outside / "secret")
    with pytest.raises(UserError, match="symbolic link out of the root"):
        load("folder", root=root, cache_dir=tmp_path / "c")


def test_links_within_the_root_and_a_linked_root_work(tmp_path: Path):
    root = plant(tmp_path / "pets", PETS)
    (root / "train/cat/again.png").symlink_to(root / "train/cat/0.png")
    (tmp_path / "linked").symlink_to(root)
    assert len(load("folder", root=tmp_path / "linked", cache_dir=tmp_path / "c").train_labels) == 6


@pytest.mark.parametrize("target", ["nowhere.png", "loop.png"])
def test_links_to_nowhere_are_named(tmp_path: Path, target: str):
    root = plant(tmp_path / "pets", PETS)
    (root / "train/cat/loop.png").symlink_to(root / "train/cat" / target)
    with pytest.raises(UserError, match=r"loop\.png"):
        load("folder", root=root, cache_dir=tmp_path / "c")


# CIFAR


def cifar_tree(root: Path, classes: int) -> Path:
    counts = {f"{split}/class_{index:03d}": 1 for split in ("train", "test") for index in range(classes)}
    return plant(root, counts, size=(32, 32))


@pytest.mark.parametrize(("name", "classes", "red"), [("cifar10", 10, 0.4914), ("cifar100", 100, 0.5071)])
def test_cifar_from_a_png_tree(tmp_path: Path, name: str, classes: int, red: float):
    cifar = load(name, root=cifar_tree(tmp_path / "data", classes), cache_dir=tmp_path / "c")
    assert cifar.train_labels.tolist() == list(range(classes)) and cifar.num_classes == classes
    assert cifar.train_images.shape == (classes, 32, 32, 3)
    assert cifar.mean[0] == red and cifar.flip and cifar.crop_size is None and cifar.name == name


def test_cifar_tree_of_another_size(tmp_path: Path):
    with pytest.raises(UserError, match=r'holds 7 class folders, cifar100 has 100.*"folder"'):
        load("cifar100", root=cifar_tree(tmp_path / "data", 7), cache_dir=tmp_path / "c")


def write_pickles(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """CIFAR-100's files with 200 + 100 made images; torchvision's checksums replaced by theirs."""
    from torchvision.datasets import CIFAR100

    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (200, 3, 32, 32), dtype=np.uint8)
    contents = {
        "train": {"data": pixels.reshape(200, -1), "fine_labels": [index % 100 for index in range(200)]},
        "test": {"data": pixels[:100].reshape(100, -1), "fine_labels": list(range(100))},
        "meta": {"fine_label_names": [f"class_{index:03d}" for index in range(100)]},
    }
    sums = {}
    for name, content in contents.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        sums[name] = hashlib.md5(data, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    return pixels


def test_cifar_from_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pixels = write_pickles(tmp_path, monkeypatch)
    cifar = load("cifar100", root=tmp_path)
    assert np.array_equal(cifar.train_images, pixels.transpose(0, 2, 3, 1))
    assert cifar.train_images.flags.c_contiguous and cifar.train_labels.dtype == np.int64
    assert cifar.train_labels[:3].tolist() == [0, 1, 2] and len(cifar.test_labels) == 100
    assert cifar.class_names[99] == "class_099" and cifar.std == (0.2009, 0.1984, 0.2023)


def test_pickles_with_another_checksum_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_pickles(tmp_path, monkeypatch)
    with (tmp_path / "cifar-100-python" / "train").open("ab") as handle:
        handle.write(b"changed")
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(UserError, match="cifar-100-python are incomplete or not the original"):
        load("cifar100", root=tmp_path)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(("name", "layout"), [("cifar100", "PNG tree"), ("food101", "food-101/images")])
def test_a_failed_download_is_one_sentence(tmp_path: Path, monkeypatch, given: bool, name: str, layout: str):
    import torchvision.datasets as tv

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host\nat all")

    monkeypatch.setattr(tv.cifar, "download_and_extract_archive", offline)
    monkeypatch.setattr(tv.food101, "download_and_extract_archive", offline)
    root = tmp_path / "data"
    root.mkdir()
    folder = root if given else tmp_path / "c" / name
    with pytest.raises(UserError, match=rf"{folder} .*no route to host at all.*{layout}") as caught:
        load(name, root=root if given else None, cache_dir=tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_cifar_is_downloaded_into_an_empty_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torchvision.datasets as tv

    root = tmp_path / "data"
    root.mkdir()
    fetched = []

    def fetch(url: str, folder: str, **_: object) -> None:
        fetched.append(folder)
        write_pickles(Path(folder), monkeypatch)

    monkeypatch.setattr(tv.cifar, "download_and_extract_archive", fetch)
    for _ in range(2):
        assert len(load("cifar100", root=root, cache_dir=tmp_path / "c").train_labels) == 200
    assert fetched == [str(root)]


def test_real_cifar100_images(tmp_path: Path):
    """Two images of each class and split out of the real release, if it lies beside the checkout."""
    archives = sorted((Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar100").glob("*.zip"))
    if not archives:
        pytest.skip("the CIFAR-100 PNG archives do not lie beside this checkout")
    taken: Counter[str] = Counter()
    for archive in archives:
        with zipfile.ZipFile(archive) as content:
            for member in sorted(content.namelist()):
                folder = str(Path(member).parent)
                if member.endswith(".png") and taken[folder] < 2:
                    taken[folder] += 1
                    content.extract(member, tmp_path / "data")
    cifar = load("cifar100", root=tmp_path / "data", cache_dir=tmp_path / "c")
    assert (np.bincount(cifar.train_labels) == 2).all() and (np.bincount(cifar.test_labels) == 2).all()
    assert cifar.class_names[:3] == ("apple", "aquarium_fish", "baby") and cifar.class_names[99] == "worm"
    assert (cifar.train_images / 255).mean((0, 1, 2)) == pytest.approx(cifar.mean, abs=0.05)
    last = sorted((tmp_path / "data/train/worm").iterdir())[-1]
    assert np.array_equal(cifar.train_images[-1], np.asarray(Image.open(last)))


# ImageNet


def imagenet_tree(root: Path, classes: int) -> Path:
    for index in range(classes):
        for split in ("train", "val"):
            picture(root / split / f"n{index:08d}" / f"{index}.JPEG", (6, 4), value=index % 256)
    return root


def test_imagenet_subset_takes_the_100_drawn_with_seed_1993(tmp_path: Path):
    root = imagenet_tree(tmp_path / "imagenet", 1000)
    np.random.seed(3)
    subset = load("imagenet_subset", root=root, cache_dir=tmp_path / "c")
    drawn = np.random.get_state()[1][0]  # numpy's global generator is not reseeded
    assert drawn == 3
    np.random.seed(1993)
    wanted = sorted(f"n{index:08d}" for index in np.random.choice(1000, 100, replace=False))
    assert subset.class_names == tuple(wanted)
    assert subset.train_images.shape == (100, 256, 256, 3) and subset.crop_size == 224
    assert subset.test_labels.tolist() == list(range(100))
    for label in (0, 50, 99):
        value = int(wanted[label][1:]) % 256
        assert np.abs(subset.train_images[label].astype(int) - value).max() <= 2


def test_imagenet_subset_starts_with_the_published_indices():
    from benchmark.datasets.imagenet import subset_indices

    assert subset_indices()[:8] == [54, 7, 894, 512, 126, 337, 988, 11]
    assert len(set(subset_indices())) == 100


def test_imagenet_subset_from_a_tree_of_exactly_100(tmp_path: Path):
    subset = load("imagenet_subset", root=imagenet_tree(tmp_path / "imagenet", 100), cache_dir=tmp_path / "c")
    assert subset.class_names == tuple(f"n{index:08d}" for index in range(100))
    assert subset.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(("name", "wanted"), [("imagenet_subset", "100 or 1000"), ("imagenet_full", "1000")])
def test_imagenet_with_another_number_of_classes(tmp_path: Path, name: str, wanted: str):
    with pytest.raises(UserError, match=f'holds 12 class folders; "{name}" needs {wanted}'):
        load(name, root=imagenet_tree(tmp_path / "imagenet", 12), cache_dir=tmp_path / "c")


def test_imagenet_with_unsorted_validation_images(tmp_path: Path):
    root = imagenet_tree(tmp_path / "imagenet", 100)
    for path in sorted((root / "val").glob("*/*")):
        path.rename(root / "val" / path.name)
        path.parent.rmdir()
    with pytest.raises(UserError, match="holds no class folders: sort"):
        load("imagenet_subset", root=root, cache_dir=tmp_path / "c")
    with pytest.raises(UserError, match="no folder train/"):
        load("imagenet_full", root=root / "val", cache_dir=tmp_path / "c")


# Food-101


def food_tree(root: Path) -> Path:
    lists: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for dish in ("waffles", "apple_pie"):
        for index in range(4):
            picture(root / "food-101/images" / dish / f"{index}.jpg", (30, 20))
            lists["test" if index == 2 else "train"].setdefault(dish, []).append(f"{dish}/{index}")
    (root / "food-101/meta").mkdir()
    for split, content in lists.items():
        (root / "food-101/meta" / f"{split}.json").write_text(json.dumps(content))
    return root


def test_food101_follows_the_official_lists(tmp_path: Path):
    root = food_tree(tmp_path / "food")
    food = load("food101", root=root, cache_dir=tmp_path / "c")
    assert food.class_names == ("apple_pie", "waffles")
    assert food.train_labels.tolist() == [0, 0, 0, 1, 1, 1] and food.test_labels.tolist() == [0, 1]
    assert food.train_images.shape == (6, 256, 256, 3) and food.crop_size == 224
    wanted = decode_image(root / "food-101/images/waffles/2.jpg", (256, 256))
    assert np.array_equal(food.test_images[1], wanted)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"waffles": ["waffles/77"], "apple_pie": ["apple_pie/0"]}), "waffles/77, named in"),
        (json.dumps({"waffles": ["../../../etc/passwd"]}), "passwd, named in"),
        (json.dumps({"waffles": [["waffles/0"]]}), "must map each class"),
        (json.dumps(["waffles/0"]), "must map each class"),
        (json.dumps({"waffles": ["waffles/0"]}), "no training images .*: apple_pie"),
        ("{", "missing or not JSON"),
        (None, "missing or not JSON"),
    ],
)
def test_food101_lists_that_are_wrong(tmp_path: Path, content: str | None, message: str):
    root = food_tree(tmp_path / "food")
    path = root / "food-101/meta/train.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load("food101", root=root, cache_dir=tmp_path / "c")
