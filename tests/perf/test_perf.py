"""What `make perf` writes becomes a table and a plot; what it measures is not tested here (see `make perf`)."""

import subprocess
import sys

import pytest

from benchmark.errors import UserError
from benchmark.figures import style
from benchmark.perf.__main__ import PARTS
from benchmark.perf.ceiling import training_operations
from benchmark.perf.clock import interleave, interval, ratio
from benchmark.perf.concurrent import runs_at_once
from benchmark.perf.plot import growth
from benchmark.perf.tables import FIGURES, TABLES, speed_tables
from benchmark.storage.files import write_json

MACHINE = {"machine": {"processor": "a test"}}
THOUSAND = {
    "what": "1,000 classes; peak memory at the end over that at experience 10",
    "mode": "fp32",
    "environment": MACHINE,
    "peak_ratio": 1.25,
    "steps": [
        {"experience": 1, "train_seconds": 2.0, "images": 400, "eval_seconds": 0.5, "peak_bytes": 2**30},
        {"experience": 2, "train_seconds": 3.0, "images": 1000, "eval_seconds": 1.0, "peak_bytes": 2**31},
    ],
}


def test_growth_is_per_experience():
    """Images and seconds are those of the experience alone."""
    seconds, image, memory = growth(THOUSAND).axes
    assert [line.get_ydata().tolist() for line in seconds.lines] == [[2.0, 3.0], [0.5, 1.0]]
    assert image.lines[0].get_ydata().tolist() == [5000.0, 3000.0]
    assert memory.lines[0].get_ydata().tolist() == [1024, 2048]


def test_a_plot_is_linked_where_there_is_one(tmp_path):
    write_json(tmp_path / "perf/thousand-fp32.json", THOUSAND)
    assert "1.25 (fp32, a test)." in speed_tables(tmp_path, "perf") and "![" not in speed_tables(tmp_path, "perf")
    style.save(growth(THOUSAND), tmp_path / "perf/thousand-fp32")
    assert "](perf/thousand-fp32.png)" in speed_tables(tmp_path, "perf")


def test_the_busiest_measurement_is_named(tmp_path):
    row = {"images_per_second": 95.0, "bare_images_per_second": 100.0, "ratio": 0.95, "ratio_range": [0.9, 1.0]}
    for mode, load in (("bf16", 0.1), ("fp32", 0.6)):
        record = {
            "what": "steps",
            "mode": mode,
            "environment": MACHINE,
            "foreign_cores": load,
            "strategies": {"gr": row},
        }
        write_json(tmp_path / f"perf/first-{mode}.json", record)
    text = speed_tables(tmp_path, "perf")
    assert "| fp32 | gr | 95 | 100 | 0.95 (0.90-1.00) |" in text
    assert text.endswith("Steps. a test; other processes kept up to 0.6 cores busy.\n")


def test_the_limit_stands_beside_the_speed_up_where_it_was_measured(tmp_path):
    row = {
        "what": "`replay` here, fp32, against stock",
        "mode": "fp32",
        "environment": MACHINE,
        "train_speedup": 1.2,
        "train_limit": 2.25,
        "eval_speedup": 1.1,
        "end_to_end_speedup": 1.15,
        "end_to_end_range": [1.0, 1.3],
        "compile_seconds": 0.0,
    }
    write_json(tmp_path / "perf/stock-fp32.json", row)
    assert "| fp32 | 1.20 | 2.25 | 1.10 | 1.15 (1.00-1.30) |  |" in speed_tables(tmp_path, "perf")


def test_some_measurements_may_be_shown(tmp_path):
    """A page may show one part of them; a wrong name is one clear sentence."""
    write_json(tmp_path / "perf/thousand-fp32.json", THOUSAND)
    large = {"loader_images_per_second": 480, "training_images_per_second": 5}
    write_json(
        tmp_path / "perf/large-fp32.json", {"what": "the loader", "mode": "fp32", "environment": MACHINE, **large}
    )
    assert speed_tables(tmp_path, "perf").count("- ") == 2
    assert speed_tables(tmp_path, "perf", "large").startswith("- The loader: 480 images a second, against 5 trained")
    assert speed_tables(tmp_path, "perf", "large", "thousand") == speed_tables(tmp_path, "perf")
    with pytest.raises(UserError, match=r'no measurement "larg".*"large"'):
        speed_tables(tmp_path, "perf", "larg")


def test_every_measurement_is_shown():
    assert set(PARTS) == {*TABLES, *FIGURES}


def test_operations_of_a_training_step():
    """ResNet-20 by hand: every convolution once forward, once for its weights, and once for its input but the first."""
    first, full, halved = 16 * 3 * 9 * 32**2, 16 * 16 * 9 * 32**2, 32 * 16 * 9 * 16**2
    shortcut = 32 * 16 * 16**2
    forward = first + 6 * full + 2 * (halved + shortcut + 5 * full)
    assert training_operations("resnet20") == 2 * (3 * forward - first)


def test_rounds_alternate_and_the_first_is_a_warm_up():
    calls: list[str] = []
    times = interleave([lambda: calls.append("a"), lambda: calls.append("b")], rounds=3)
    assert "".join(calls) == "abbaabba" and [len(row) for row in times] == [3, 3]


def test_a_ratio_is_of_rounds_side_by_side():
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == {"ratio": 2.0, "ratio_range": [1.0, 3.0]}


def test_an_interval_is_of_the_median():
    """60 pairs: from the 22nd to the 39th value; at most 21 heads of 60 have a two-sided p below 0.05."""
    found = interval([float(i) for i in range(60)][::-1], [1.0] * 60)
    assert found == {"ratio": 29.5, "interval": [21.0, 38.0], "pairs": 60}


def test_runs_at_once_say_how_busy_the_device_is_where_that_is_known(tmp_path):
    runs = {
        "1": {"images_per_second": 9000.4, "utilisation": 31.2},
        "2": {"images_per_second": 17000, "utilisation": None},
    }
    record = {"what": "at once", "mode": "bf16", "environment": MACHINE, "runs": runs}
    write_json(tmp_path / "perf/concurrent-bf16.json", record)
    (line,) = speed_tables(tmp_path, "perf").splitlines()
    assert line == "- At once; images a second: 9000 (1, 31 % busy), 17000 (2) (bf16, a test)."
    write_json(tmp_path / "perf/concurrent-bf16.json", {**record, "device": "a GPU"})
    assert "(bf16, a GPU)" in speed_tables(tmp_path, "perf")


@pytest.mark.slow
def test_runs_are_measured_at_once():
    found = runs_at_once("fp32", "cpu", seconds=1.0, most=2)["runs"]
    assert list(found) == ["1", "2"] and all(row["images_per_second"] > 0 for row in found.values())


@pytest.mark.slow
def test_a_part_is_measured_and_written(tmp_path):
    command = [sys.executable, "-m", "benchmark.perf", "evaluation", "--mode", "fp32"]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert (tmp_path / "results/perf/evaluation-fp32.json").is_file()
