"""Profiles, splits, orders and ranks: the published lists and the sentences for wrong input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.streams import class_counts, class_split, named_order
from benchmark.streams.order import arrival_order, resolve_labels
from benchmark.streams.ranks import counts_by_class, ranked_classes

CIFAR100_LT = [
    500, 477, 455, 434, 415, 396, 378, 361, 344, 328, 314, 299, 286, 273, 260, 248, 237, 226, 216, 206, 197,
    188, 179, 171, 163, 156, 149, 142, 135, 129, 123, 118, 112, 107, 102, 98, 93, 89, 85, 81, 77, 74, 70, 67,
    64, 61, 58, 56, 53, 51, 48, 46, 44, 42, 40, 38, 36, 35, 33, 32, 30, 29, 27, 26, 25, 24, 23, 22, 21, 20, 19,
    18, 17, 16, 15, 15, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 7, 6, 6, 6, 6, 5, 5, 5, 5,
]  # fmt: skip
ORDER_A = [
    68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89, 3, 92, 55, 9, 26, 80, 43, 38, 58, 70, 77, 1, 85, 19, 17, 50,
    28, 53, 13, 81, 45, 82, 6, 59, 83, 16, 15, 44, 91, 41, 72, 60, 79, 52, 20, 10, 31, 54, 37, 95, 14, 71, 96,
    98, 97, 2, 64, 66, 42, 22, 35, 86, 24, 34, 87, 21, 99, 0, 88, 27, 18, 94, 11, 12, 47, 25, 30, 46, 62, 69,
    36, 61, 7, 63, 75, 5, 32, 4, 51, 48, 73, 93, 39, 67, 29, 49, 57, 33,
]  # fmt: skip
ORDER_B = [
    87, 0, 52, 58, 44, 91, 68, 97, 51, 15, 94, 92, 10, 72, 49, 78, 61, 14, 8, 86, 84, 96, 18, 24, 32, 45, 88,
    11, 4, 67, 69, 66, 77, 47, 79, 93, 29, 50, 57, 83, 17, 81, 41, 12, 37, 59, 25, 20, 80, 73, 1, 28, 6, 46, 62,
    82, 53, 9, 31, 75, 38, 63, 33, 74, 27, 22, 36, 3, 16, 21, 60, 19, 70, 90, 89, 43, 5, 42, 65, 76, 40, 30, 23,
    85, 2, 95, 56, 48, 71, 64, 98, 13, 99, 7, 34, 55, 54, 26, 35, 39,
]  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "largest", "rho", "head", "tail", "total", "groups"),
    [
        (100, 500, 100, [500, 477, 455, 434, 415], [6, 5, 5, 5, 5], 10847, (35, 35, 30)),
        (100, 500, 50, [500, 480, 462, 444, 426], [11, 11, 10, 10, 10], 12608, (41, 41, 18)),
        (100, 500, 10, [500, 488, 477, 466, 455], [54, 53, 52, 51, 50], 19573, (69, 31, 0)),
        (100, 500, 150, [500, 475, 451, 429, 408], [4, 3, 3, 3, 3], 10019, (32, 32, 36)),
        (100, 1300, 100, [1300, 1240, 1184, 1130, 1079], [15, 14, 14, 13, 13], 28281, (55, 35, 10)),
        (101, 750, 100, [750, 716, 684, 653, 623], [9, 8, 8, 7, 7], 16454, (44, 35, 22)),
        (101, 750, 50, [750, 721, 693, 666, 641], [17, 16, 16, 15, 15], 19123, (52, 41, 8)),
    ],
)
def test_exponential_profiles_of_the_papers(classes, largest, rho, head, tail, total, groups):
    counts = class_counts(classes, largest, rho)
    assert (counts[:5], counts[-5:], sum(counts)) == (head, tail, total)
    many, few = sum(n > 100 for n in counts), sum(n < 20 for n in counts)
    assert (many, classes - many - few, few) == groups


@pytest.mark.parametrize("rho", [10, 50, 100, 150])
@pytest.mark.parametrize(("name", "largest"), [("cifar", 500), ("n1300", 1300)])
def test_recorded_profiles_of_the_released_code(name, largest, rho):
    golden = np.load(Path(__file__).parents[1] / "data" / "golden_gr.npz", allow_pickle=False)
    assert class_counts(100, largest, rho) == golden[f"ltprofile.{name}_rho{rho}"].tolist()


def test_the_cifar100_lt_list():
    assert class_counts(100, 500, 100) == CIFAR100_LT
    assert sum(min(20, count) for count in CIFAR100_LT) == 1705  # exemplars held at 20 a class


def test_exact_powers_do_not_fall_to_the_integer_below():
    assert class_counts(3, 1000, 100) == [1000, 100, 10]
    assert class_counts(2, 500, 100) == [500, 5]
    assert class_counts(4, 1000, 1000) == [1000, 100, 10, 1]


def test_other_profiles():
    assert class_counts(5, 500, 100, "step") == [500, 500, 500, 5, 5]
    assert class_counts(5, 500, 100, "few_shot") == [500, 500, 500, 5, 5]
    assert class_counts(10, 500, 100, "step") == [500] * 5 + [5] * 5
    assert class_counts(10, 500, 100, "few_shot") == [500] * 6 + [5] * 4
    assert class_counts(10, 10, 100, "few_shot") == [10] * 6 + [1] * 4
    assert class_counts(4, 500, 100, "conventional") == [500] * 4
    pareto = class_counts(100, 500, 100, "pareto")
    assert (pareto[0], pareto[1], pareto[9], pareto[-1]) == (500, 250, 50, 5)  # a = 1: n / (i + 1)
    assert pareto == sorted(pareto, reverse=True)


@pytest.mark.parametrize("profile", ["exponential", "step", "pareto", "few_shot", "conventional"])
def test_every_profile_is_head_first_and_takes_one_class_or_no_imbalance(profile):
    assert class_counts(1, 30, 1, profile) == [30]
    assert class_counts(1, 30, 20, profile) == [30]
    assert class_counts(7, 30, 1, profile) == [30] * 7
    counts = class_counts(12, 300, 50, profile)
    assert counts[0] == 300 and counts == sorted(counts, reverse=True) and min(counts) >= 1
    assert all(type(count) is int for count in counts)


def test_profile_mistakes_are_named():
    with pytest.raises(ValueError, match=r"rho.*at least 1, got 0.5"):
        class_counts(10, 100, 0.5)
    with pytest.raises(ValueError, match="rho"):
        class_counts(10, 100, float("nan"))
    with pytest.raises(ValueError, match="at least one class"):
        class_counts(0, 100, 10)
    with pytest.raises(ValueError, match="max_count must be at least 1"):
        class_counts(10, 0, 1)
    with pytest.raises(UserError, match=r'"exponentail".*Did you mean "exponential"'):
        class_counts(10, 100, 10, "exponentail")


@pytest.mark.parametrize("profile", ["exponential", "step", "pareto"])
def test_a_class_without_images_names_the_settings_that_work(profile):
    with pytest.raises(ValueError, match=r"class of rank \d+ .*max_count of at least 100 or a rho of at most 50"):
        class_counts(10, 50, 100, profile)
    assert class_counts(10, 100, 100, profile)[-1] == 1
    assert class_counts(10, 50, 50, profile)[-1] == 1


@pytest.mark.parametrize(
    ("classes", "protocol", "tasks", "sizes"),
    [
        (100, "lfs", 10, [10] * 10),
        (100, "lfs", 20, [5] * 20),
        (100, "lfh", 5, [50] + [10] * 5),
        (100, "lfh", 10, [50] + [5] * 10),
        (100, "lfh", 20, [50] + [3] * 10 + [2] * 10),
        (100, "lfh", 25, [50] + [2] * 25),
        (101, "lfh", 5, [51] + [10] * 5),
        (101, "lfh", 10, [51] + [5] * 10),
        (101, "lfh", 20, [51] + [3] * 10 + [2] * 10),
        (101, "lfs", 10, [11] + [10] * 9),
        (101, "lfs", 20, [6] + [5] * 19),
        (7, "single", 3, [7]),
        (1, "lfs", 1, [1]),
    ],
)
def test_splits_of_the_papers(classes, protocol, tasks, sizes):
    assert class_split(classes, protocol, tasks) == sizes


@pytest.mark.parametrize("profile", ["exponential", "step", "pareto", "few_shot", "conventional"])
def test_counts_and_sizes_are_python_integers_whatever_the_numbers_given(profile):
    counts = class_counts(np.int64(4), np.float64(20), np.float64(5), profile)
    assert {type(count) for count in counts} == {int}
    assert {type(size) for size in class_split(np.int64(9), "lfh", np.int64(2))} == {int}


def test_split_mistakes_are_named():
    with pytest.raises(ValueError, match=r"10 classes cannot fill 11 tasks.*at most 10"):
        class_split(10, "lfs", 11)
    with pytest.raises(ValueError, match="after a base of 5 classes: use at most 5"):
        class_split(10, "lfh", 6)
    with pytest.raises(ValueError, match="tasks must be at least 1"):
        class_split(10, "lfs", 0)
    with pytest.raises(UserError, match="Valid choices: Bi-Cj, lfh, lfs, single"):
        class_split(10, "b50", 5)


def test_the_two_official_cifar100_orders():
    assert named_order("order_a", 100) == named_order("lucir", 100) == ORDER_A
    assert named_order("order_b", 100) == named_order("icarl", 100) == ORDER_B


def test_named_orders_are_permutations_and_leave_the_global_generator_alone():
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    for name in ("order_a", "ordered", "reversed", "shuffled"):
        assert sorted(named_order(name, 13)) == list(range(13))
    assert (np.random.get_state()[1] == before).all()
    assert named_order("reversed", 3) == [2, 1, 0] and named_order("ordered", 3) == [0, 1, 2]
    assert named_order("shuffled", 30, seed=1) != named_order("shuffled", 30, seed=2)
    assert named_order("shuffled", 30, seed=1) == named_order("shuffled", 30, seed=1)


def test_order_b_is_for_100_classes():
    with pytest.raises(UserError, match="100 classes only, this dataset has 10"):
        named_order("order_b", 10)
    with pytest.raises(UserError, match="Did you mean"):
        named_order("order_c", 100)


NAMES = {0: "ant", 1: "bee", 2: "cat", 3: "dog"}


def test_an_official_order_is_filtered_to_the_kept_classes():
    names = {label: str(label) for label in range(100)}
    assert arrival_order("order_a", ORDER_A[:20], names) == ORDER_A[:20]
    assert arrival_order("order_a", sorted(ORDER_A[5:9]), names) == ORDER_A[5:9]


def test_an_explicit_order_must_be_a_permutation_of_the_kept_classes():
    assert arrival_order(["dog", 0, "bee"], [0, 1, 3], NAMES) == [3, 0, 1]
    with pytest.raises(UserError, match=r"order leaves out classes 1 \(bee\), 2 \(cat\)"):
        arrival_order([3, 0], [0, 1, 2, 3], NAMES)
    with pytest.raises(UserError, match=r"order lists class 3 \(dog\) more than once"):
        arrival_order([3, "dog", 0, 1, 2], [0, 1, 2, 3], NAMES)
    with pytest.raises(UserError, match=r"order lists class 3 \(dog\), not among the kept"):
        arrival_order([3, 0, 1], [0, 1], NAMES)
    with pytest.raises(UserError, match=r'order names "dgo".*Did you mean dog\?'):
        arrival_order(["dgo"], [0], NAMES)
    with pytest.raises(UserError, match=r"order lists 7, which is no class.*labels 0 to 3"):
        arrival_order([7], [0], NAMES)


def test_a_name_that_two_classes_share_is_refused():
    with pytest.raises(UserError, match=r'"crane", a name that labels \[4, 9\] share'):
        resolve_labels(["crane"], {4: "crane", 9: "crane"}, "classes")


def test_ranks():
    arrival = [5, 2, 9, 4]
    own = dict.fromkeys(arrival, 8)
    assert ranked_classes(arrival, "by_label") == [2, 4, 5, 9]
    assert ranked_classes(arrival, "by_order") == arrival
    draws = [ranked_classes(list(range(30)), "random", seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2] and sorted(draws[2]) == list(range(30))
    names = ["five", "two", "nine", "four"]
    assert counts_by_class(own, names, [8, 4, 2, 1], ranks="by_label") == {5: 2, 2: 8, 9: 1, 4: 4}
    assert counts_by_class(own, names, [8, 4, 2, 1], ranks="by_order") == {5: 8, 2: 4, 9: 2, 4: 1}
    with pytest.raises(UserError, match="by_label, by_order, random"):
        ranked_classes(arrival, "by_size")


def test_counts_a_class_cannot_meet_and_lists_that_do_not_fit():
    own = {0: 10, 1: 3}
    assert counts_by_class(own, ["ant", "bee"], "natural") == {0: 10, 1: 3}
    assert counts_by_class(own, ["ant", "bee"], "natural", max_count=5) == {0: 5, 1: 3}
    assert counts_by_class(own, ["ant", "bee"], "exponential", rho=5) == {0: 10, 1: 2}
    with pytest.raises(UserError, match=r"Class 1 \(bee\) has 3 training images, fewer than the 10"):
        counts_by_class(own, ["ant", "bee"], "conventional")
    with pytest.raises(UserError, match="profile lists 3 counts for 2 classes"):
        counts_by_class(own, ["ant", "bee"], [3, 2, 1])
    with pytest.raises(UserError, match="rank 1 0 images"):
        counts_by_class(own, ["ant", "bee"], [3, 0])
    with pytest.raises(UserError, match='Did you mean "natural"'):
        counts_by_class(own, ["ant", "bee"], "naturel")


def test_profiles_need_neither_torch_nor_avalanche():
    code = (
        "import sys; from benchmark.streams import StreamInfo, class_counts, class_split, stream_table; "
        "class_counts(3, 9, 3); assert not {'torch', 'avalanche', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
