"""Each figure of the papers against numbers known beforehand, and what it says when its runs are missing."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import results_folder as fake
from scipy import stats

from benchmark import figures
from benchmark.errors import UserError
from benchmark.figures import NotDrawn, Results, comparisons
from benchmark.figures.lost import class_forgetting
from benchmark.results.labels import TRIALS
from benchmark.storage.files import append_jsonl, read_json, read_jsonl, write_bytes, write_json
from benchmark.storage.folder import RunFolder
from benchmark.tables import tables

COUNTS = [int(500 * 100 ** (-i / 19) + 1e-9) for i in range(20)]
METHODS = {"replay": ["head"], "icarl": ["head", "nme"], "lucir": ["head", "nme"], "dgr": ["head"]}
VARIANTS = ("dgr_no_kd", "dgr_vanilla_kd", "ce_kd", "gr")
LADDER = ("lucir_cn", "lucir_cn_lc", "lucir_cbf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every figure's runs: two protocols, three memory budgets, two rhos, parts of dgr and of lucir; two seeds."""
    root = tmp_path_factory.mktemp("results")
    fake.build(root, METHODS, protocols=(("lfs", 5), ("lfh", 1)), seeds=2, details=True)
    for seed in range(2):
        for name in (*VARIANTS, *LADDER):
            fake.write_run(root, fake.config(name, seed=seed), details=True)
        for budget in (10, 50):
            for name in ("replay", "dgr"):
                fake.write_run(root, fake.config(name, seed=seed, memory__budget=budget), details=True)
        fake.write_run(root, fake.config("dgr", seed=seed, stream__rho=50.0), details=True)
    return root


@pytest.fixture(scope="module")
def results(folder):
    return Results.load(folder)


@pytest.fixture(scope="module")
def lfs(folder):
    """The runs of dgr on five experiences of four classes."""
    return Results.load(folder, ["stream.protocol=lfs", "strategy=dgr", "memory.budget=20", "stream.rho=100"])


def heights(axis):
    return [[bar.get_height() for bar in group] for group in axis.containers if hasattr(group, "patches")]


def note(figure):
    return " ".join(figure.get_supxlabel().split())


def rewritten(path, **changes):
    """A JSON file with other values."""
    write_json(path, {**read_json(path), **changes})


BLOCK = """
import sys
class Block:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "torchvision", "avalanche"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
"""


def test_every_figure_is_drawn_without_torch(folder, tmp_path):
    code = (
        f"{BLOCK}\n"
        f"from benchmark.cli import main; sys.exit(main(['figures', {str(folder)!r}, '--out', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    missing = [line for line in done.stdout.splitlines() if "not drawn" in line]
    assert missing == ["map: not drawn, no finished run has mAP on seen classes."]
    drawn = {path.stem for path in tmp_path.glob("*.png")} & {path.stem for path in tmp_path.glob("*.pdf")}
    assert drawn == set(figures.NAMES) - {"map"}


def test_nothing_overlaps_the_edge(results):
    """Titles, labels and legends of every figure lie inside it."""
    for name in figures.NAMES:
        if name == "map":
            continue
        figure = figures.draw(name, results)
        figure.draw_without_rendering()
        texts = [text for axis in figure.axes for text in (axis.title, axis.xaxis.label, axis.yaxis.label)]
        for axis in (axis for axis in figure.axes if axis.axison):
            low, high = sorted(axis.get_ylim())
            texts += [tick.label1 for tick in axis.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        for artist in (*texts, *figure.legends):
            box = artist.get_window_extent()
            inside = box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1
            assert box.width == 0 or inside, (name, artist)


def test_the_stream_shows_new_classes_exemplars_and_what_was_lost(lfs):
    first, second, *_ = figures.draw("stream", lfs).axes
    assert heights(first)[-1] == COUNTS[:4]
    lost, kept, new = heights(second)
    assert kept == [20] * 4 and lost == [count - 20 for count in COUNTS[:4]] and new == COUNTS[4:8]


def test_gradient_norms_stand_above_the_images_behind_them(results):
    axes = figures.draw("gradients", results).axes
    first, images = axes[0], axes[3]
    np.testing.assert_allclose(heights(first)[0], [0.1, 0.2, 0.3, 0.4])
    assert heights(images)[0] == COUNTS[:4]
    assert first.get_title() == "experience 1 of 5"


@pytest.fixture
def two_orders(tmp_path):
    """Two runs of replay: the most frequent class arrives first in one, last in the other."""
    names = [fake.write_run(tmp_path, fake.config("replay", seed=seed), details=True) for seed in range(2)]
    folders = [RunFolder(tmp_path / "runs" / name) for name in names]
    rewritten(folders[1].stream, train_counts=COUNTS[::-1], profile_counts=COUNTS[::-1])
    return folders


def test_lost_images_of_different_class_orders_are_each_run_s_own(two_orders):
    counts = (COUNTS, COUNTS[::-1])
    for folder, own in zip(two_orders, counts, strict=True):
        lines = read_jsonl(folder.metrics)
        folder.metrics.unlink()
        for line in lines:  # in the end, the fewer images a class has lost, the more of it is forgotten
            seen = len(line["classifiers"]["head"]["total"])
            kept = [100 - (0 if seen < 20 or n < 21 else 500 // n) for n in own[:seen]]
            line["classifiers"]["head"] = {"correct": kept, "total": [100] * seen}
            append_jsonl(folder.metrics, line)
    lost = [[max(n - 20, 0) for n in own[:16]] for own in counts]
    forgotten = [[500 // n if n > 20 else 0 for n in own[:16]] for own in counts]
    ranks = [stats.spearmanr(*pair).statistic for pair in zip(lost, forgotten, strict=True)]
    figure = figures.draw("lost_samples", Results.load(two_orders[0].path.parents[1]))
    (axis,) = figure.axes
    dots = np.stack([np.concatenate(lost), np.concatenate(forgotten)], axis=1)
    np.testing.assert_allclose(axis.collections[0].get_offsets(), dots)
    assert axis.get_title() == f"replay: {np.mean(ranks):+.2f}".replace("-", "−")
    assert note(figure).startswith("Dot: a class of one run; 2 seeds, whose class orders differ;")


def test_one_class_order_has_a_dot_per_class(lfs):
    figure = figures.draw("lost_samples", lfs)
    assert len(figure.axes[0].collections[0].get_offsets()) == 16
    assert note(figure).startswith("Dot: a class, mean over 2 seeds; in the titles")


def test_gradients_of_different_class_orders_are_sorted_within_each_run(two_orders, lfs):
    results = Results.load(two_orders[0].path.parents[1])
    figure = figures.draw("gradients", results)
    first, images = figure.axes[0], figure.axes[3]
    np.testing.assert_allclose(heights(first)[0], [(0.1 + 0.4) / 2, 0.25, 0.25, 0.25])
    np.testing.assert_allclose(heights(images)[0], np.add(COUNTS[:4], COUNTS[16:]) / 2)
    assert "the order by images, which every run has of its own" in note(figure)
    assert "of its own" not in note(figures.draw("gradients", lfs))


def test_the_stream_of_different_class_orders_says_whose_it_is(two_orders, lfs):
    results = Results.load(two_orders[0].path.parents[1])
    assert note(figures.draw("stream", results)).startswith(
        f"Images of one run, {results.records[0].name}; they differ"
    )
    assert "Images of one run" not in note(figures.draw("stream", lfs))


def test_head_norms_are_relative_to_the_mean(results, lfs):
    figure = figures.draw("head_norms", results.strategies("dgr", "replay"))
    (axis, _) = figure.axes  # two experiences: 10 old classes of norm 2, 10 new ones of norm 2
    assert axis.get_title() == "replay: spread 0 %"
    (axis,) = figures.draw("head_norms", lfs).axes
    points = np.concatenate([line.get_ydata() for line in axis.lines if len(line.get_ydata()) in (16, 4)])
    np.testing.assert_allclose(points, np.array([5.0] * 16 + [2.0] * 4) / 4.4)


def test_cosine_heads_show_their_scale_and_no_bias(results):
    figure = figures.draw("weights_biases", results.strategies("lucir"))
    above, below = figure.axes
    for group in above.collections:
        if hasattr(group, "get_offsets") and len(group.get_offsets()) > 1:
            assert set(group.get_offsets()[:, 1]) == {3.0}
    assert [text.get_text() for text in below.texts] == ["no bias"]


def test_confusion_is_the_log_of_the_mean_over_runs(results):
    part = results.one_step.strategies("dgr")
    figure = figures.draw("confusion", part)
    matrices = []
    for record in part.records:
        with np.load(RunFolder(record.path).confusion_of(1)) as arrays:
            matrices.append(arrays["head"])
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, np.log1p(np.mean(matrices, axis=0)))
    accuracy = np.mean([np.trace(matrix) / matrix.sum() for matrix in matrices])
    assert figure.axes[0].get_title() == f"dgr: {100 * accuracy:.1f} %"


def test_forgetting_of_a_class_is_its_best_recall_before_minus_the_last():
    nan = float("nan")
    recalls = np.array([[[0.9, nan, nan], [0.5, 0.7, nan], [0.6, 0.8, 1.0]]])
    np.testing.assert_allclose(class_forgetting(recalls, 2), [[0.3, -0.1]])


def test_lost_images_are_counts_beyond_the_memory(lfs):
    axis = figures.draw("lost_samples", lfs).axes[0]
    (dots,) = axis.collections
    assert dots.get_offsets()[:, 0].tolist() == [max(count - 20, 0) for count in COUNTS[:16]]


def test_memory_and_rho_have_a_panel_per_value(results):
    titles = [axis.get_title() for axis in figures.draw("memory", results).axes]
    assert [title.rpartition(", ")[2] for title in titles] == ["memory 10", "memory 20", "memory 50"] or len(
        titles
    ) == 3
    assert len(figures.draw("rho", results).axes) == 2
    left, right = figures.draw("exemplars", results).axes
    assert left.get_xticks().tolist() == [10, 20, 50] and right.get_xticks().tolist() == [50, 100]


def test_parts_of_dgr_are_compared_pair_by_pair(results):
    figure = figures.draw("dgr_parts", results)
    left, right = figure.axes
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert labels == [comparisons.DGR_ROWS[name] for name in ("ce_kd", "gr", "dgr", "dgr_no_kd", "dgr_vanilla_kd")]
    rows = results.main.summary.set_index(["strategy", "training_seed"])["average_accuracy_seen"]
    expected = 100 * (rows["ce_kd"] - rows["dgr"]).mean()
    means = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "o"]
    assert means[0] == pytest.approx(expected)


def test_distillation_names_the_average_accuracy(results):
    (legend,) = figures.draw("distillation", results).legends
    summary = results.main.summary
    accuracy = 100 * summary[summary["strategy"] == "dgr"]["average_accuracy_seen"].mean()
    assert f"DAKD: {accuracy:.1f}" in {text.get_text() for text in legend.get_texts()}


def test_options_are_lines_of_their_own(tmp_path):
    for seed in range(2):
        for name in ("dgr_no_kd", "lucir_cn", "lucir_cn_lc"):
            fake.write_run(tmp_path, fake.config(name, seed=seed), accuracy=50)
        for temperature, accuracy in ((2.0, 60), (99.0, 20)):
            for name in ("dgr", "lucir"):
                content = fake.config(name, seed=seed, strategy__temperature=temperature)
                fake.write_run(tmp_path, content, accuracy=accuracy)
    results = Results.load(tmp_path)
    figure = figures.draw("distillation", results)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["none: 50.0", "DAKD [temperature=2]: 60.0", "DAKD [temperature=99]: 20.0"]
    assert [len(axis.lines) for axis in figure.axes] == [3, 3]
    figure.draw_without_rendering()
    left, right = (axis.title.get_window_extent() for axis in figure.axes)
    assert right.x0 - left.x1 > 20
    shown = [text.get_text() for text in figures.draw("lucir_ladder", results).legends[0].get_texts()]
    assert shown == ["CN", "CN + LC", "CN + LC + IS [temperature=2]", "CN + LC + IS [temperature=99]"]


def test_runs_of_unlike_precision_are_averaged_in_no_figure(tmp_path):
    for seed, precision in enumerate(("bf16", "fp32")):
        for name in ("dgr", "dgr_no_kd"):
            fake.write_run(tmp_path, fake.config(name, seed=seed), precision=precision, details=True)
    results = Results.load(tmp_path)
    for name in ("accuracy", "distillation", "confusion", "gradients", "head_norms", "lost_samples", "compute"):
        with pytest.raises(UserError, match="mixes runs with precision bf16 and fp32"):
            figures.draw(name, results)
    with pytest.raises(UserError, match="mixes runs with precision bf16 and fp32"):
        figures.write_figures(tmp_path, ["accuracy", "stream"], out=tmp_path / "out")
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["stream.pdf", "stream.png"]


def test_the_ladder_stands_in_the_order_of_the_paper(results):
    (legend,) = figures.draw("lucir_ladder", results).legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["linear head + KD", "CN", "CN + LC", "CN + LC + IS", "CN + LC + IS + CBF"]


def test_compute_shows_passes_where_they_were_counted(folder, results, tmp_path):
    (axis,) = figures.draw("compute", results).axes
    assert axis.get_xlabel() == "Training time per run (s)"
    name = fake.write_run(tmp_path, fake.config("replay"), details=True)
    path = RunFolder(tmp_path / "runs" / name).cost
    lines = [{**line, "forward_images": 300_000, "backward_images": 100_000} for line in read_jsonl(path)]
    path.unlink()
    for line in lines:
        append_jsonl(path, line)
    passes, seconds = figures.draw("compute", Results.load(tmp_path)).axes
    assert passes.get_xlabel() == "Passes per run (million images)"
    assert passes.containers[0].lines[0].get_xdata().tolist() == [2.5]
    assert seconds.containers[0].lines[0].get_xdata().tolist() == [50.0]


def test_compute_names_the_methods_whose_costs_were_not_kept(tmp_path):
    fake.write_run(tmp_path, fake.config("replay"), details=True)
    name = fake.write_run(tmp_path, fake.config("wa"), details=True)
    told = " ".join(text.get_text() for text in figures.draw("compute", Results.load(tmp_path)).texts)
    assert "not kept" not in told
    RunFolder(tmp_path / "runs" / name).cost.unlink()
    told = " ".join(text.get_text() for text in figures.draw("compute", Results.load(tmp_path)).texts)
    assert "Without wa, whose costs were not kept." in " ".join(told.split())


def test_one_slow_run_does_not_press_the_others_to_the_left(tmp_path):
    for seed, factor in enumerate((1, 1, 1, 1, 40)):
        name = fake.write_run(tmp_path, fake.config("replay", seed=seed), details=True)
        path = RunFolder(tmp_path / "runs" / name).cost
        lines = [{**line, "train_seconds": factor * line["train_seconds"]} for line in read_jsonl(path)]
        path.unlink()
        for line in lines:
            append_jsonl(path, line)
    (axis,) = figures.draw("compute", Results.load(tmp_path)).axes
    assert axis.containers[0].lines[0].get_xdata()[0] >= axis.get_xlim()[1] / 2


def test_many_methods_leave_the_small_print_readable(tmp_path):
    fake.build(tmp_path, {f"a_long_method_name_{i:02d}": ["head"] for i in range(20)}, (("lfs", 5),), 2, details=True)
    results = Results.load(tmp_path)
    for name in ("compute", "accuracy", "ranks", "lost_samples", "confusion", "head_norms"):
        figure = figures.draw(name, results)
        figure.draw_without_rendering()
        below = figure._supxlabel.get_window_extent()
        for artist in (*figure.legends, *(axis.xaxis.label for axis in figure.axes if axis.get_xlabel())):
            assert artist.get_window_extent().y0 >= below.y1 - 1, name
        titles = [axis.title.get_window_extent() for axis in figure.axes if axis.get_title()]
        for left, right in pairwise(titles):
            assert abs(left.y0 - right.y0) > 1 or left.x1 < right.x0, name
        numbers = [text for axis in figure.axes for text in axis.texts if text.get_text().isdigit()]
        for left, right in pairwise(text.get_window_extent() for text in numbers if name == "ranks"):
            assert left.x1 < right.x0


def test_ranks_agree_with_the_table(results):
    texts = [text.get_text() for text in figures.draw("ranks", results.strategies("dgr", "replay")).axes[0].texts]
    frame = tables.ranks_table(results.strategies("dgr", "replay").summary)
    assert any(text.startswith(f"{frame.index[0]}  ") for text in texts)
    assert any("critical difference" in text for text in texts)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gradients", "metrics.diagnostics=true"),
        ("head_norms", "metrics.diagnostics=true"),
        ("memory", "more than one memory budget"),
        ("rho", "more than one rho"),
        ("distillation", "dgr_vanilla_kd"),
        ("dgr_parts", "two of its ablations"),
        ("lucir_ladder", "lucir_cn"),
        ("confusion", "kept its confusion matrices"),
        ("lost_samples", "metrics.jsonl"),
        ("compute", "cost.jsonl"),
        ("map", "mAP on seen classes"),
    ],
)
def test_a_figure_says_what_is_missing(tmp_path, name, words):
    fake.write_run(tmp_path, fake.config("replay"))
    with pytest.raises(NotDrawn, match=words):
        figures.draw(name, Results.load(tmp_path))


def test_a_damaged_file_leaves_its_run_out(tmp_path):
    names = [fake.write_run(tmp_path, fake.config("replay", seed=seed), details=True) for seed in range(2)]
    folder = RunFolder(tmp_path / "runs" / names[0])
    for path in (folder.diagnostics, folder.cost, folder.metrics):
        path.write_text("{")
    write_bytes(folder.confusion_of(4), b"PK")
    results = Results.load(tmp_path)
    for name in ("gradients", "head_norms", "confusion", "lost_samples", "compute"):
        assert "1 seed" in note(figures.draw(name, results)), name


def spoilt(path, spoil):
    content = bytearray(path.read_bytes())
    path.write_bytes(spoil(content))


def last_matrix(folder):
    return folder.confusion_of(4)


DAMAGES = {
    "no stream.json": lambda folder: folder.stream.unlink(),
    "stream.json is cut short": lambda folder: spoilt(folder.stream, lambda content: content[:20]),
    "stream.json lacks counts": lambda folder: write_json(folder.stream, {"sizes": [4] * 5}),
    "another stream": lambda folder: write_json(folder.stream, {"sizes": [2, 2], "profile_counts": [9] * 4}),
    "no memory": lambda folder: rewritten(folder.config, memory=None),
    "no strategy": lambda folder: rewritten(folder.config, strategy=None),
    "empty matrices": lambda folder: last_matrix(folder).write_bytes(b""),
    "matrices are cut short": lambda folder: spoilt(last_matrix(folder), lambda content: content[: len(content) // 2]),
    "matrices are altered": lambda folder: spoilt(
        last_matrix(folder), lambda content: content[:60] + bytes(40) + content[100:]
    ),
    "no classifier": lambda folder: folder.metrics.write_text(
        "".join(json.dumps({"experience": t, "classifiers": {}}) + "\n" for t in range(5))
    ),
    "diagnostics are cut short": lambda folder: spoilt(
        folder.diagnostics, lambda content: content[: content.rindex(b"\n", 0, -1) + 1]
    ),
}  # what happens to one run


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_one_run_lacks_stops_no_figure(tmp_path, damage):
    for name in ("dgr", "dgr_no_kd", "gr"):
        names = [fake.write_run(tmp_path, fake.config(name, seed=seed), details=True) for seed in range(2)]
        if name == "dgr":  # whose first run is the first of all
            DAMAGES[damage](RunFolder(tmp_path / "runs" / names[0]))
    results = Results.load(tmp_path)
    assert "cifar100, 20 classes, LFS-5" in note(figures.draw("compute", results))
    for name in (
        "accuracy",
        "stream",
        "gradients",
        "distillation",
        "head_norms",
        "dgr_parts",
        "confusion",
        "lost_samples",
    ):
        figures.draw(name, results)
    figures.draw("confusion", Results.load(tmp_path, ["memory.budget=20"]))


def test_without_any_stream_the_other_figures_are_drawn(tmp_path):
    for name in ("dgr", "dgr_no_kd"):
        folder = RunFolder(tmp_path / "runs" / fake.write_run(tmp_path, fake.config(name), details=True))
        folder.stream.unlink()
    told = []
    names = ("stream", "gradients", "head_norms", "weights_biases", "confusion", "lost_samples")
    paths = figures.write_figures(tmp_path, [*names, "accuracy", "distillation", "compute"], told=told.append)
    assert [path.name for path in paths[::2]] == ["accuracy.png", "distillation.png", "compute.png"]
    reason = "not drawn, no finished run has a readable stream.json and a memory in its config.json."
    assert told[: len(names)] == [f"{name}: {reason}" for name in names]


def test_figures_of_trials_say_what_they_are(results):
    def trial(record):
        return replace(record, config={**record.config, "stream": {**record.config["stream"], "evaluate": "holdout"}})

    trials = Results(tuple(map(trial, results.records)))
    for name in set(figures.NAMES) - {"map"}:
        assert note(figures.draw(name, trials)).count(TRIALS) == 1, name
    assert TRIALS not in note(figures.draw("accuracy", results))


@pytest.mark.parametrize(("classes", "shown"), [(20, "cifar100, 20 classes,"), (None, "cifar100 (20 classes),")])
def test_the_note_counts_the_classes_once(tmp_path, classes, shown):
    fake.write_run(tmp_path, fake.config("dgr", dataset__classes=classes))
    (line, *_) = Results.load(tmp_path).notes()
    assert line.startswith(shown) and line.count("20 classes") == 1


def test_conditions_choose_the_runs(folder):
    assert {record.config["stream"]["rho"] for record in Results.load(folder, ["stream.rho=50"]).records} == {50}
    some = Results.load(folder, ["strategy=[dgr, replay]", "stream.protocol=lfh"])
    assert sorted(some.methods()) == ["dgr", "replay"] and some.tasks == 2
    for condition, sentence in {
        "rho=50": '"rho" selects no runs. Valid choices: dataset.rho, stream.rho.',
        "stream.protocl=lfs": '"stream.protocl" selects no runs. Did you mean "stream.protocol"?',
        "stream.rho=51": "No finished run has stream.rho=51. Valid choices: 100",
        "strategy=drg": 'No finished run has strategy.name=drg. Did you mean "dgr"? Valid choices: ',
        "strategy=[dgr, reply]": 'No finished run has strategy.name=reply. Did you mean "replay"?',
    }.items():
        with pytest.raises(UserError) as caught:
            Results.load(folder, [condition])
        assert str(caught.value).startswith(sentence)
    with pytest.raises(UserError, match=r"No finished run has stream\.rho=50 and stream\.protocol=lfh\."):
        Results.load(folder, ["stream.rho=50", "stream.protocol=lfh"])
    with pytest.raises(UserError, match='Did you mean "confusion"'):
        figures.write_figures(folder, ["confusoin"])
