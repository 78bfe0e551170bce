"""Multi-label data: glyph scenes, streams with missing labels, batches of annotations."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from benchmark.config.schema import validated
from benchmark.datasets import ImageArrays, load
from benchmark.datasets.glyphs.scenes import class_groups, draw_labels, label_counts
from benchmark.errors import UserError
from benchmark.loading.loader import ArrayLoader
from benchmark.results.labels import label_rows
from benchmark.results.summary import summarise_runs
from benchmark.storage.records import RunRecord
from benchmark.streams import LongTailedBenchmark, StreamInfo, class_split, long_tailed_benchmark, stream_table
from strategies.training.features import extract_features
from strategies.training.labels import class_positions, targets_array
from strategies.training.memory import ExemplarMemoryPlugin, concatenate, herding_order
from strategies.training.seen_classes import SeenClasses

SIZES = (4, 4, 4)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> ImageArrays:
    return small(tmp_path_factory.mktemp("cache"))


def small(cache: Path, **options: float) -> ImageArrays:
    size = {"train_images": 300, "test_images": 100, "resolution": 16}
    return load("glyph_scenes", cache_dir=cache, **{**size, **options})  # type: ignore[arg-type]


def stream(arrays: ImageArrays, **settings: object) -> LongTailedBenchmark:
    return long_tailed_benchmark(arrays, **{"protocol": "B0-C4", "profile": "natural", "order": "shuffled", **settings})


def rows(dataset: object) -> list[int]:
    return list(dataset.sample_index)  # type: ignore[attr-defined]


# --- glyph_scenes -----------------------------------------------------------------------------------------------------


def test_scenes_show_one_to_five_classes(scenes: ImageArrays) -> None:
    assert scenes.task_kind == "multi" and scenes.num_classes == 12
    assert scenes.train_images.shape == (300, 16, 16, 3) and scenes.train_images.dtype == np.uint8
    assert scenes.train_labels.dtype == np.uint8 and scenes.train_labels.shape == (300, 12)
    for labels in (scenes.train_labels, scenes.test_labels):
        shown = labels.sum(axis=1)
        assert shown.min() == 1 and shown.max() == 5 and len(np.unique(shown)) == 5


def test_training_labels_are_long_tailed_and_test_labels_are_not(tmp_path: Path) -> None:
    arrays = small(tmp_path, rho=50)
    counts = arrays.train_labels.sum(axis=0)
    assert counts.tolist() == label_counts(12, 300, 50).tolist()
    assert counts[0] / counts[-1] == pytest.approx(50, rel=0.2) and (np.diff(counts.astype(int)) < 0).all()
    assert len(set(arrays.test_labels.sum(axis=0))) == 1


def test_classes_of_a_group_come_together() -> None:
    labels = draw_labels(label_counts(24, 4000, 10), 4000, np.random.default_rng(0)).astype(int)
    share = labels.mean(axis=0)
    lift = labels.T @ labels / len(labels) / np.outer(share, share)
    same = class_groups(24)[:, None] == class_groups(24)[None]
    other = ~same
    np.fill_diagonal(same, False)
    assert lift[same].mean() > 2 > 1 > lift[other].mean()


def test_scenes_are_decided_by_their_seed(tmp_path: Path) -> None:
    first, again, other = (small(tmp_path / name, seed=seed) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert np.array_equal(first.train_images, again.train_images)
    assert np.array_equal(first.test_labels, again.test_labels)
    assert not np.array_equal(first.train_labels, other.train_labels)


def test_an_image_differs_where_its_glyphs_differ(scenes: ImageArrays) -> None:
    """Ink is darker than ground: more glyphs, more dark pixels."""
    dark = (scenes.train_images.astype(float).mean(axis=3) < 0.75 * np.median(scenes.train_images, axis=(1, 2)).mean(
        axis=1)[:, None, None]).mean(axis=(1, 2))  # fmt: skip
    shown = scenes.train_labels.sum(axis=1)
    assert np.corrcoef(dark, shown)[0, 1] > 0.5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"classes": 11}, "12 to 80 classes, not 11"),
        ({"resolution": 8}, "between 16 and 512, not 8"),
        ({"train_images": 20}, "train_images 20 and rho 20"),
        ({"rho": 0.5}, "rho must be a number from 1, not 0.5"),
        ({"train_per_class": 5}, "does not take the option train_per_class"),
    ],
)
def test_impossible_scenes_are_refused(tmp_path: Path, options: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        small(tmp_path, **options)


# --- protocols --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "protocol", "sizes"),
    [
        (20, "B0-C4", [4] * 5),
        (20, "B10-C2", [10] + [2] * 5),
        (20, "B5-C3", [5] + [3] * 5),
        (20, "b4-c2", [4] + [2] * 8),
        (80, "B0-C10", [10] * 8),
        (80, "B40-C10", [40] + [10] * 4),
        (4, "B4-C2", [4]),
    ],
)
def test_base_and_increments(classes: int, protocol: str, sizes: list[int]) -> None:
    assert class_split(classes, protocol, tasks=10) == sizes


@pytest.mark.parametrize("protocol", ["B0-C3", "B30-C2", "B10-C0"])
def test_increments_must_come_out_even(protocol: str) -> None:
    with pytest.raises(UserError, match=f"20 classes do not fit protocol {protocol}"):
        class_split(20, protocol, tasks=10)


def test_a_run_is_not_named_by_tasks_that_play_no_part() -> None:
    run = validated({"dataset": {"name": "glyph_scenes"}, "stream": {"protocol": "B0-C4"}})
    assert run.run_name.startswith("glyph_scenes-B0-C4-replay-s0-")
    record = RunRecord(run.run_name, Path(), "pending", run.model_dump(mode="json"), {}, {}, None, {})
    summary, _ = summarise_runs([record])
    assert summary["tasks"].isna().all() and "B0-C4" in set(label_rows(summary)["setting"])


# --- streams ----------------------------------------------------------------------------------------------------------


def test_overlapping_experiences_hold_every_image_with_one_of_their_labels(scenes: ImageArrays) -> None:
    made = stream(scenes)
    truth = scenes.train_labels[:, made.info.class_order]
    for t, (experience, columns) in enumerate(zip(made.train_stream, made.info.columns(), strict=True)):
        index = rows(experience.dataset)
        annotations = targets_array(experience.dataset)
        assert index == np.flatnonzero(truth[:, columns].any(axis=1)).tolist()
        assert np.array_equal(annotations[:, columns], truth[index][:, columns])
        hidden = np.delete(annotations, columns, axis=1)
        assert (hidden == -1).all() and annotations.shape == (len(index), 12)
        assert experience.classes_in_this_experience == list(columns)
        assert experience.class_counts == {c: made.info.train_counts[c] for c in columns}
        assert made.info.train_images[t] == len(index)  # type: ignore[index]
    assert sum(made.info.train_images) > 300  # type: ignore[arg-type]
    assert made.info.train_counts == tuple(truth.sum(axis=0))


def test_disjoint_experiences_share_no_image(scenes: ImageArrays) -> None:
    made = stream(scenes, assignment="disjoint")
    truth = scenes.train_labels[:, made.info.class_order]
    found = [row for experience in made.train_stream for row in rows(experience.dataset)]
    assert sorted(found) == list(range(300))
    for experience, columns in zip(made.train_stream, made.info.columns(), strict=True):
        annotations = targets_array(experience.dataset)
        assert (annotations[:, columns] == 1).any(axis=1).all()
        assert np.array_equal(annotations[:, columns], truth[rows(experience.dataset)][:, columns])
    assert made.info.sha256 != stream(scenes).info.sha256
    assert made.info.sha256 != stream(scenes, assignment="disjoint", subset_seed=1).info.sha256


def test_tests_of_the_seen_classes_come_complete_and_once(scenes: ImageArrays) -> None:
    made = stream(scenes)
    truth = scenes.test_labels[:, made.info.class_order]
    for t in range(3):
        seen = concatenate([experience.dataset for experience in made.test_stream[: t + 1]])
        index = np.array(rows(seen)) - 300
        assert sorted(index) == np.flatnonzero(truth[:, : sum(SIZES[: t + 1])].any(axis=1)).tolist()
        assert np.array_equal(targets_array(seen), truth[index])


@pytest.mark.parametrize("assignment", ["overlapping", "disjoint"])
def test_held_out_images_are_in_no_training_experience(scenes: ImageArrays, assignment: str) -> None:
    made = stream(scenes, holdout=0.2, assignment=assignment)
    truth = scenes.train_labels[:, made.info.class_order]
    trained = {row for experience in made.train_stream for row in rows(experience.dataset)}
    held = [row for experience in made.valid_stream for row in rows(experience.dataset)]
    assert not trained & set(held) and trained | set(held) == set(range(300))
    assert len(held) == len(set(held)) == pytest.approx(60, abs=6)
    joined = concatenate([experience.dataset for experience in made.valid_stream])
    assert np.array_equal(targets_array(joined), truth[held])
    assert made.info.valid_counts == tuple(truth[held].sum(axis=0))
    assert made.info.profile_counts == stream(scenes, assignment=assignment).info.profile_counts
    pairs = zip(made.info.train_counts, made.info.profile_counts, strict=True)
    assert all(0 < count <= whole for count, whole in pairs)


def test_an_experience_without_test_images_of_its_own_is_empty() -> None:
    """Every test image shows class 0 as well, which comes first."""
    labels = np.eye(3, dtype=np.uint8)
    tests = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=np.uint8)
    images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    arrays = ImageArrays("tiny", images, labels, images, tests, ("a", "b", "c"), (0.5,) * 3, (1.0,) * 3, flip=False)
    made = stream(arrays, protocol="B0-C1", order="ordered")
    assert [len(experience.dataset) for experience in made.test_stream] == [3, 0, 0]
    assert targets_array(concatenate([e.dataset for e in made.test_stream])).tolist() == tests.tolist()
    assert made.test_stream[1].class_counts == {1: 0}


def test_kept_classes_leave_out_images_of_others(scenes: ImageArrays) -> None:
    made = stream(scenes, classes=[8, 9, 10, 11])
    assert len(made.train_stream) == 1
    assert rows(made.train_stream[0].dataset) == np.flatnonzero(scenes.train_labels[:, 8:].any(axis=1)).tolist()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"profile": "exponential"}, "profile must be natural for glyph_scenes"),
        ({"max_count": 5}, "max_count, compat and generator cannot be set"),
        ({"assignment": "joint"}, 'assignment cannot be "joint"'),
        ({"protocol": "B0-C5"}, "12 classes do not fit protocol B0-C5"),
        ({"holdout": 1.5}, "holdout"),
    ],
)
def test_settings_that_do_not_fit_are_named(scenes: ImageArrays, settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        stream(scenes, **settings)


def test_a_class_without_images_is_named() -> None:
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    labels = np.array([[1, 0], [1, 0], [1, 0], [1, 0]], dtype=np.uint8)
    arrays = ImageArrays("tiny", images, labels, images, labels, ("a", "b"), (0.5,) * 3, (1.0,) * 3, flip=False)
    with pytest.raises(UserError, match=r"Class 1 \(b\) of tiny has no training image in its experience"):
        stream(arrays, protocol="B0-C1")


def test_assignment_is_for_multi_label_images() -> None:
    with pytest.raises(UserError, match="assignment is for multi-label images; those of digits have one label each"):
        long_tailed_benchmark(load("digits"), tasks=5, rho=2, max_count=100, assignment="disjoint")


def test_the_information_survives_its_file(scenes: ImageArrays) -> None:
    info = stream(scenes, holdout=0.1).info
    assert StreamInfo.from_json(info.to_json()) == info
    single = long_tailed_benchmark(load("digits"), tasks=5, rho=2, max_count=100).info
    assert "train_images" not in single.to_json() and StreamInfo.from_json(single.to_json()) == single


def test_the_table_counts_images_and_positives(scenes: ImageArrays) -> None:
    info = stream(scenes).info
    table = stream_table(info)
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["images"] == [str(images) for images in info.train_images or ()]
    assert columns["positives"] == [str(sum(info.train_counts[4 * t : 4 * t + 4])) for t in range(3)]


# --- batches ----------------------------------------------------------------------------------------------------------


def test_batches_carry_annotations_of_the_classes_so_far(scenes: ImageArrays) -> None:
    made = stream(scenes)
    joined = made.train_stream[0].dataset.subset([5, 2]).concat(made.train_stream[1].dataset)
    loader = ArrayLoader(made.images, scenes, "none")
    [(x, y, t)] = list(loader(joined, 1000, train=False))
    assert x.shape == (len(joined), 3, 16, 16) and t.tolist() == [0] * len(joined)
    assert y.dtype == torch.int8 and y.shape == (len(joined), 8)
    assert torch.equal(y, torch.from_numpy(targets_array(joined)[:, :8]))
    assert (y[:2, 4:] == -1).all() and (y[2:, :4] == -1).all()


def test_a_plain_loader_gives_the_same_annotations(scenes: ImageArrays) -> None:
    dataset = stream(scenes).train_stream[1].dataset
    x, y, t = next(iter(DataLoader(dataset.eval(), batch_size=1000)))
    assert x.shape == (len(dataset), 3, 16, 16) and x.dtype == torch.float32 and not t.any()
    assert torch.equal(y, torch.from_numpy(targets_array(dataset)))


def test_positions_are_those_of_positives(scenes: ImageArrays) -> None:
    dataset = stream(scenes).train_stream[1].dataset
    annotations = targets_array(dataset)
    positions = class_positions(dataset)
    assert list(positions) == [4, 5, 6, 7]
    assert all(np.array_equal(found, np.flatnonzero(annotations[:, c] == 1)) for c, found in positions.items())


def test_annotations_of_a_batch_in_order_of_arrival() -> None:
    seen = SeenClasses()
    seen.load_state_dict({"class_ids": [3, 0, 1], "num_old": 1, "experience": 1})
    narrow = torch.tensor([[1, 0]], dtype=torch.int8)
    wide = torch.tensor([[1, 0, 1, -1, 1]], dtype=torch.int8)
    assert seen.targets(narrow).tolist() == [[-1, 1, 0]]
    assert seen.targets(wide).tolist() == [[-1, 1, 0]]


# --- memory -----------------------------------------------------------------------------------------------------------


def remember(made: LongTailedBenchmark, experiences: int, **policy: object) -> ExemplarMemoryPlugin:
    """A memory that saw the first experiences; random selection needs no network."""
    memory = ExemplarMemoryPlugin(**{"budget": 5, "selection": "random", **policy})  # type: ignore[arg-type]
    for t in range(experiences):
        memory.update(None, made.train_stream[t].dataset)
    return memory


@pytest.mark.parametrize("assignment", ["overlapping", "disjoint"])
def test_every_class_keeps_its_budget_of_positives(scenes: ImageArrays, assignment: str) -> None:
    made = stream(scenes, assignment=assignment)
    memory = remember(made, 3)
    assert memory.held() == {c: min(5, made.info.train_counts[c]) for c in range(12)}
    annotations = memory.annotations().numpy()
    place = {row: i for i, row in enumerate(memory.rows())}
    for label, kept in memory.positions.items():
        assert (annotations[[place[row] for row in kept], label] == 1).all()


def test_an_image_is_held_once(scenes: ImageArrays) -> None:
    """A budget above every count keeps all images; those of several experiences are one row that knows all of them."""
    made = stream(scenes)
    memory = remember(made, 3, budget=1000)
    dataset = memory.dataset()
    assert dataset is not None and sorted(rows(dataset)) == list(range(300))
    truth = scenes.train_labels[:, made.info.class_order][rows(dataset)]
    annotations = memory.annotations().numpy()
    assert np.array_equal(annotations, targets_array(dataset)) and len(memory.rows()) == 300
    for begin in range(0, 12, 4):  # annotated in the experiences that brought the image, and only there
        block, true = annotations[:, begin : begin + 4], truth[:, begin : begin + 4]
        came = true.any(axis=1)
        assert np.array_equal(block[came], true[came]) and (block[~came] == -1).all()


def test_an_image_that_merely_comes_again_tells_the_memory_nothing(scenes: ImageArrays) -> None:
    made = stream(scenes)
    memory = remember(made, 1)
    before = memory.annotations()
    assert (before[:, 4:] == -1).all()
    memory.update(None, made.train_stream[1].dataset)
    chosen = {row for label in range(4, 8) for row in memory.positions[label]}
    after = memory.annotations()
    old = [i for i, row in enumerate(memory.rows()) if row[0] == 0]
    again = [i for i in old if memory.rows()[i] in chosen]
    assert torch.equal(after[old][:, :4], before[:, :4])
    assert (np.delete(after.numpy(), again, axis=0)[: len(old) - len(again), 4:] == -1).all()


def test_written_annotations_reach_every_batch(scenes: ImageArrays) -> None:
    made = stream(scenes)
    memory = remember(made, 2)
    written = memory.annotations().clamp(min=0)
    memory.set_annotations(written)
    assert torch.equal(memory.annotations(), written)
    strategy = SimpleNamespace(adapted_dataset=made.train_stream[2].dataset)
    memory.after_train_dataset_adaptation(strategy)
    joined = strategy.adapted_dataset
    assert len(joined) == len(made.train_stream[2].dataset) + len(written)
    loader = ArrayLoader(made.images, scenes, "none")
    mine = torch.cat([y for _, y, _ in loader(joined, 64, train=False)])
    stock = torch.cat([batch[1] for batch in DataLoader(joined.train(), batch_size=64)])
    assert torch.equal(mine, stock) and torch.equal(mine[-len(written) :], written)
    assert torch.equal(torch.from_numpy(targets_array(joined.subset([len(joined) - 1]))), written[-1:])
    assert (targets_array(made.train_stream[0].dataset) == -1).any(), "the experience itself is left alone"


def test_annotations_of_another_shape_are_refused(scenes: ImageArrays) -> None:
    memory = remember(stream(scenes), 1)
    with pytest.raises(ValueError, match=r"annotations must be \(\d+, 12\), got \(2, 12\)"):
        memory.set_annotations(torch.zeros(2, 12))


def test_a_total_budget_shrinks_and_forgets_what_was_written(scenes: ImageArrays) -> None:
    made = stream(scenes)
    memory = remember(made, 1, budget=24, mode="total")
    assert set(memory.held().values()) == {6}
    memory.set_annotations(memory.annotations().clamp(min=0))
    memory.update(None, made.train_stream[1].dataset)
    assert set(memory.held().values()) == {3}
    assert set(memory.rewritten) <= set(memory.rows())


def test_the_memory_survives_a_checkpoint(scenes: ImageArrays) -> None:
    made = stream(scenes)
    memory = remember(made, 2)
    memory.set_annotations(memory.annotations().clamp(min=0))
    buffer = io.BytesIO()
    torch.save(memory.state_dict(), buffer)
    buffer.seek(0)
    resumed = ExemplarMemoryPlugin(5, selection="random")
    resumed.restore(list(made.train_stream)[:2])
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert resumed.rows() == memory.rows()
    assert torch.equal(resumed.annotations(), memory.annotations())
    for one in (memory, resumed):
        one.update(None, made.train_stream[2].dataset)
    assert torch.equal(resumed.annotations(), memory.annotations())


def test_herding_chooses_among_the_images_that_show_the_class(scenes: ImageArrays) -> None:
    made = stream(scenes)
    strategy = SimpleNamespace(
        model=Pixels(), eval_mb_size=64, device="cpu", loader=ArrayLoader(made.images, scenes, "none")
    )
    dataset = made.train_stream[0].dataset
    memory = ExemplarMemoryPlugin(4)
    memory.update(strategy, dataset)
    features = extract_features(strategy, dataset).features
    for label, positions in class_positions(dataset).items():
        expected = positions[herding_order(features[positions], 4)]
        assert memory.positions[label] == [(0, position) for position in expected]


class Pixels(torch.nn.Module):
    """Features are the pixels themselves."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, :2]
