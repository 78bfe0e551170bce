"""VOC and COCO, on small trees in the real formats."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.datasets import ImageArrays, load, task_kind
from benchmark.datasets.voc import CLASSES
from benchmark.errors import UserError

# --- VOC --------------------------------------------------------------------------------------------------------------

OBJECT = """
	<object>
		<name>{name}</name>
		<pose>Left</pose>
		<truncated>1</truncated>
		<difficult>{difficult}</difficult>
		<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>{part}
	</object>"""
PART = "\n\t\t<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
TRAINVAL = {"000005": ["chair", "chair", "person!"], "000007": ["car", "person"], "000009": ["dog!"], "000012": ["cow"]}
TEST = {"000001": ["dog", "person"], "000002": ["train"]}


def photo(path: Path, size: tuple[int, int] = (50, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.stem) + int(path.stem)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def annotate(folder: Path, stem: str, objects: list[str]) -> None:
    """A "!" marks a difficult object; a person has a part, with a name of its own."""
    inner = "".join(
        OBJECT.format(name=one.rstrip("!"), difficult=int("!" in one), part=PART if "person" in one else "")
        for one in objects
    )
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    (folder / "Annotations" / f"{stem}.xml").write_text(
        f"<annotation>\n\t<folder>VOC2007</folder>\n\t<filename>{stem}.jpg</filename>{inner}\n</annotation>\n"
    )


def plant_voc(folder: Path, splits: dict[str, dict[str, list[str]]]) -> Path:
    for split, images in splits.items():
        (folder / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in images))
        for stem, objects in images.items():
            annotate(folder, stem, objects)
            photo(folder / "JPEGImages" / f"{stem}.jpg")
    return folder


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """VOCdevkit/VOC2007 under a root."""
    return plant_voc(tmp_path / "data/VOCdevkit/VOC2007", {"trainval": TRAINVAL, "test": TEST})


def load_voc(folder: Path, name: str = "voc2007", **options: Any) -> ImageArrays:
    root = folder.parent.parent
    return load(name, root=root, cache_dir=root / "cache", **{"resolution": 32, **options})


def shown(row: np.ndarray) -> set[str]:
    return {CLASSES[column] for column in np.flatnonzero(row)}


def test_voc_labels_are_the_objects_that_are_not_difficult(voc: Path) -> None:
    arrays = load_voc(voc)
    assert arrays.task_kind == task_kind("voc2007") == "multi" and arrays.class_names == CLASSES
    assert [shown(row) for row in arrays.train_labels] == [
        {"chair"},
        {"car", "person"},
        {"cow"},
    ]  # the dog is difficult
    assert [shown(row) for row in arrays.test_labels] == [{"dog", "person"}, {"train"}]
    assert arrays.train_labels.dtype == np.uint8 and arrays.train_images.shape == (3, 32, 32, 3)
    assert arrays.flip and arrays.crop_size is None


def test_whole_images_are_squeezed_not_cut(voc: Path) -> None:
    with Image.open(voc / "JPEGImages/000012.jpg") as image:
        wanted = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(load_voc(voc).train_images[2], wanted)
    assert load_voc(voc, resolution=None).train_images.shape == (3, 224, 224, 3)


def test_voc_2012_tests_on_val(tmp_path: Path) -> None:
    folder = plant_voc(tmp_path / "data/VOCdevkit/VOC2012", {"train": TRAINVAL, "val": TEST})
    arrays = load_voc(folder, "voc2012")
    assert len(arrays.train_labels) == 3 and len(arrays.test_labels) == 2


def test_the_folder_of_the_year_may_stand_alone(tmp_path: Path) -> None:
    plant_voc(tmp_path / "VOC2007", {"trainval": TRAINVAL, "test": TEST})
    assert len(load("voc2007", root=tmp_path, cache_dir=tmp_path / "c", resolution=32).train_labels) == 3


def test_changed_annotations_are_noticed(voc: Path) -> None:
    load_voc(voc)
    annotate(voc, "000012", ["cow", "sheep"])
    assert shown(load_voc(voc).train_labels[2]) == {"cow", "sheep"}


def test_voc_is_downloaded_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision fetches an archive and unpacks it; here the archive is a small one of the same layout."""
    plant_voc(tmp_path / "source/VOCdevkit/VOC2007", {"trainval": TRAINVAL, "test": TEST})
    with tarfile.open(tmp_path / "voc.tar", "w") as archive:
        archive.add(tmp_path / "source/VOCdevkit", "VOCdevkit")
    fetched = []

    def unpack(url: str, download_root: str, **_: Any) -> None:
        fetched.append(url)
        with tarfile.open(tmp_path / "voc.tar") as archive:
            archive.extractall(download_root, filter="data")

    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", unpack)
    arrays = load("voc2007", cache_dir=tmp_path / "cache", resolution=32)
    assert len(arrays.train_labels) == 3 and len(fetched) == 2 and all("VOC" in url for url in fetched)


def test_a_failed_download_names_the_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", offline)
    with pytest.raises(UserError, match=r"download failed \(no network\).*VOCdevkit/VOC2007/ with JPEGImages"):
        load("voc2007", root=tmp_path, cache_dir=tmp_path / "cache")


def break_voc(voc: Path, damage: str) -> None:
    if damage == "list":
        (voc / "ImageSets/Main/test.txt").unlink()
    elif damage == "empty list":
        (voc / "ImageSets/Main/test.txt").write_text("\n")
    elif damage == "annotation":
        (voc / "Annotations/000007.xml").unlink()
    elif damage == "no XML":
        (voc / "Annotations/000007.xml").write_text("<annotation><object>")
    elif damage == "object":
        annotate(voc, "000007", ["persn"])
    elif damage == "image":
        (voc / "JPEGImages/000007.jpg").unlink()
    elif damage == "damaged image":
        (voc / "JPEGImages/000007.jpg").write_bytes(b"\xff\xd8 no picture")
    else:
        (voc / "ImageSets/Main/test.txt").write_text("../../../secret\n")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("list", r"The list .*Main/test.txt is missing"),
        ("empty list", r"The list .*Main/test.txt names no image"),
        ("annotation", r"The annotation .*000007.xml of the image 000007, named in .*trainval.txt, is missing"),
        ("no XML", r"The annotation .*000007.xml of the image 000007 is not XML"),
        ("object", r'000007.xml of the image 000007 has an object "persn". Did you mean "person"\?'),
        ("image", r"The image .*000007.jpg, named in .*trainval.txt, is missing"),
        ("damaged image", r"The image .*000007.jpg cannot be decoded"),
        ("escape", r"symbolic link out of the root"),
    ],
)
def test_bad_voc_files_are_named(voc: Path, damage: str, sentence: str) -> None:
    (voc.parent.parent.parent / "secret.xml").write_text("<annotation/>")
    break_voc(voc, damage)
    with pytest.raises(UserError, match=sentence):
        load_voc(voc)


# --- COCO -------------------------------------------------------------------------------------------------------------

CATEGORIES = [
    {"supercategory": "person", "id": 1, "name": "person"},
    {"supercategory": "vehicle", "id": 3, "name": "car"},
    {"supercategory": "animal", "id": 90, "name": "dog"},
]
BOX = {"bbox": [1.0, 2.0, 3.0, 4.0], "area": 12.0, "segmentation": [[1.0, 1.0, 2.0, 2.0, 3.0, 1.0]]}


def plant_coco(root: Path, year: str = "2014") -> Path:
    """Images 1 to 4: person and dog; car twice; a crowd of persons alone; nothing."""
    for split in ("train", "val"):
        shows = {1: [(1, 0), (90, 0)], 2: [(3, 0), (3, 0), (1, 1)], 3: [(1, 1)], 4: []}
        images, annotations = [], []
        for number, objects in shows.items():
            name = f"COCO_{split}{year}_{number:012d}.jpg"
            images.append({"id": number, "file_name": name, "width": 50, "height": 30, "license": 1})
            for category, crowd in objects:
                annotations.append(
                    {"id": len(annotations), "image_id": number, "category_id": category, "iscrowd": crowd, **BOX}
                )
            path = root / f"{split}{year}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((30, 50, 3), 40 * number, np.uint8)
            Image.fromarray(pixels).save(path)
        content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": CATEGORIES}
        write_coco(root, split, content, year)
    return root


def write_coco(root: Path, split: str, content: Any, year: str = "2014") -> None:
    path = root / f"annotations/instances_{split}{year}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def read_coco(root: Path, split: str = "train") -> Any:
    return json.loads((root / f"annotations/instances_{split}2014.json").read_text())


def load_coco(root: Path, **options: Any) -> ImageArrays:
    return load("coco", root=root, cache_dir=root / "cache", **{"resolution": 32, **options})


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_labels_in_alphabetical_order_without_crowds(tmp_path: Path, year: str) -> None:
    arrays = load_coco(plant_coco(tmp_path, year))
    assert arrays.class_names == ("car", "dog", "person") and arrays.task_kind == "multi"
    assert arrays.train_labels.tolist() == arrays.test_labels.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert arrays.train_images.shape == (2, 32, 32, 3)
    assert arrays.train_images[:, 16, 16, 0].tolist() == pytest.approx([40, 80], abs=2)


def test_coco_makes_a_stream(tmp_path: Path) -> None:
    from benchmark.streams import long_tailed_benchmark  # the loaders themselves need no torch

    made = long_tailed_benchmark(load_coco(plant_coco(tmp_path)), protocol="B0-C1", profile="natural", order="ordered")
    assert made.info.class_names == ("car", "dog", "person") and made.info.train_counts == (1, 1, 1)


def break_coco(root: Path, damage: str) -> None:
    content = read_coco(root)
    if damage == "no JSON":
        (root / "annotations/instances_train2014.json").write_text('{"images": [')
        return
    if damage == "no val":
        (root / "annotations/instances_val2014.json").unlink()
        return
    if damage == "image":
        (root / "train2014/COCO_train2014_000000000002.jpg").unlink()
        return
    if damage == "list":
        del content["annotations"]
    elif damage == "foreign image":
        content["annotations"][1]["image_id"] = 77
    elif damage == "foreign category":
        content["annotations"][1]["category_id"] = 5
    elif damage == "no number":
        content["annotations"][1]["category_id"] = "dog"
    elif damage == "no name":
        del content["images"][1]["file_name"]
    elif damage == "escape":
        content["images"][1]["file_name"] = "../../secret.jpg"
    elif damage == "other categories":
        content["categories"][1]["name"] = "bus"
    elif damage == "unannotated":
        content["annotations"] = []
    write_coco(root, "train", content)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("no JSON", "instances_train2014.json is missing or not JSON"),
        ("no val", "instances_val2014.json is missing or not JSON"),
        ("image", r"The image .*000002.jpg, named in .*instances_train2014.json, is missing"),
        ("list", 'instances_train2014.json has no list "annotations"'),
        ("foreign image", "Annotation 1 of .*train2014.json is of image 77, which the file does not list"),
        ("foreign category", "Annotation 1 of .*train2014.json is of category 5"),
        ("no number", 'An entry of "annotations" in .*train2014.json has no number "category_id"'),
        ("no name", "Image 2 of .*train2014.json has no file_name"),
        ("escape", "symbolic link out of the root"),
        ("other categories", "list different categories"),
        ("unannotated", "No image of .*train2014.json is annotated"),
    ],
)
def test_bad_coco_files_are_named(tmp_path: Path, damage: str, sentence: str) -> None:
    root = plant_coco(tmp_path / "coco")
    (tmp_path / "secret.jpg").write_bytes(b"")
    break_coco(root, damage)
    with pytest.raises(UserError, match=sentence):
        load_coco(root)


def test_coco_needs_a_root_with_annotations(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r'"coco" needs a root: a folder that holds annotations/instances_train2014.json'
    ):
        load("coco", cache_dir=tmp_path)
    with pytest.raises(UserError, match=r"There is no annotations/instances_train2014.json under"):
        load_coco(tmp_path)
