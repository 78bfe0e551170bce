"""Batches from arrays: augmentation, normalisation, order, sources."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from torch import Tensor
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

from benchmark import datasets
from benchmark.datasets.arrays import ImageArrays
from benchmark.loading.augmentation import (
    AUGMENTATIONS,
    PAD,
    centre_crop,
    jitter_brightness,
    make_augment,
    random_crop,
    random_resized_crop,
)
from benchmark.loading.loader import ArrayLoader, attribute_array, resident
from benchmark.loading.prefetch import read_ahead
from benchmark.streams import long_tailed_benchmark
from strategies.training.recipe import batch_sizes

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(n: int, height: int = 12, width: int = 12, seed: int = 0) -> Tensor:
    """No zeros, so that padding can be told from pixels."""
    return torch.randint(1, 256, (n, height, width, 3), dtype=torch.uint8, generator=seeded(seed))


def arrays_of(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, **changes: Any
) -> ImageArrays:
    names = tuple(map(str, range(int(labels.max()) + 1)))
    settings: dict[str, Any] = {"mean": MEAN, "std": STD, "flip": True, **changes}
    return ImageArrays("random", train, labels, test, test_labels, names, **settings)


def small_stream(**changes: Any) -> tuple[Any, ImageArrays]:
    """Two experiences of two classes, 11 and 3 images each; every image differs from every other."""
    train, test = random_images(44, seed=1).numpy(), random_images(12, seed=2).numpy()
    arrays = arrays_of(train, np.repeat(np.arange(4), 11), test, np.repeat(np.arange(4), 3), **changes)
    return long_tailed_benchmark(arrays, tasks=2, profile="natural", order=[3, 1, 0, 2]), arrays


# --- random crops --------------------------------------------------------------------------------------------------


def windows(image: Tensor) -> dict[bytes, tuple[int, int, bool]]:
    """Every crop of the padded image and its mirror image, with its offset."""
    height, width, _ = image.shape
    padded = torch.nn.functional.pad(image, (0, 0, PAD, PAD, PAD, PAD))
    found = {}
    for top in range(2 * PAD + 1):
        for left in range(2 * PAD + 1):
            crop = padded[top : top + height, left : left + width]
            found[crop.contiguous().numpy().tobytes()] = (top, left, False)
            found[crop.flip(1).contiguous().numpy().tobytes()] = (top, left, True)
    return found


@pytest.mark.parametrize(("height", "width"), [(12, 12), (10, 14)])
@pytest.mark.parametrize("flip", [True, False])
def test_a_random_crop_is_a_window_of_the_padded_image(flip: bool, height: int, width: int) -> None:
    images = random_images(6, height, width)
    known = [windows(image) for image in images]
    seen = []
    for draw in range(200):
        for image, crop in zip(known, random_crop(images, seeded(draw), flip), strict=True):
            seen.append(image[crop.contiguous().numpy().tobytes()])  # KeyError: no window of this image
    tops, lefts, mirrored = (np.array(values) for values in zip(*seen, strict=True))
    assert images.equal(random_images(6, height, width))  # untouched
    for offsets in (tops, lefts):
        counts = np.bincount(offsets, minlength=2 * PAD + 1)
        assert len(counts) == 9 and counts.min() > 90 and counts.max() < 180  # 133 expected
    assert mirrored.mean() == pytest.approx(0.5 if flip else 0.0, abs=0.05)
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.1


@pytest.mark.parametrize("name", ["crop", "resized_crop", "crop_jitter"])
def test_chiral_datasets_are_never_mirrored(name: str) -> None:
    """An image that is dark on the left stays dark on the left."""
    images = torch.zeros(64, 16, 16, 3, dtype=torch.uint8)
    images[:, :, 8:] = 200

    def share_mirrored(flip: bool) -> float:
        made = make_augment(name, flip)(images, seeded()).float()
        return float(
            (made[:, 4:12, :8].mean(dim=(1, 2, 3)) > made[:, 4:12, 8:].mean(dim=(1, 2, 3)) + 20).float().mean()
        )

    assert share_mirrored(True) > 0.2 and share_mirrored(False) < 0.1


def test_digits_and_glyphs_are_chiral(tmp_path: Path) -> None:
    assert not datasets.load("digits", cache_dir=tmp_path).flip
    assert not datasets.load("glyphs", classes=2, train_per_class=2, test_per_class=1, cache_dir=tmp_path).flip


# --- random resized crops ------------------------------------------------------------------------------------------


def boxes(n: int, flip: bool, side: int = 64, out: int = 32, seed: int = 0) -> tuple[Tensor, ...]:
    """Left, top, width and height of the boxes that a crop of a ramp shows, negative width if mirrored."""
    ramp = torch.arange(side, dtype=torch.uint8)
    image = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), torch.zeros(side, side)], dim=2)
    made = random_resized_crop(image.to(torch.uint8).expand(n, -1, -1, -1), seeded(seed), flip, out)
    assert made.shape == (n, out, out, 3) and made.dtype == torch.float32
    across, down = made[:, out // 2, :, 0], made[:, :, out // 2, 1]
    inner = slice(2, out - 2)  # at the border of the image the ramp is clamped
    steps = torch.arange(out, dtype=torch.float32)[inner]
    steps = steps - steps.mean()
    width = (across[:, inner] * steps).sum(1) / steps.square().sum() * out
    height = (down[:, inner] * steps).sum(1) / steps.square().sum() * out
    left = across[:, inner].mean(1) + 0.5 - width.abs() / 2
    top = down[:, inner].mean(1) + 0.5 - height / 2
    return left, top, width, height


def test_resized_crops_show_boxes_of_the_documented_sizes() -> None:
    left, top, width, height = boxes(4000, flip=True)
    assert (width < 0).float().mean() == pytest.approx(0.5, abs=0.03)
    width = width.abs()
    inside = (left > -0.6) & (top > -0.6) & (left + width < 64.6) & (top + height < 64.6)
    assert inside.all()
    area, aspect = width * height / 64**2, width / height
    assert area.min() > 0.07 and area.max() <= 1.01
    assert aspect.min() > 0.70 and aspect.max() < 1.43  # 3/4 … 4/3 and rounding to whole pixels
    assert area.mean() == pytest.approx(0.54, abs=0.02)  # uniform from 0.08 to 1, cut where a side would not fit
    assert aspect.log().mean() == pytest.approx(0.0, abs=0.02)
    assert aspect.log().std() == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), rel=0.1)
    assert area.quantile(torch.tensor([0.25, 0.75])).tolist() == pytest.approx([0.31, 0.77], abs=0.03)
    small = (width < 40) & (height < 40)
    assert left[small].mean() == pytest.approx(float((64 - width[small]).mean() / 2), abs=0.5)  # anywhere, evenly


def test_resized_crops_at_the_stored_size_pad_and_stay_in_range() -> None:
    images = random_images(50)
    made = make_augment("resized_crop", flip=True)(images, seeded())
    assert made.shape == images.shape and made.min() >= 0 and made.max() <= 255
    bright = torch.full((300, 16, 16, 3), 200, dtype=torch.uint8)
    made = make_augment("resized_crop", flip=True)(bright, seeded())
    assert (made == 0).any() and made.max() == pytest.approx(200, abs=1e-3)  # the black frame can be seen
    cropped = make_augment("resized_crop", flip=True, crop_size=12)(bright, seeded())
    assert cropped.shape == (300, 12, 12, 3) and torch.allclose(cropped, torch.tensor(200.0))  # no frame


def test_a_box_of_the_whole_image_is_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([torch.ones(4), torch.full((4,), 0.5), torch.zeros(4), torch.zeros(4), torch.ones(4)])
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: next(draws))
    images = random_images(4)
    made = random_resized_crop(images, seeded(), True, 12)
    assert torch.allclose(made, images.float(), atol=1e-2)


@pytest.mark.parametrize("name", ["crop", "resized_crop", "crop_jitter"])
def test_images_stored_larger_are_cropped_to_size(name: str) -> None:
    images = random_images(3, 256, 256)
    assert make_augment(name, True, crop_size=224)(images, seeded()).shape == (3, 224, 224, 3)


def test_centre_crop_of_224_in_256() -> None:
    images = random_images(2, 256, 256)
    expected = v2.CenterCrop(224)(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert torch.equal(centre_crop(images, 224), expected) and torch.equal(expected, images[:, 16:240, 16:240])
    assert centre_crop(images, None) is images
    assert torch.equal(make_augment("none", True, 224)(images, seeded()), expected)


# --- brightness ----------------------------------------------------------------------------------------------------


def test_brightness_changes_by_63_of_255_at_most_and_clips() -> None:
    grey = torch.full((2000, 2, 2, 3), 100, dtype=torch.uint8)
    factors = jitter_brightness(grey, seeded())[:, 0, 0, 0] / 100
    bound = 63 / 255
    assert 1 - bound - 1e-6 <= factors.min() < 1 - 0.98 * bound and 1 + 0.98 * bound < factors.max() <= 1 + bound + 1e-6
    assert factors.mean() == pytest.approx(1.0, abs=0.01)
    image = jitter_brightness(random_images(50), seeded())
    ratio = image / random_images(50)
    unclipped = image < 255
    assert all(ratio[i][unclipped[i]].std() < 1e-5 for i in range(50))  # one factor for a whole image
    assert jitter_brightness(torch.full((100, 1, 1, 3), 250, dtype=torch.uint8), seeded()).max() == 255


def test_an_unknown_augmentation_is_named() -> None:
    with pytest.raises(ValueError, match=r'"cutout" is unknown. Valid choices: crop, resized_crop, crop_jitter, none'):
        make_augment("cutout", True)


# --- batches -------------------------------------------------------------------------------------------------------


def test_evaluation_batches_are_normalised_in_order_and_whole() -> None:
    stream, arrays = small_stream()
    loader = ArrayLoader(stream.images, arrays, "crop")
    for name, store in (("train_stream", arrays.train_images), ("test_stream", arrays.test_images)):
        experience = getattr(stream, name)[1]
        rows = attribute_array(experience.dataset.sample_index)
        rows = rows - len(arrays.train_images) * (name == "test_stream")
        normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(MEAN), list(STD))])
        expected = normalise(torch.from_numpy(store[rows]).permute(0, 3, 1, 2))
        batches = list(loader(experience.dataset, 4, train=False))
        x = torch.cat([batch[0] for batch in batches])
        assert torch.allclose(x, expected, atol=1e-6) and x.dtype == torch.float32
        assert torch.cat([batch[1] for batch in batches]).tolist() == list(experience.dataset.targets)
        assert all((batch[2] == 0).all() and len(batch[2]) == len(batch[0]) for batch in batches)
        assert all(batch[0].is_contiguous(memory_format=torch.channels_last) for batch in batches)
        again = torch.cat([batch[0] for batch in loader(experience.dataset, 7, train=False)])
        assert torch.equal(again, x)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_training_batches_repeat_under_a_seed_and_epochs_differ(name: str) -> None:
    stream, arrays = small_stream()
    loader = ArrayLoader(stream.images, arrays, name)
    dataset = stream.train_stream[0].dataset

    def epochs(seed: int) -> list[tuple[Tensor, list[int]]]:
        batches = loader(dataset, 5, train=True, generator=seeded(seed))
        made = [list(batches) for _ in range(3)]
        return [(torch.cat([b[0] for b in epoch]), torch.cat([b[1] for b in epoch]).tolist()) for epoch in made]

    first, again, other = epochs(0), epochs(0), epochs(1)
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0][0], first[1][0]) and first[0][1] != first[1][1]
    assert all(sorted(labels) == sorted(dataset.targets) for _, labels in first)  # every image once


def test_augmentation_draws_from_its_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    stream, arrays = small_stream()
    for name in AUGMENTATIONS:
        list(ArrayLoader(stream.images, arrays, name)(stream.train_stream[0].dataset, 5, True, seeded()))
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("images", "size", "sizes"),
    [
        (22, 10, [10, 10, 2]),
        (22, 7, [7, 7, 8]),
        (22, 21, [22]),
        (22, 22, [22]),
        (22, 50, [22]),
        (1, 8, [1]),
        (2, 1, [2]),
    ],
)
def test_a_last_batch_of_one_image_joins_the_one_before(images: int, size: int, sizes: list[int]) -> None:
    stream, arrays = small_stream()
    dataset = stream.train_stream[0].dataset.subset(list(range(images)))
    batches = ArrayLoader(stream.images, arrays, "none")(dataset, size, train=True, generator=seeded())
    assert [len(batch[0]) for batch in batches] == sizes
    assert len(batches) == len(sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "size", "sizes"),
    [
        (579, 64, [64] * 8 + [34, 33]),  # in place of nine of 64 and one of 3
        (130, 64, [64, 33, 33]),
        (128, 64, [64, 64]),
        (65, 64, [33, 32]),
        (5, 64, [5]),
        (3, 2, [3]),  # half a batch would be one image
        (0, 64, []),
    ],
)
def test_the_last_two_batches_may_share_their_images(images: int, size: int, sizes: list[int]) -> None:
    assert batch_sizes(images, size, "even") == sizes
    assert len(sizes) == len(batch_sizes(images, size, "keep")) + (images == 65)  # as many steps; there one is merged


@pytest.mark.parametrize("n", range(1, 40))
def test_even_batches_hold_every_image_and_none_is_small(n: int) -> None:
    for size in range(2, 12):
        sizes = batch_sizes(n, size, "even")
        assert sum(sizes) == n
        assert len(sizes) == 1 or (min(sizes) >= max(size / 2, 2) and max(sizes) <= max(size, 3))


def test_even_batches_have_the_images_of_full_ones_in_the_same_order() -> None:
    """For training, by a sampler too; evaluation has full ones."""
    stream, arrays = small_stream()
    dataset = stream.train_stream[0].dataset.subset(list(range(22)))
    keep = ArrayLoader(stream.images, arrays, "none")
    even = ArrayLoader(stream.images, arrays, "none", last_batch="even")
    wanted, found = (list(loader(dataset, 10, True, seeded())) for loader in (keep, even))
    assert [len(x) for x, *_ in found] == [10, 6, 6]
    assert torch.equal(torch.cat([x for x, *_ in found]), torch.cat([x for x, *_ in wanted]))
    assert [len(x) for x, *_ in even(dataset, 10, False)] == [10, 10, 2]
    assert [len(x) for x, *_ in even(dataset, 10, True, seeded(), sampler=list(range(22)))] == [10, 6, 6]


def test_a_sampler_says_which_images_and_in_which_order() -> None:
    stream, arrays = small_stream()
    dataset, loader = stream.train_stream[0].dataset, ArrayLoader(stream.images, arrays, "none")
    plain = torch.cat([batch[0] for batch in loader(dataset, 50, train=False)])
    wanted = [3, 3, 20, 0, 7]
    batches = loader(dataset, 3, train=True, generator=seeded(), sampler=wanted)
    assert torch.equal(torch.cat([batch[0] for batch in batches]), plain[wanted])
    assert len(batches) == len(list(batches)) == 2  # type: ignore[arg-type]


def test_no_images_are_no_batches() -> None:
    stream, arrays = small_stream()
    empty = stream.train_stream[0].dataset.subset([])
    assert list(ArrayLoader(stream.images, arrays, "crop")(empty, 5, train=True, generator=seeded())) == []


def test_joined_datasets_keep_their_images() -> None:
    stream, arrays = small_stream()
    first, second = (experience.dataset for experience in stream.train_stream)
    joined = first.subset([4, 1]).concat(second.subset([0, 9, 2]))
    loader = ArrayLoader(stream.images, arrays, "none")
    (batch,) = loader(joined, 50, train=False)
    parts = [next(iter(loader(data, 50, train=False)))[0] for data in (first, second)]
    assert torch.equal(batch[0], torch.cat([parts[0][[4, 1]], parts[1][[0, 9, 2]]]))


@pytest.mark.parametrize("test_first", [True, False])
def test_training_and_test_images_do_not_mix(test_first: bool) -> None:
    stream, arrays = small_stream()
    parts = [stream.train_stream[0].dataset, stream.test_stream[0].dataset][:: -1 if test_first else 1]
    with pytest.raises(ValueError, match="joins training and test images"):
        ArrayLoader(stream.images, arrays, "none")(parts[0].concat(parts[1]), 5, train=False)


def test_a_memory_map_gives_the_batches_of_memory(tmp_path: Path) -> None:
    stream, arrays = small_stream()
    mapped = {}
    for part in ("train_images", "test_images"):
        np.save(tmp_path / f"{part}.npy", getattr(arrays, part))
        mapped[part] = np.load(tmp_path / f"{part}.npy", mmap_mode="r")
    from_disk = ImageArrays(**{**vars(arrays), **mapped})
    stream_from_disk = long_tailed_benchmark(from_disk, tasks=2, profile="natural", order=[3, 1, 0, 2])
    for name, train in (("train_stream", True), ("test_stream", False)):
        ours = ArrayLoader(stream.images, arrays, "crop")(getattr(stream, name)[0].dataset, 5, train, seeded())
        theirs = ArrayLoader(stream_from_disk.images, from_disk, "crop")(
            getattr(stream_from_disk, name)[0].dataset, 5, train, seeded()
        )
        for (x, y, _), (x_mapped, y_mapped, _) in zip(ours, theirs, strict=True):
            assert torch.equal(x, x_mapped) and torch.equal(y, y_mapped)


def test_batches_leave_the_images_alone() -> None:
    stream, arrays = small_stream()
    before = arrays.train_images.copy()
    for x, *_ in ArrayLoader(stream.images, arrays, "none")(stream.train_stream[0].dataset, 5, True, seeded()):
        x.zero_()
    assert np.array_equal(arrays.train_images, before)


# --- any Avalanche dataset -------------------------------------------------------------------------------------------


def plus_hundred(x: Tensor) -> Tensor:
    return x + 100


def foreign() -> Any:
    def data(n: int) -> TensorDataset:
        made = TensorDataset(torch.arange(float(n)).reshape(n, 1), torch.arange(n) % 4)
        made.targets = made.tensors[1].tolist()  # type: ignore[attr-defined]
        return made

    return nc_benchmark(
        data(20), data(8), 2, task_labels=False, fixed_class_order=[2, 0, 3, 1], train_transform=plus_hundred
    )


@pytest.mark.parametrize("with_images", [False, True])
def test_a_dataset_without_rows_goes_through_its_own_transforms(with_images: bool) -> None:
    stream, arrays = small_stream()
    loader = ArrayLoader(stream.images, arrays, "crop") if with_images else ArrayLoader(None, None, "crop")
    dataset = foreign().train_stream[0].dataset

    def values(train: bool, seed: int = 0, **sampler: Any) -> list[int]:
        batches = list(loader(dataset, 4, train, seeded(seed), **sampler))
        assert all(len(batch) >= 2 and batch[1].dtype == torch.int64 for batch in batches)
        return [int(value) for batch in batches for value in batch[0]]

    rows = values(train=False)
    assert rows == [int(x) for x, *_ in dataset.eval()] and max(rows) < 20
    assert [v - 100 for v in sorted(values(train=True))] == sorted(rows)
    assert values(True, seed=1) == values(True, seed=1) != values(True, seed=2)
    assert values(False, sampler=[5, 0, 0]) == [rows[5], rows[0], rows[0]]
    assert values(True, sampler=[5, 0, 0]) == [rows[5] + 100, rows[0] + 100, rows[0] + 100]


def test_a_stream_of_torch_datasets_has_no_rows() -> None:
    made = TensorDataset(torch.randn(12, 3, 4, 4), torch.arange(12) % 3)
    made.targets = made.tensors[1].tolist()  # type: ignore[attr-defined]
    stream = long_tailed_benchmark((made, made), tasks=3, profile="natural")
    loader = ArrayLoader(stream.images, None, "crop")
    batches = list(loader(stream.train_stream[0].dataset, 3, True, seeded()))
    assert sum(len(batch[0]) for batch in batches) == 4


# --- large and resident images ----------------------------------------------------------------------------------------


def large_stream() -> tuple[Any, ImageArrays]:
    """Images of 160x160, large enough to be read ahead."""
    train, test = random_images(12, 160, 160, seed=1).numpy(), random_images(4, 160, 160, seed=2).numpy()
    arrays = arrays_of(train, np.repeat(np.arange(4), 3), test, np.arange(4), crop_size=128)
    return long_tailed_benchmark(arrays, tasks=2, profile="natural", order="ordered"), arrays


def batches_of(loader: ArrayLoader, benchmark: Any) -> list[list[Tensor]]:
    return list(loader(benchmark.train_stream[0].dataset, 2, train=True, generator=seeded(3)))


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("imcil-read")]


def test_images_read_ahead_are_those_read_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark, arrays = large_stream()
    ahead = batches_of(ArrayLoader(benchmark.images, arrays, "crop"), benchmark)
    monkeypatch.setattr("benchmark.loading.loader.LARGE", 10**9)
    in_turn = batches_of(ArrayLoader(benchmark.images, arrays, "crop"), benchmark)
    assert len(ahead) == 3 and ahead[0][0].shape == (2, 3, 128, 128)
    for a, b in zip(ahead, in_turn, strict=True):
        assert all(x.equal(y) for x, y in zip(a, b, strict=True))


def test_resident_images_make_the_same_batches() -> None:
    """What an accelerator holds, here as tensors on the CPU."""
    benchmark, arrays = small_stream()
    plain, held = (ArrayLoader(benchmark.images, arrays, "crop") for _ in range(2))
    held.train, held.test = torch.from_numpy(arrays.train_images), torch.from_numpy(arrays.test_images)
    for train in (True, False):
        for experience in benchmark.train_stream if train else benchmark.test_stream:
            found = [list(make(experience.dataset, 4, train=train, generator=seeded(3))) for make in (plain, held)]
            for a, b in zip(*found, strict=True):
                assert all(x.equal(y) for x, y in zip(a, b, strict=True))


def test_only_what_fits_is_made_resident() -> None:
    small = random_images(3).numpy()
    large = np.broadcast_to(small[:1], (10**7, 12, 12, 3))  # 4 GB, were it stored
    assert resident(small, torch.device("cpu")) is small
    assert isinstance(resident(small, torch.device("meta")), Tensor)
    assert resident(large, torch.device("meta")) is large


def test_reading_ahead_stays_a_little_ahead_and_in_order() -> None:
    begun: list[int] = []

    def read(item: int) -> int:
        begun.append(item)
        return item * item

    items = read_ahead(read, range(50), ahead=3)
    assert [next(items) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert max(begun) <= 8
    items.close()  # training ended in the middle
    assert not reading_threads() and max(begun) <= 8


def test_an_error_of_reading_comes_where_its_batch_would_have_come() -> None:
    def read(item: int) -> int:
        if item == 2:
            raise OSError("the disk is gone")
        return item

    items = read_ahead(read, range(9))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    assert not reading_threads()
