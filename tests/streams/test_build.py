"""long_tailed_benchmark on our own datasets and on pairs of torch datasets."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from benchmark.errors import UserError
from benchmark.figures.stream_profile import plot_stream
from benchmark.streams import ImageStore, StreamInfo, long_tailed_benchmark, named_order, stream_table
from benchmark.streams.subset import hold_out_lt_cil

LFS = [655, 1203, 1208, 1325, 853, 891, 1322, 1350, 1494, 546]
LFH = [5244, 378, 513, 519, 803, 671, 679, 530, 964, 202, 344]
LFS_ORDERED = [4088, 2565, 1609, 1008, 631, 394, 247, 152, 95, 58]
LFH_ORDERED = [9901, 220, 174, 137, 110, 85, 67, 54, 41, 32, 26]


def arrays(classes=6, train=20, test=4, size=4, seed=0, **changes):
    """A small dataset with ImageArrays' fields, its classes mixed in file order."""
    generator = np.random.default_rng(seed)
    train_labels = generator.permutation(np.repeat(np.arange(classes), train))
    test_labels = generator.permutation(np.repeat(np.arange(classes), test))
    fields = {
        "name": "tiny",
        "train_images": generator.integers(0, 256, (len(train_labels), size, size, 3), dtype=np.uint8),
        "train_labels": train_labels,
        "test_images": generator.integers(0, 256, (len(test_labels), size, size, 3), dtype=np.uint8),
        "test_labels": test_labels,
        "class_names": tuple(f"name{label}" for label in range(classes)),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.25, 0.3),
        "flip": True,
        "crop_size": None,
    }
    return SimpleNamespace(**(fields | changes))


@pytest.fixture(scope="module")
def cifar_like():
    return arrays(classes=100, train=500, test=10, size=2)


def sizes(stream):
    return [len(experience.dataset) for experience in stream]


def index(dataset):
    return list(dataset.sample_index)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, LFS),
        ({"protocol": "lfh"}, LFH),
        ({"order": "ordered"}, LFS_ORDERED),
        ({"order": "ordered", "protocol": "lfh"}, LFH_ORDERED),
        ({"order": "ordered", "ranks": "by_order"}, LFS_ORDERED),
        ({"ranks": "by_order"}, LFS_ORDERED),
        ({"order": "reversed"}, LFS_ORDERED[::-1]),
        ({"protocol": "single"}, [10847]),
    ],
)
def test_sizes_of_cifar100_lt(cifar_like, settings, expected):
    made = long_tailed_benchmark(cifar_like, **settings)
    assert sizes(made.train_stream) == expected
    assert sum(sizes(made.test_stream)) == 1000
    assert sum(made.info.profile_counts) == 10847


def test_counts_of_the_first_arrivals(cifar_like):
    info = long_tailed_benchmark(cifar_like, holdout=0.1).info
    assert info.profile_counts[:10] == (21, 36, 13, 344, 171, 10, 7, 24, 15, 14)
    assert info.class_order == tuple(named_order("order_a", 100))
    assert info.class_names[0] == "name68"
    assert sum(count < 20 for count in info.profile_counts) == 30
    assert sum(count < 20 for count in info.train_counts) == 32  # after the hold-out


def test_building_is_fast(cifar_like):
    began = time.process_time()  # however busy the machine is
    long_tailed_benchmark(cifar_like, profile="conventional")
    assert time.process_time() - began < 2


def test_labels_and_images_follow_the_arrival_order():
    source = arrays()
    made = long_tailed_benchmark(source, tasks=3, rho=4, holdout=0.2)
    info = made.info
    assert isinstance(made.images, ImageStore) and made.images.train is source.train_images
    for stream in (made.train_stream, made.valid_stream, made.test_stream):
        test = stream.name == "test"
        for number, experience in enumerate(stream):
            columns = [2 * number, 2 * number + 1]
            data = experience.dataset
            assert experience.current_experience == number
            assert experience.classes_in_this_experience == columns
            assert experience.classes_seen_so_far == list(range(2 * number + 2))
            assert experience.class_counts == dict(Counter(data.targets))
            assert set(data.targets) == set(columns) and set(data.targets_task_labels) == {0}
            rows = np.array(index(data)) - (len(source.train_images) if test else 0)
            labels = (source.test_labels if test else source.train_labels)[rows]
            assert [info.class_order[target] for target in data.targets] == labels.tolist()
            clean = data.eval()
            for place in (0, len(data) - 1):
                x, y, t = clean[place]
                stored = made.images[index(data)[place]] / 255.0
                expected = (stored - np.array(source.mean)) / np.array(source.std)
                assert torch.allclose(x, torch.tensor(expected).permute(2, 0, 1).float(), atol=1e-5)
                assert (y, t) == (data.targets[place], 0)


def test_train_items_are_augmented_and_test_items_are_not():
    source = arrays(size=12)
    made = long_tailed_benchmark(source, tasks=3, rho=1)
    train, test = made.train_stream[0].dataset, made.test_stream[0].dataset
    assert len({train[0][0].numpy().tobytes() for _ in range(8)}) > 1
    assert len({test[0][0].numpy().tobytes() for _ in range(8)}) == 1
    assert len({train.eval()[0][0].numpy().tobytes() for _ in range(8)}) == 1
    assert train[0][0].shape == (3, 12, 12) and train[0][0].dtype == torch.float32


@pytest.mark.parametrize("flip", [True, False])
def test_flips_happen_only_where_the_dataset_allows_them(flip):
    ramp = np.tile(np.arange(8, dtype=np.uint8)[None, None, :, None] * 20, (12, 8, 1, 3))
    source = arrays(classes=2, train=6, size=8, train_images=ramp, flip=flip)
    item = long_tailed_benchmark(source, tasks=1, rho=1).train_stream[0].dataset
    slopes = {bool((item[0][0][0].max(0).values.diff() < 0).sum() > 2) for _ in range(40)}
    assert slopes == ({True, False} if flip else {False})


def test_a_crop_size_smaller_than_the_stored_images():
    made = long_tailed_benchmark(arrays(size=8, crop_size=6), tasks=3, rho=1)
    assert made.train_stream[0].dataset[0][0].shape == (3, 6, 6)
    assert made.test_stream[0].dataset[0][0].shape == (3, 6, 6)


@pytest.mark.parametrize("generator", ["datasets", "nc"])
def test_sample_index_survives_subsets_and_concatenations(generator):
    made = long_tailed_benchmark(arrays(), tasks=3, rho=4, holdout=0.2, generator=generator)
    for stream in (made.train_stream, made.valid_stream, made.test_stream):
        first, second = stream[0].dataset, stream[1].dataset
        joined = first.concat(second.subset([2, 0]))
        second_index = index(second)
        assert index(joined) == [*index(first), second_index[2], second_index[0]]
        again = joined.subset([len(first), 1]).train().eval()
        assert index(again) == [second_index[2], index(first)[1]]
        assert all(type(value) is int for value in index(again))
        assert list(again.targets) == [second.targets[2], first.targets[1]]


def test_the_nc_generator_gives_the_same_stream(cifar_like):
    ours = long_tailed_benchmark(cifar_like, protocol="lfh", tasks=20)
    theirs = long_tailed_benchmark(cifar_like, protocol="lfh", tasks=20, generator="nc")
    assert theirs.info == ours.info
    for name in ("train", "test"):
        for a, b in zip(ours.streams[name], theirs.streams[name], strict=True):
            assert index(a.dataset) == index(b.dataset)
            assert list(a.dataset.targets) == list(b.dataset.targets)
            assert a.class_counts == b.class_counts
    a, b = ours.test_stream[3].dataset, theirs.test_stream[3].dataset
    assert torch.equal(a[0][0], b[0][0]) and torch.equal(theirs.train_stream[0].dataset.eval()[0][0], b[0][0]) is False


def test_a_random_choice_is_nested_and_independent_of_the_other_classes():
    source = arrays(classes=6, train=40)

    def rows(**settings):
        made = long_tailed_benchmark(source, tasks=2, order="ordered", **settings)
        chosen = {label: set() for label in range(6)}
        for experience in made.train_stream:
            for place, target in enumerate(experience.dataset.targets):
                chosen[made.info.class_order[target]].add(index(experience.dataset)[place])
        return chosen

    small, large = rows(rho=20), rows(rho=2)
    assert all(small[label] <= large[label] and len(small[label]) < len(large[label]) for label in range(1, 6))
    kept = rows(profile=[4, 4, 4], classes=[1, 3, 5])
    few = rows(profile=[4] * 6)
    assert all(kept[label] == few[label] for label in (1, 3, 5))
    assert rows(rho=20, subset_seed=1) != small
    first = rows(profile=[4] * 6, subset="first")
    assert first[2] == set(np.flatnonzero(source.train_labels == 2)[:4].tolist())


def test_the_choice_hash_tells_streams_apart():
    def made(**settings):
        return long_tailed_benchmark(arrays(), tasks=3, rho=4, **settings).info

    base = made()
    assert base == made() and len(base.sha256) == 64
    changes = [{"subset_seed": 1}, {"holdout": 0.1}, {"order": "ordered"}, {"ranks": "by_order"}, {"subset": "first"}]
    assert len({base.sha256, *(made(**change).sha256 for change in changes)}) == 6


def test_seeds_of_order_and_ranks():
    def made(**settings):
        return long_tailed_benchmark(arrays(classes=20), tasks=2, rho=4, **settings).info

    orders = [made(order="shuffled", order_seed=seed).class_order for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    counts = [made(ranks="random", rank_seed=seed).profile_counts for seed in (0, 0, 1)]
    assert counts[0] == counts[1] != counts[2]
    assert sorted(counts[0]) == sorted(counts[2]) == sorted(made().profile_counts)


def test_the_hold_out_moves_each_class_s_own_images():
    settings = {"tasks": 3, "profile": [20, 15, 10, 5, 2, 1], "order": "ordered"}
    made = long_tailed_benchmark(arrays(train=20), holdout=0.25, **settings)
    assert made.info.valid_counts == (5, 4, 2, 1, 0, 0)
    assert made.info.train_counts == (15, 11, 8, 4, 2, 1)
    assert made.info.profile_counts == (20, 15, 10, 5, 2, 1)
    full = long_tailed_benchmark(arrays(train=20), **settings)
    for train, valid, both in zip(made.train_stream, made.valid_stream, full.train_stream, strict=True):
        assert sorted(index(train.dataset) + index(valid.dataset)) == sorted(index(both.dataset))
    assert len(made.valid_stream[2].dataset) == 0
    assert made.valid_stream[2].class_counts == {4: 0, 5: 0}
    assert made.valid_stream[0].dataset[0][0].shape == (3, 4, 4)
    assert not hasattr(full, "valid_stream")
    half = long_tailed_benchmark(arrays(), tasks=3, profile=[1] * 6, holdout=0.9)
    assert half.info.valid_counts == (0,) * 6


def test_compat_draws_as_the_official_code(cifar_like):
    made = long_tailed_benchmark(cifar_like, compat="lt-cil", order="ordered")
    state = np.random.RandomState(0)
    for label in range(100):  # class by class, in label order, from one generator
        rows = np.flatnonzero(cifar_like.train_labels == label)
        state.shuffle(rows)
        data = made.train_stream[label // 10].dataset
        chosen = {row for row, target in zip(index(data), data.targets, strict=True) if target == label}
        assert chosen == set(rows[: made.info.profile_counts[label]].tolist())


def official_split(y, fraction):
    """The official loop on one task's list of labels (arrival order), counts only: which labels leave the list."""
    y, moved = list(y), Counter()
    for label in sorted(set(y)):
        places = [place for place, value in enumerate(y) if value == label]
        count = int(np.round(len(places) * fraction))
        for place in sorted(places[:count] if count else [0], reverse=True):
            moved[y.pop(place)] += 1
    return moved


@pytest.mark.parametrize(("protocol", "tasks"), [("lfs", 10), ("lfs", 20), ("lfh", 10)])
def test_compat_hold_out_counts_on_cifar100_lt(cifar_like, protocol, tasks):
    made = long_tailed_benchmark(cifar_like, protocol=protocol, tasks=tasks, compat="lt-cil", holdout=0.1)
    info = made.info
    for columns in info.columns():
        by_label = sorted(columns, key=lambda column: info.class_order[column])
        moved = official_split([c for c in by_label for _ in range(info.profile_counts[c])], 0.1)
        assert {c: info.valid_counts[c] for c in columns} == {c: moved[c] for c in columns}
    fives = [column for column, count in enumerate(info.profile_counts) if count == 5]
    assert len(fives) == 4
    assert all(a + b == n for a, b, n in zip(info.train_counts, info.valid_counts, info.profile_counts, strict=True))
    fair = [round(0.1 * count) for count in info.profile_counts]
    assert all(info.valid_counts[column] == 0 for column in fives) and info.valid_counts != tuple(fair)


def test_compat_hold_out_takes_item_0_of_the_task_s_list():
    chosen = {3: list(range(30, 55)), 7: [70, 71, 72, 73, 74], 5: [50, 51, 52, 53, 54]}
    train, valid = hold_out_lt_cil(chosen, [7, 3, 5], [3], 0.1)
    assert valid[7] == [] and valid[5] == []  # 0.5 rounds to 0: not their own images
    assert valid[3][0] == 30  # class 7 comes first and takes the first image of the smallest label
    assert len(valid[3]) == 1 + 2 + 1  # then 2 of the 24 left, and item 0 once more for class 5
    assert sorted(train[3] + valid[3]) == chosen[3] and train[7] == chosen[7] and train[5] == chosen[5]
    apart, held = hold_out_lt_cil(chosen, [7, 3, 5], [1, 2], 0.1)
    assert held[7] == [70] and apart[7] == [71, 72, 73, 74]  # alone in its task, item 0 is its own
    assert len(held[3]) == 2 + 1  # 25 * 0.1 = 2.5 rounds half to even


def test_compat_that_empties_a_class_is_refused():
    settings = {"tasks": 3, "profile": [1, 2, 2, 2, 2, 2], "order": "ordered", "holdout": 0.1}
    with pytest.raises(UserError, match=r"Class 0 \(name0\) of tiny has no training images left by the hold-out"):
        long_tailed_benchmark(arrays(), compat="lt-cil", **settings)


def test_natural_and_explicit_counts():
    labels = np.repeat(np.arange(4), [7, 3, 12, 5])
    source = arrays(classes=4, train_labels=labels, train_images=np.zeros((27, 4, 4, 3), np.uint8))
    natural = long_tailed_benchmark(source, profile="natural", tasks=2, order="ordered").info
    assert natural.profile_counts == (7, 3, 12, 5)
    explicit = long_tailed_benchmark(source, profile=[5, 3, 2, 1], tasks=2, order="reversed").info
    assert explicit.profile_counts == (1, 2, 3, 5)  # by label: class 3 arrives first and has the last count
    with pytest.raises(UserError, match=r"Class 1 \(name1\) has 3 training images, fewer than the 5"):
        long_tailed_benchmark(source, rho=2, max_count=7, tasks=2)


def test_keeping_some_classes_of_an_official_order(cifar_like):
    order = named_order("order_a", 100)
    made = long_tailed_benchmark(cifar_like, classes=sorted(order[:20]), tasks=4, rho=10)
    assert list(made.info.class_order) == order[:20]
    by_label = [made.info.profile_counts[order.index(label)] for label in sorted(order[:20])]
    assert by_label == sorted(by_label, reverse=True) and by_label[0] == 500 and by_label[-1] == 50
    assert sizes(made.test_stream) == [50] * 4
    named = long_tailed_benchmark(cifar_like, classes=[f"name{label}" for label in order[:20]], tasks=4, rho=10)
    assert named.info == made.info


def test_protocols_given_as_lists():
    made = long_tailed_benchmark(arrays(), protocol=[3, 1, 2], rho=4, order="ordered")
    assert made.info.sizes == (3, 1, 2) and made.info.tasks == 3 and made.n_classes_per_exp == [3, 1, 2]
    named = long_tailed_benchmark(arrays(), protocol=[["name5", 0], [3, 1, 4], [2]], rho=4)
    assert named.info.class_order == (5, 0, 3, 1, 4, 2) and named.info.sizes == (2, 3, 1)
    assert named.info.protocol == "custom"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"protocol": [3, 1]}, "protocol add up to 4 classes, but 6 are kept"),
        ({"protocol": [6, 0]}, "protocol leaves experience 1 without classes"),
        ({"protocol": [[0, 1], [2, 3]]}, r"protocol leaves out classes 4 \(name4\), 5 \(name5\)"),
        ({"protocol": [[0, 1, 2], [2, 3, 4, 5]]}, r"protocol lists class 2 \(name2\) more than once"),
        ({"protocol": [[0, 1, 2, 3, 4, 5], []]}, "protocol leaves experience 1 without classes"),
        ({"protocol": [3, [3, 4, 5]]}, "protocol must be lfs, lfh, single, Bi-Cj, a list of sizes"),
        ({"protocol": []}, "protocol must be"),
        ({"tasks": 7}, "6 classes cannot fill 7 tasks"),
        ({"order": [0, 1, 2]}, "order leaves out"),
        ({"classes": [0, "name9"]}, 'classes names "name9"'),
        ({"classes": []}, "classes is empty"),
        ({"holdout": 1.0}, r"holdout.*in \[0, 1\), got 1.0"),
        ({"holdout": -0.1, "compat": "lt-cil"}, "holdout"),
        ({"compat": "facil"}, "Valid choices: lt-cil"),
        ({"subset": "last"}, "Valid choices: first, random"),
        ({"ranks": "by_name"}, "Valid choices: by_label"),
        ({"generator": "ni"}, "Valid choices: datasets, nc"),
        ({"max_count": 21}, "fewer than the 21"),
        ({"rho": 30}, "would get no image"),
    ],
)
def test_mistakes_are_one_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        long_tailed_benchmark(arrays(), **({"tasks": 3, "rho": 4} | settings))
    assert "\n" not in str(caught.value)


def test_a_class_without_images_is_named():
    source = arrays()
    source.test_labels = np.where(source.test_labels == 4, 0, source.test_labels)
    with pytest.raises(UserError, match=r"Class 4 \(name4\) of tiny has no test images"):
        long_tailed_benchmark(source, tasks=3, rho=4)
    assert long_tailed_benchmark(source, tasks=3, rho=4, classes=[0, 1, 2, 3, 5], order="ordered").n_classes == 5
    source = arrays()
    source.train_labels = np.where(source.train_labels == 2, 0, source.train_labels)
    with pytest.raises(UserError, match=r"Class 2 \(name2\) of tiny has no training images"):
        long_tailed_benchmark(source, tasks=3, profile="natural")


def test_memory_mapped_images_are_not_read_while_building(tmp_path):
    source = arrays()
    np.save(tmp_path / "train.npy", source.train_images)
    source.train_images = np.load(tmp_path / "train.npy", mmap_mode="r")
    made = long_tailed_benchmark(source, tasks=3, rho=4)
    assert made.images.train is source.train_images and isinstance(made.images.train, np.memmap)
    data = made.train_stream[0].dataset.eval()
    expected = (source.train_images[index(data)[0]] / 255.0 - source.mean) / source.std
    assert torch.allclose(data[0][0], torch.tensor(expected).permute(2, 0, 1).float(), atol=1e-5)


class Squares(torch.utils.data.Dataset):
    """A torch dataset with labels 10, 20, 30 whose items tell their row."""

    classes: tuple[str, ...] = ()

    def __init__(self, per_class):
        self.targets = [label for label in (30, 10, 20) for _ in range(per_class)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        return torch.full((3, 2, 2), float(row)), self.targets[row]


def test_a_pair_of_torch_datasets():
    made = long_tailed_benchmark((Squares(8), Squares(2)), protocol=[2, 1], order=[20, 30, 10], rho=4, holdout=0.25)
    assert made.images is None
    assert made.info.class_order == (20, 30, 10) and made.info.profile_counts == (4, 2, 8)
    assert made.info.test_counts == (2, 2, 2) and made.info.class_names == ("20", "30", "10")
    for experience in (*made.train_stream, *made.valid_stream, *made.test_stream):
        assert not hasattr(experience.dataset, "sample_index")
        for x, y, t in experience.dataset:
            rows = Squares(8 if experience.origin_stream.name != "test" else 2).targets
            assert made.info.class_order[y] == rows[int(x[0, 0, 0])] and t == 0
        assert set(experience.dataset.targets) <= set(experience.classes_in_this_experience)


def test_a_pair_of_tensor_datasets_and_things_that_are_no_source():
    pair = [TensorDataset(torch.rand(12, 5), torch.arange(12) % 4) for _ in range(2)]
    assert long_tailed_benchmark(pair, tasks=2, rho=1).n_classes == 4
    with pytest.raises(UserError, match=r"test dataset \(list\) has no targets"):
        long_tailed_benchmark((Squares(8), [1, 2]), tasks=2)
    with pytest.raises(UserError, match="cannot be made from str"):
        long_tailed_benchmark("cifar100")


def test_stream_info_is_json_and_a_table(cifar_like):
    info = long_tailed_benchmark(cifar_like, holdout=0.1).info
    assert StreamInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=100).print(stream_table(info))
    lines = out.getvalue().splitlines()
    row = next(line for line in lines if line.startswith("│   0 "))
    assert [cell.strip() for cell in row.split("│")[1:9]] == ["0", "10", "590", "65", "344", "7", "5", "100"]
    assert "name68, name56" in row
    total = next(line for line in lines if line.startswith("│ all"))
    cells = [cell.strip() for cell in total.split("│")[1:9]]
    train, valid = f"{sum(info.train_counts):,}", f"{sum(info.valid_counts):,}"
    assert cells == ["all", "100", train, valid, "500", "5", "30", "1,000"]


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_a_picture_of_the_stream(tmp_path, suffix):
    info = long_tailed_benchmark(arrays(), tasks=3, rho=4).info
    path = plot_stream(info, tmp_path / f"stream.{suffix}")
    assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF")
    with pytest.raises(UserError, match=r"stream\.doc.*\.pdf, \.png, \.svg"):
        plot_stream(info, tmp_path / "stream.doc")
