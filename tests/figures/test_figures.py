"""Figures from synthetic results: what is drawn, and that the files do not change when drawn again."""

import subprocess
import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import results_folder as fake

from benchmark import figures
from benchmark.errors import UserError
from benchmark.figures import lines, style
from benchmark.results import labels, summary


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    fake.build(root)
    return root


def drawn(curves, metric="accuracy_seen"):
    return lines.curves_figure(curves, metric)


def test_files_are_written_as_png_and_pdf(results):
    paths = figures.write_figures(results)
    assert [p.name for p in paths] == ["accuracy.png", "accuracy.pdf", "forgetting.png", "forgetting.pdf"]
    assert paths[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and paths[1].read_bytes()[:5] == b"%PDF-"


def test_the_same_results_give_the_same_bytes_in_another_process(results, tmp_path):
    _, curves = summary.summarise(results)
    paths = figures.accuracy_curves(curves, tmp_path / "here")
    code = (
        "from benchmark import figures\nfrom benchmark.results import summary\n"
        f"figures.accuracy_curves(summary.summarise({str(results)!r})[1], {str(tmp_path / 'there')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for path in paths:
        assert path.read_bytes() == path.with_name("there" + path.suffix).read_bytes(), path.suffix
    assert b"CreationDate" not in paths[1].read_bytes() and b"Software" not in paths[0].read_bytes()


def test_one_panel_per_setting_one_line_per_method_and_classifier(results):
    _, curves = summary.summarise(results)
    figure = drawn(curves)
    assert [axis.get_title() for axis in figure.axes] == ["cifar100, LFH-2", "cifar100, LFS-5"]
    assert [len(axis.lines) for axis in figure.axes] == [4, 4]
    names = {text.get_text() for text in figure.legends[0].get_texts()}
    assert names == {"dgr", "finetune", "icarl (head)", "icarl (nme)"}
    small_print = " ".join(figure.get_supxlabel().split())
    assert small_print.startswith(
        "Line: mean over 3 seeds; band: ± 1 standard deviation. Stream: cifar100, 20 classes, LFH-2 / LFS-5"
    )
    assert "Training: resnet32, augmentation crop, 160 epochs, memory 20 per class, precision bf16" in small_print


def test_long_titles_of_neighbours_do_not_touch(tmp_path):
    for rho in (50, 100, 150):
        for budget in (10, 20):
            fake.write_run(tmp_path, fake.config("dgr", stream__rho=rho, memory__budget=budget))
    figure = drawn(summary.summarise(tmp_path)[1])
    figure.draw_without_rendering()
    titles = [axis.title.get_window_extent() for axis in figure.axes[:3]]
    for left, right in pairwise(titles):
        assert left.x1 + 10 < right.x0


def test_lines_are_means_in_percent_and_bands_one_standard_deviation(tmp_path):
    for seed, accuracy in enumerate((40, 50, 60)):
        fake.write_run(tmp_path, fake.config("replay", seed=seed), accuracy=accuracy)
    (axis,) = drawn(summary.summarise(tmp_path)[1]).axes
    np.testing.assert_allclose(axis.lines[0].get_xydata(), [[x, 50] for x in (4, 8, 12, 16, 20)])
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (pytest.approx(40), pytest.approx(60))


def test_forgetting_starts_at_the_second_experience(results):
    _, curves = summary.summarise(results)
    lfs = drawn(curves, "forgetting").axes[1]
    assert lfs.lines[0].get_xdata().tolist() == [8, 12, 16, 20]


def test_one_run_has_no_band(tmp_path):
    fake.write_run(tmp_path, fake.config("replay"))
    figure = drawn(summary.summarise(tmp_path)[1])
    assert figure.get_supxlabel().startswith("Line: mean over 1 seed.")
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    line = figure.axes[0].lines[0].get_xydata()
    assert {tuple(v) for v in band.round(9)} == {tuple(v) for v in line.round(9)}


@pytest.mark.parametrize(("number", "bands"), [(12, 12), (13, 0)])
def test_bands_of_many_methods_would_cover_the_lines(tmp_path, number, bands):
    fake.build(tmp_path, {f"method{i}": ["head"] for i in range(number)}, protocols=(("lfs", 5),), seeds=2)
    figure = drawn(summary.summarise(tmp_path)[1])
    assert (len(figure.axes[0].lines), len(figure.axes[0].collections)) == (number, bands)
    assert ("band: ±" in figure.get_supxlabel()) == bool(bands)


def test_forty_methods_look_different_and_alike_in_every_figure():
    names = [f"method {i:02d}" for i in range(40)]
    styles = style.methods(names)
    looks = {tuple(str(style[k]) for k in ("color", "marker", "linestyle")) for style in styles.values()}
    assert len(looks) == 40
    assert len({(s["color"], s["markerfacecolor"], s["marker"]) for s in styles.values()}) == 40
    assert style.methods(names) == styles
    some, all_of_them = style.methods(["dgr", "other", "icarl (nme)"]), style.methods(["dgr", "icarl (nme)", *names])
    assert {name: some[name] for name in ("dgr", "icarl (nme)")}.items() <= all_of_them.items()


@pytest.mark.parametrize(("number", "rows"), [(17, 2), (30, 3), (31, 4)])
def test_more_methods_than_a_panel_holds_are_drawn_in_rows(tmp_path, number, rows):
    """Each is coloured in one row, with its band, and grey in the others; a row has a legend of its own."""
    names = [f"method{i:02d}" for i in range(number)]
    for i, name in enumerate(names):
        for protocol, tasks in (("lfs", 5), ("lfh", 2))[: 1 + (i > 0)]:  # one of them has no LFH
            for seed in range(2):
                content = fake.config(name, seed=seed, stream__protocol=protocol, stream__tasks=tasks)
                fake.write_run(tmp_path, content, accuracy=90 - 2 * i)
    figure = drawn(summary.summarise(tmp_path)[1])
    grid = [figure.axes[3 * row : 3 * row + 3] for row in range(rows)]
    assert len(figure.axes) == 3 * rows and not figure.legends
    legends = [[text.get_text() for text in row[2].get_legend().get_texts()] for row in grid]
    assert [name for legend in legends for name in legend] == names  # best first
    assert max(map(len, legends)) <= 10 and max(map(len, legends)) - min(map(len, legends)) <= 1
    for row, legend in zip(grid, legends, strict=True):
        lfh, lfs = ([line for line in axis.lines if line.get_color() != lines.BEHIND["color"]] for axis in row[:2])
        assert (len(lfh), len(lfs)) == (len(legend) - ("method00" in legend), len(legend))
        assert (len(row[0].lines), len(row[1].lines)) == (number - 1, number)
        assert len(row[1].collections) == len(legend)  # bands
        assert row[0].get_ylim() == grid[0][0].get_ylim()
    assert "Grey: the methods of the other rows." in figure.get_supxlabel()
    figure.draw_without_rendering()
    for row in grid:
        assert row[2].get_legend().get_window_extent().x1 <= figure.bbox.x1


def test_a_row_has_the_settings_of_its_methods_only(tmp_path):
    for i in range(17):
        fake.write_run(tmp_path, fake.config(f"method{i:02d}"), accuracy=90 - 2 * i)
    for rho in (10, 50):
        fake.write_run(tmp_path, fake.config("method16", stream__rho=rho), accuracy=58)
    shown = [axis for axis in drawn(summary.summarise(tmp_path)[1]).axes if axis.get_visible() and axis.get_title()]
    assert [axis.get_title().split("rho=")[1] for axis in shown] == ["100", "10", "50", "100"]


@pytest.mark.parametrize("number", [12, 16])
def test_the_legend_of_many_methods_fits(tmp_path, number):
    names = ["balanced_softmax" if i == 0 else f"method{i}" for i in range(number)]
    fake.build(tmp_path, {name: ["head"] for name in names}, protocols=(("lfs", 5),), seeds=1)
    figure = drawn(summary.summarise(tmp_path)[1])
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    panel = figure.axes[0].get_window_extent()
    assert legend.x0 >= panel.x1 and legend.x1 <= figure.bbox.x1
    assert legend.y0 >= 0 and legend.y1 <= figure.bbox.y1


def test_the_legend_is_best_first_or_in_the_given_order(tmp_path):
    for name, accuracy in (("low", 10), ("high", 90), ("middle", 50)):
        fake.write_run(tmp_path, fake.config(name), accuracy=accuracy)
    rows = labels.label_rows(summary.summarise(tmp_path)[1])
    assert lines._legend_order(rows, "accuracy_seen", (), False) == ["high", "middle", "low"]
    assert lines._legend_order(rows, "accuracy_seen", ("low",), False) == ["low", "high", "middle"]


def test_drawing_touches_no_global_state(results, tmp_path):
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    _, curves = summary.summarise(results)
    figures.forgetting_curves(curves, tmp_path / "x")
    assert dict(matplotlib.rcParams) == before and matplotlib.get_backend() == backend


def test_a_single_experience_has_accuracy_but_no_forgetting_to_draw(tmp_path):
    fake.write_run(tmp_path, fake.config("joint", tasks=1))
    assert [path.name for path in figures.write_figures(tmp_path)] == ["accuracy.png", "accuracy.pdf"]


def test_what_cannot_be_drawn_is_one_clear_sentence(tmp_path):
    fake.write_run(tmp_path, fake.config("replay"), finished=False)
    assert figures.write_figures(tmp_path) == []
    with pytest.raises(UserError, match="no finished run"):
        figures.accuracy_curves(summary.summarise(tmp_path)[1], tmp_path / "x")
    fake.write_run(tmp_path, fake.config("replay", seed=1), precision="bf16")
    with pytest.raises(UserError, match='no metric "speed"'):
        figures.accuracy_curves(summary.summarise(tmp_path)[1], tmp_path / "x", metric="speed")
    fake.write_run(tmp_path, fake.config("replay", seed=2), precision="fp32")
    with pytest.raises(UserError, match="mixes runs with precision"):
        figures.write_figures(tmp_path)
