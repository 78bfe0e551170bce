"""Tables that compare, and those beside the main one: groups, old and new, memory; bold; damaged folders."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import results_folder as fake

from benchmark import pages
from benchmark.cli import main
from benchmark.errors import UserError
from benchmark.results import summary
from benchmark.storage import folder
from benchmark.tables import comparisons, render, tables

ROOT = Path(__file__).resolve().parents[2]


def results(root, accuracies, **kwargs):
    """Runs of each method with the given recalls (percent), one seed each; returns the summary."""
    for method, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            fake.write_run(root, fake.config(method, seed=seed), accuracy=accuracy, **kwargs)
    return summary.summarise(root)[0]


BASE = np.arange(20, 28)


# --- differences


def test_differences_by_setting_then_best_first(tmp_path):
    frame = results(tmp_path, {"base": BASE, "up": BASE + 20, "down": BASE - 5})
    table = tables.differences_table(frame, "base")
    assert table.index.tolist() == ["up", "down"] and table.index.name == "method"
    assert table.loc["up"].to_dict() == {
        "setting": "LFS-5",
        "difference": "+20.00",
        "95 % interval": "20.00 to 20.00",
        "pairs": "8",
        "smallest p": "0.0078",
        "p": "0.0078",
        "p (Holm)": "0.0156",
        "verdict": "better",
    }
    assert table.loc["down", "difference"] == "-5.00" and table.loc["down", "verdict"] == "worse"
    assert "paired t" in table.attrs["notes"][1] and "sign-flip" in table.attrs["notes"][2]
    assert "Stream: cifar100" in " ".join(table.attrs["notes"])


def test_lower_is_better_puts_the_lowest_first(tmp_path):
    for method in ("a", "b", "c"):
        for seed in range(2):
            fake.write_run(tmp_path, fake.config(method, seed=seed))
    table = tables.differences_table(summary.summarise(tmp_path)[0], "a", "forgetting")
    assert table["difference"].astype(float).is_monotonic_increasing
    assert "lower is better" in table.attrs["notes"][0]


def test_rows_without_a_pair_are_named_below(tmp_path):
    results(tmp_path, {"base": (40, 50, 60), "some": (50, 60)})
    fake.write_run(tmp_path, fake.config("never"), finished=False)
    table = tables.differences_table(summary.summarise(tmp_path)[0], "base")
    assert table.loc["some", "verdict"] == "too few pairs" and table.loc["some", "pairs"] == "2"
    assert "Without a pair so far: never (LFS-5)." in table.attrs["notes"]


def test_one_pair_has_a_difference_and_no_interval(tmp_path):
    table = tables.differences_table(results(tmp_path, {"base": (40,), "other": (50,)}), "base")
    assert table.loc["other", ["difference", "95 % interval", "pairs"]].tolist() == ["+10.00", "–", "1"]


def test_a_baseline_is_a_row_or_the_only_row_of_a_strategy(tmp_path):
    for seed in range(2):
        fake.write_run(tmp_path, fake.config("icarl", seed=seed), ["head", "nme"], accuracy=50)
        fake.write_run(tmp_path, fake.config("lwf", seed=seed), ["nme"], accuracy=50)
    frame, _ = summary.summarise(tmp_path)
    assert comparisons.find_baseline(frame, "lwf") == "lwf (nme)"
    assert comparisons.find_baseline(frame, "icarl (head)") == "icarl (head)"
    with pytest.raises(UserError, match=r"several rows; name one of them: icarl \(head\), icarl \(nme\)"):
        comparisons.find_baseline(frame, "icarl")
    with pytest.raises(UserError, match=r'"lfw" has no finished run.*lwf \(nme\)'):
        comparisons.find_baseline(frame, "lfw")


# --- ranks and variance


def test_ranks_say_what_they_are_averaged_over(tmp_path):
    frame = results(tmp_path, {"low": BASE, "high": BASE + 20, "gaps": BASE[:3]})
    numbers, table = comparisons.ranks_table(frame)
    assert table["average rank"].to_dict() == {"high": "1.00", "low": "2.00"}
    assert table.loc["high", "interquartile mean"] == "43.50" and numbers["blocks"].tolist() == [8, 8]
    text = " ".join(table.attrs["notes"])
    assert "8 blocks" in text and "Critical difference 0.69" in text and "missing: gaps; 0 blocks" in text


def test_ranks_have_one_row_a_method_and_no_bound(tmp_path):
    for seed in (0, 1):
        for strategy, accuracy in (("replay", 30), ("joint_bsce", 60)):
            fake.write_run(tmp_path, fake.config(strategy, seed=seed), accuracy=accuracy + seed)
        fake.write_run(tmp_path, fake.config("icarl", seed=seed), ("head", "nme"), accuracy=40)
    _, table = comparisons.ranks_table(summary.summarise(tmp_path)[0])
    assert table["average rank"].to_dict() == {"icarl (nme)": "1.00", "replay": "2.00"}


def test_variance_shares_of_every_setting(tmp_path):
    frame = results(tmp_path, {"low": BASE, "high": BASE + 20})
    table = tables.variance_table(frame)
    assert table.index.tolist() == ["LFS-5"] and table.index.name == "setting"
    assert table.columns.tolist() == ["over", "method", "order", "seed", "method x order", "rest"]
    assert table.loc["LFS-5", "over"] == "2 methods x 8 runs"
    assert table.loc["LFS-5", "method"].startswith("95.0 %") and table.loc["LFS-5", "rest"] == "–"
    assert "cannot be told apart" in " ".join(table.attrs["notes"])
    assert render.to_markdown(table).splitlines()[2].startswith("| setting |")


def test_too_few_runs_are_one_clear_sentence(tmp_path):
    frame = results(tmp_path, {"alone": (40, 50)})
    for build in (tables.ranks_table, tables.variance_table):
        with pytest.raises(UserError, match="two methods"):
            build(frame)


def test_one_run_each_has_no_variance_to_split(tmp_path):
    frame = results(tmp_path, {"low": (40,), "high": (60,)})
    with pytest.raises(UserError, match="the same two runs"):
        tables.variance_table(frame)


# --- beside the main table


def test_old_and_new_accuracy_stand_side_by_side(tmp_path):
    table = tables.old_new_table(results(tmp_path, {"lwf": (40, 60)}))
    assert table.columns.tolist() == [("LFS-5", "old"), ("LFS-5", "new")]
    assert table.loc["lwf"].tolist() == ["50.00 ± 14.14"] * 2


def test_memory_is_counted_in_images(tmp_path):
    table = tables.memory_table(results(tmp_path, {"lwf": (40, 60)}))
    assert table.loc["lwf", "LFS-5"] == "325 ± 0" and "In images" in table.attrs["title"]


def test_mean_per_class_accuracy_stands_beside_where_the_test_set_is_not_balanced(tmp_path):
    balanced = results(tmp_path / "balanced", {"lwf": (40, 60)})
    assert tables.is_balanced(balanced)
    assert "class_mean" not in {
        p.stem for p in tables.write_all_tables(tables.tables_folder(tmp_path / "balanced"), balanced)
    }
    for seed in range(2):
        fake.write_run(tmp_path, fake.config("lwf", seed=seed), totals=np.arange(20, 220, 10))
    frame, _ = summary.summarise(tmp_path)
    assert not tables.is_balanced(frame) and "not balanced" in tables.main_table(frame).attrs["notes"][1]
    written = tables.write_all_tables(tables.tables_folder(tmp_path), frame)
    assert tmp_path / "tables" / "class_mean.md" in written
    table, cells = tables.class_mean_table(frame), tables.cells(frame, "average_accuracy_class_mean").iloc[0]
    assert table.columns.tolist() == [("LFS-5", "images"), ("LFS-5", "classes")]
    assert table.loc["lwf", ("LFS-5", "classes")].startswith(f"{100 * cells['mean']:.2f}")
    assert len(set(table.loc["lwf"])) == 2


def test_forgetting_of_groups_comes_from_the_records(tmp_path):
    name = fake.write_run(tmp_path, fake.config("lwf"), details=True)
    fake.write_run(tmp_path, fake.config("bare"))
    frame, _ = summary.summarise(tmp_path)
    table = tables.group_forgetting_table(frame)
    lines = folder.read_jsonl(tmp_path / "runs" / name / "metrics.jsonl")
    recall = [np.array(line["classifiers"]["head"]["correct"]) / 100 for line in lines]
    images = np.array(folder.read_json(tmp_path / "runs" / name / "stream.json")["profile_counts"])
    few = [max(r[c] for r in recall[:-1] if len(r) > c) - recall[-1][c] for c in range(16) if images[c] < 20]
    assert table.loc["lwf", ("LFS-5", "few")] == f"{100 * np.mean(few):.2f}"
    assert table.loc["bare", ("LFS-5", "few")] == "–"
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        tables.group_forgetting_table(frame[frame["strategy"] == "bare"])


# --- bold


def test_the_best_is_bold_only_when_enough_pairs_set_it_apart(tmp_path):
    noisy = BASE + [9, -9] * 4
    frame = results(tmp_path, {"best": BASE + 20, "second": BASE, "third": noisy - 5, "joint": BASE + 40})
    table = tables.main_table(frame)
    assert table.attrs["bold"] == [("best", "LFS-5")] and "runner-up" in table.attrs["notes"][1]
    text = render.to_markdown(table)
    assert f"| **{table.loc['best', 'LFS-5']}** |" in text and text.count("**") == 4  # the title is bold too
    assert r"\textbf{43.50 $\pm$ 2.45}" in render.to_latex(table, "x")
    close = frame[frame["strategy"].isin(["second", "third"])].copy()
    assert tables.main_table(close).attrs["bold"] == []
    few = frame[frame["training_seed"] < 4].copy()
    assert tables.main_table(few).attrs["bold"] == [] and "Bold" not in " ".join(tables.main_table(few).attrs["notes"])


def test_bold_works_below_a_setting(tmp_path):
    frame = results(tmp_path, {"best": BASE + 20, "second": BASE})
    table = tables.old_new_table(frame)
    assert table.attrs["bold"] == [("best", ("LFS-5", "old")), ("best", ("LFS-5", "new"))]
    assert render.to_latex(table, "x").count(r"\textbf") == 2 and render.to_markdown(table).count("**") == 6


# --- the command line


def test_one_table_is_written_and_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    results(tmp_path, {"base": BASE, "up": BASE + 20})
    assert main(["table", str(tmp_path), "--baseline", "base"]) == 0
    assert "+20.00" in capsys.readouterr().out
    numbers = pd.read_csv(tmp_path / "tables" / "average_accuracy_seen_vs_base.csv")
    assert numbers["difference"].tolist() == [pytest.approx(0.2)] and numbers["verdict"].tolist() == ["better"]
    assert r"\toprule" in (tmp_path / "tables" / "average_accuracy_seen_vs_base.tex").read_text()
    assert main(["table", str(tmp_path), "--metric", "few_accuracy"]) == 0
    assert main(["table", str(tmp_path), "--metric", "ranks"]) == 0
    assert {"few_accuracy.md", "ranks.md"} <= {path.name for path in (tmp_path / "tables").iterdir()}
    assert main(["table", str(tmp_path), "--metric", "group"]) == 2
    assert 'no metric or table "group" in these results. Did you mean "groups"?' in capsys.readouterr().err
    assert main(["table", str(tmp_path), "--metric", "mine.py"]) == 2
    assert "write mine.py:FUNCTION." in capsys.readouterr().err
    assert main(["table", str(tmp_path), "--metric", "groups", "--baseline", "base"]) == 2
    assert 'no metric "groups" in these results. Valid choices: ' in capsys.readouterr().err
    assert main(["table", str(tmp_path), "--metric", "few_acuracy"]) == 2
    assert main(["table", str(tmp_path), "--baseline", "other"]) == 2
    assert 'Did you mean "few_accuracy"' in capsys.readouterr().err


def test_tables_of_some_of_the_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    results(tmp_path, {"base": BASE, "up": BASE + 20, "down": BASE - 20})
    some = ["table", str(tmp_path), "strategy=[up, base]", "training.seed=[0, 1, 2]"]
    assert main(some) == 0
    out = capsys.readouterr().out
    assert "n = 3 seeds" in out and "Only runs with strategy=[up, base] and training.seed=[0, 1, 2]." in out
    assert "down" not in out and "Not written: --out FOLDER does that." in out and not (tmp_path / "tables").exists()
    assert main([*some, "--baseline", "base", "--out", str(tmp_path / "two")]) == 0
    (file,) = (tmp_path / "two").glob("*.csv")
    assert pd.read_csv(file)["method"].tolist() == ["up"] and not (tmp_path / "tables").exists()
    assert main([*some, "--out", str(tmp_path / "all")]) == 0
    assert {"average_accuracy_seen.tex", "groups.md"} <= {path.name for path in (tmp_path / "all").iterdir()}
    assert not (tmp_path / "tables").exists() and not (tmp_path / "summary.csv").exists()
    assert tables.load_table(tmp_path, where=["strategy=up"]).index.tolist() == ["up"]
    capsys.readouterr()
    for wrong, sentence in {
        "strategy=[up, bse]": 'No run has strategy.name=bse. Did you mean "base"?',
        "seed=1": '"seed" selects no runs.',
        "--per-class": "--per-class writes DIR/per_class.csv, of all runs",
    }.items():
        assert main([*some, wrong]) == 2
        assert sentence in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["table", str(tmp_path), "--out", str(tmp_path / "file")]) == 2
    assert "--out must be a folder" in capsys.readouterr().err


def test_tables_need_no_torch_and_no_method(tmp_path):
    """With torch, Avalanche and the methods blocked, every table of real results is written."""
    shutil.copytree(ROOT / "results" / "reference" / "quick", tmp_path / "quick")
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'torchvision', 'avalanche', 'strategies'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from benchmark.cli import main\n"
        "sys.exit(main(['table', 'quick']) or main(['table', 'quick', '--baseline', 'dgr'])\n"
        "         or main(['table', 'quick', '--metric', 'ranks']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "quick" / "tables" / "average_accuracy_seen_vs_dgr.md").is_file()


# --- README block


def test_a_block_of_differences(tmp_path):
    results(tmp_path / "results", {"base": BASE, "up": BASE + 20})
    page = "<!-- generated: differences results baseline=base -->\n<!-- end -->\n"
    text = pages.regenerate(page, tmp_path)
    assert "**Paired differences to base." in text and "+20.00 |" in text
    assert pages.regenerate(text, tmp_path) == text
    for options, message in (
        ("", "baseline=ROW"),
        ("base", "baseline=ROW"),
        ("baseline=base lfs", "baseline=ROW"),
        ("baseline=base seed=3", '"seed" selects no runs'),
    ):
        with pytest.raises(UserError, match=message):
            pages.regenerate(f"<!-- generated: differences results {options} -->\n<!-- end -->\n", tmp_path)


# --- damage


def test_a_folder_with_damage_of_every_kind_still_builds_and_says_what_is_missing(tmp_path, capsys):
    for seed in range(3):
        for method in ("lwf", "wa"):
            fake.write_run(tmp_path, fake.config(method, seed=seed), accuracy=40 + 5 * seed, details=True)
    runs = tmp_path / "runs"

    def spoil(name, file, content):
        (runs / name / file).write_bytes(content)

    waiting = fake.write_run(tmp_path, fake.config("wa", seed=3), finished=False)
    failed = fake.write_run(tmp_path, fake.config("wa", seed=4), finished=False)
    folder.write_json(runs / failed / "failure.json", {"kind": "oom", "exception": "MemoryError"})
    partial = fake.write_run(tmp_path, fake.config("lwf", seed=5), details=True)
    (runs / partial / "result.json").unlink()
    torn = fake.write_run(tmp_path, fake.config("lwf", seed=6), details=True)
    spoil(torn, "result.json", (runs / torn / "result.json").read_bytes()[:50])
    newer = fake.write_run(tmp_path, fake.config("lwf", seed=7))
    spoil(newer, "result.json", json.dumps({"format": 99, "complete": True, "classifiers": {}}).encode())
    no_config = fake.write_run(tmp_path, fake.config("lwf", seed=8))
    spoil(no_config, "config.json", b"\x00\xff")
    no_stream = fake.write_run(tmp_path, fake.config("lwf", seed=9), details=True, accuracy=50)
    spoil(no_stream, "stream.json", b"[]")
    spoil(no_stream, "confusion/04.npz", b"PK not a zip")
    lines = (runs / no_stream / "metrics.jsonl").read_bytes().splitlines()
    spoil(no_stream, "metrics.jsonl", b"\n".join([lines[0], b'{"classifiers": 3}', lines[1]]))
    strange = fake.write_run(tmp_path, fake.config("lwf", seed=10, metrics__groups="all", stream__rho=[1]))
    assert strange
    (runs / "a folder of someone").mkdir()
    (runs / "a file.txt").write_text("x")
    (tmp_path / "sweep.json").write_text("{")

    assert main(["table", str(tmp_path)]) == 0
    assert main(["table", str(tmp_path), "--baseline", "lwf"]) in (0, 2)
    assert main(["table", str(tmp_path), "--metric", "group_forgetting"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "2 run folders could not be read" in out and "a folder of someone" in out and "1 failed" in out
    frame, _ = summary.summarise(tmp_path)
    status = dict(zip(frame["run"], frame["status"], strict=True))
    assert status[waiting] == "pending" and status[partial] == "interrupted" and status[no_config] == "damaged"
    assert status[torn] != "done" and status[newer] != "done" and status[no_stream] == "done"


def test_only_damage_still_builds(tmp_path, capsys):
    (tmp_path / "runs" / "nothing").mkdir(parents=True)
    assert main(["table", str(tmp_path)]) == 0
    assert "1 run folder could not be read: nothing." in " ".join(capsys.readouterr().out.split())
    for arguments in (["--baseline", "dgr"], ["--metric", "ranks"], ["--metric", "group_forgetting"]):
        assert main(["table", str(tmp_path), *arguments]) == 2
