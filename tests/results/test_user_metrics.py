"""A metric of one's own: a function of a finished run."""

import re
from pathlib import Path

import numpy as np
import pytest
import results_folder as fake

from benchmark.cli import main
from benchmark.errors import UserError
from benchmark.results import summary
from benchmark.results.user_metrics import NotKept, load_metric, run_data, with_metric
from benchmark.storage import folder
from benchmark.tables import tables

ROOT = Path(__file__).resolve().parents[2]


def worst_class(run):
    """Recall of the worst class after the last experience.

    More on it.
    """
    return (run.confusion.diagonal() / run.confusion.sum(axis=1)).min()


def test_a_run_holds_what_its_files_hold(tmp_path):
    name = fake.write_run(tmp_path, fake.config("icarl"), ["head", "nme"], details=True)
    head, nme = run_data(tmp_path / "runs")
    assert (head.name, head.classifier, nme.classifier) == (name, "head", "nme")
    assert head.config["strategy"] == {"name": "icarl"} and sum(head.stream["sizes"]) == 20
    assert len(nme.records) == 5 and nme.records[2]["correct"].shape == (12,)
    result = folder.read_json(head.path / "result.json")["classifiers"]["head"]
    assert head.summary == result["summary"]
    np.testing.assert_equal(head.curves["forgetting"], [float("nan"), *result["curves"]["forgetting"][1:]])
    np.testing.assert_array_equal(head.confusion.diagonal(), head.records[-1]["correct"])
    np.testing.assert_array_equal(head.confusion.sum(axis=1), head.records[-1]["total"])
    assert sum(head.memory_held) == 325


def test_what_a_run_does_not_keep_is_an_empty_cell(tmp_path):
    fake.write_run(tmp_path, fake.config("lwf"), accuracy=40, details=True)
    fake.write_run(tmp_path, fake.config("bare"), accuracy=40)
    for run in run_data(tmp_path / "runs"):
        if run.name.find("bare") > 0:
            for attribute in ("confusion", "records"):
                with pytest.raises(NotKept, match=run.name):
                    getattr(run, attribute)
    table = tables.main_table(summary.summarise(tmp_path)[0], worst_class)
    assert table["LFS-5"].to_dict() == {"lwf": "40.00", "bare": "–"}
    assert table.attrs["title"] == "Recall of the worst class after the last experience (worst_class). In percent."


def test_a_function_is_a_metric_everywhere(tmp_path):
    for seed in range(6):
        for method, accuracy in (("base", 20), ("up", 40)):
            fake.write_run(tmp_path, fake.config(method, seed=seed), accuracy=accuracy + seed, details=True)
    frame, _ = summary.summarise(tmp_path)
    assert tables.main_table(frame, metric=worst_class).loc["up", "LFS-5"] == "42.50 ± 1.87"
    assert tables.differences_table(frame, "base", worst_class).loc["up", "verdict"] == "better"
    assert tables.ranks_table(frame, worst_class).index.tolist() == ["up", "base"]
    assert "worst_class" not in frame.columns and frame.attrs == summary.summarise(tmp_path)[0].attrs


def test_lower_is_better_when_the_function_says_so(tmp_path):
    def lost(run):
        return 1 - worst_class(run)

    for method, accuracy in (("bad", 20), ("good", 40)):
        fake.write_run(tmp_path, fake.config(method), accuracy=accuracy, details=True)
    frame, _ = summary.summarise(tmp_path)
    assert tables.main_table(frame, lost).index.tolist() == ["bad", "good"]
    lost.lower_is_better = True
    table = tables.main_table(frame, lost)
    assert table.index.tolist() == ["good", "bad"] and table.attrs["title"] == "Lost (lost). In percent."


def test_a_mistake_in_a_metric_is_one_clear_sentence(tmp_path):
    fake.write_run(tmp_path, fake.config("lwf"), details=True)
    frame, _ = summary.summarise(tmp_path)

    def broken(run):
        return run.curves["speed"]

    def forgetting(run):
        return 0.0

    def a_word(run):
        return "high"

    def nothing(run):
        pass

    with pytest.raises(UserError, match=r"broken failed on .*KeyError: 'speed' \(test_user_metrics\.py, line \d+\)\.$"):
        tables.main_table(frame, broken)
    with pytest.raises(UserError, match=r"metric a_word failed on .*: it returned 'high', not a number\.$"):
        tables.main_table(frame, a_word)
    with pytest.raises(UserError, match=r"metric nothing failed on .*: it returned None, not a number\.$"):
        tables.main_table(frame, nothing)
    with pytest.raises(UserError, match='column "forgetting" already'):
        tables.main_table(frame, forgetting)
    frame.attrs.clear()
    with pytest.raises(UserError, match="needs the run folders"):
        with_metric(frame, worst_class)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "f", "does not exist"),
        ("def f(run: return 1", "f", "cannot be imported: SyntaxError"),
        ("import nothing_of_this_name", "f", "cannot be imported: ModuleNotFoundError"),
        ("f = 3", "f", 'has no function "f"'),
        ("", "g", 'has no function "g"'),
    ],
)
def test_a_metric_file_that_cannot_be_used_is_one_clear_sentence(tmp_path, content, name, message):
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_metric(f"{path}:{name}")


def test_every_class_after_each_experience_on_request(tmp_path, capsys):
    import pandas as pd

    stream = {"class_names": [f"=class {c}" for c in range(20)], "class_order": list(range(19, -1, -1))}
    name = fake.write_run(tmp_path, fake.config("icarl"), ["head", "nme"], details=True)
    fake.write_run(tmp_path, fake.config("bare"), accuracy=40)  # keeps no counts
    path = tmp_path / "runs" / name / "stream.json"
    whole = {**folder.read_json(path), **stream}
    folder.write_json(path, whole)
    assert main(["table", str(tmp_path), "--per-class"]) == 0
    assert "per_class.csv" in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "per_class.csv")
    folder.write_json(path, {"sizes": [20]})
    assert main(["table", str(tmp_path), "--per-class"]) == 2
    assert "stream.json does not describe the classes" in capsys.readouterr().err
    folder.write_json(path, whole)
    assert len(rows) == 2 * (4 + 8 + 12 + 16 + 20) and set(rows["run"]) == {name}
    nme = next(run for run in run_data(tmp_path / "runs") if run.classifier == "nme")
    row = rows[(rows["classifier"] == "nme") & (rows["experience"] == 3) & (rows["arrival"] == 9)].squeeze()
    expected = nme.records[3]
    assert (row["correct"], row["total"]) == (expected["correct"][9], expected["total"][9])
    assert (row["label"], row["arrives"], row["images"]) == (10, 2, nme.stream["profile_counts"][9])
    assert row["class"] == "'=class 9"  # a spreadsheet would compute it


def test_the_example_of_the_readme_works(tmp_path, capsys, monkeypatch):
    """`imcil table DIR --metric mine.py:…` and `main_table(rows, metric=…)` with the function as printed."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if "def worst_class" in block]
    (tmp_path / "mine.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs").symlink_to(ROOT / "results" / "reference" / "quick" / "runs")
    assert main(["table", "results", "--metric", "mine.py:worst_class"]) == 0
    assert "worst_class" in capsys.readouterr().out
    frame, _ = summary.summarise("results")
    table = tables.main_table(frame, metric=load_metric("mine.py:worst_class"))
    assert table.loc["finetune", "LFS-5"] == "0.00 ± 0.00" and not table.loc["dgr", "LFS-5"].startswith("0.00")
