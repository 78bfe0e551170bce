"""Published numbers: the shipped files, and the comparison with a results folder whose means are known."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from results_folder import build, config, write_run

from benchmark import cli
from benchmark.errors import UserError
from benchmark.results import published
from benchmark.results.summary import summarise
from benchmark.storage.files import read_json, write_json
from benchmark.storage.folder import RunFolder
from benchmark.tables.published import comparison

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shipped() -> list[published.Number]:
    return published.load()


def find(numbers: list[published.Number], **wanted: object) -> list[float]:
    return [n.value for n in numbers if all(getattr(n, key) == value for key, value in wanted.items())]


# --- the files --------------------------------------------------------------------------------------------------------


def test_shipped_numbers_do_not_contradict_each_other(shipped: list[published.Number]) -> None:
    assert len(shipped) > 700
    assert published.contradictions(shipped) == []
    assert published.folder() == ROOT / "results" / "published"


def test_shipped_numbers_are_in_percent_and_named_as_in_our_files(shipped: list[published.Number]) -> None:
    assert all(0 < number.value < 100 for number in shipped)
    assert {number.profile for number in shipped} == {"", "exponential", "conventional"}
    assert all((number.rho == 1) == (number.profile == "conventional") for number in shipped)
    assert {number.protocol for number in shipped if number.tasks} == {"lfs", "lfh"}
    assert {number.classifier for number in shipped if number.strategy} <= {"head", "nme"}


def test_some_numbers_by_hand(shipped: list[published.Number]) -> None:
    """Read off the specification's tables, at the corners of each."""
    shuffled = {"dataset": "cifar100", "rho": 100.0, "order": "order_a", "metric": "average_accuracy"}
    assert find(shipped, strategy="dgr", protocol="lfs", tasks=20, **shuffled) == [34.35]
    assert find(shipped, strategy="dgr", protocol="lfh", tasks=5, **shuffled) == [40.18]
    assert find(shipped, method="LUCIR+GPA", protocol="lfh", tasks=10, **shuffled) == [43.66]
    survey = {"paper": "CIL survey (TPAMI 2024)", "metric": "last_accuracy_seen"}
    assert find(shipped, method="WA", tasks=10, **survey) == [52.30]
    assert find(shipped, method="Finetune", tasks=20, **survey) == [4.83]
    aanets = {"paper": "AANets (CVPR 2021)", "metric": "average_accuracy_seen"}
    assert find(shipped, method="LUCIR", dataset="imagenet_full", tasks=25, **aanets) == [56.56]
    coco = {"dataset": "coco", "protocol": "B40-C10", "metric": "last_map"}
    assert find(shipped, method="RebLL", memory_mode="total", **coco) == [76.6]


def test_two_values_of_a_cell_need_their_sources(shipped: list[published.Number]) -> None:
    one = next(number for number in shipped if number.strategy == "lucir")
    other = replace(one, value=one.value + 1, paper="another paper", source="its Table 1")
    assert published.contradictions([one, other]) == []
    assert published.contradictions([one, replace(other, source="")]) == [
        f"{one.setting}, {one.method}, {one.metric}: several values, and a row without a source."
    ]
    slip = published.contradictions([one, replace(one, value=one.value + 1)])
    assert len(slip) == 1 and f"{one.source} gives [{one.value}, {one.value + 1}] for {one.paper}." in slip[0]
    assert published.contradictions([one, replace(one, method="another", value=1.0)]) == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (",read,", ",remembered,", 'provenance "remembered" is none of read, secondary, unverified'),
        ("CIL survey (TPAMI 2024), Table II", "", "needs its source"),
        ("17.59", "seventeen", "could not convert"),
        ("paper,table", "paper,place", "does not have the columns"),
    ],
)
def test_a_wrong_file_is_named(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    header, *lines = (ROOT / "results" / "published" / "balanced.csv").read_text().splitlines()
    line = next(line for line in lines if ",17.59," in line)
    text = f"{header}\n{line}\n".replace('"CIL survey (TPAMI 2024), Table II"', "CIL survey (TPAMI 2024); Table II")
    old = old.replace(", Table", "; Table")
    assert old in text
    (tmp_path / "mine.csv").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")) as caught:
        published.load(tmp_path)
    assert "mine.csv" in str(caught.value)


# --- beside ours ------------------------------------------------------------------------------------------------------

SHUFFLED = {"dataset__classes": None, "stream__order": "order_a"}


def results(root: Path, *runs: tuple[dict, tuple[str, ...], int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The comparison of runs of (config, classifiers, accuracy in percent) on all 100 classes."""
    for content, classifiers, accuracy in runs:
        name = write_run(root, content, classifiers, accuracy=accuracy)
        path = RunFolder(root / "runs" / name).stream
        write_json(path, {**read_json(path), "class_order": list(range(100))})
    summary, _ = summarise(root)
    return comparison(summary, dict.fromkeys(summary["run"], 100))


def test_difference_and_reasons(tmp_path: Path) -> None:
    runs = [
        (config("dgr", "lfh", 5, seed, **SHUFFLED), ("head",), accuracy) for seed, accuracy in enumerate((40, 44, 42))
    ]
    numbers, table = results(tmp_path, *runs)
    row = numbers[(numbers["metric"] == "average_accuracy") & (numbers["published"] == 40.18)].iloc[0]
    assert row["ours"] == pytest.approx(42) and row["sd"] == pytest.approx(2) and row["n"] == 3
    assert row["difference"] == pytest.approx(1.82)
    assert (row["provenance"], row["paper"]) == ("secondary", "GR (CVPR 2024)")
    assert row["over_tasks"] == pytest.approx(42)
    reasons = row["reasons"].split("; ")
    assert "augmentation resized_crop there, crop here" in reasons
    assert "hold-out 0.1 there, 0 here" in reasons
    assert any(reason.startswith("averaging not stated there") for reason in reasons)
    assert not [reason for reason in reasons if reason.startswith(("memory", "backbone", "epochs", "class order"))]
    shown = table[table["published"] == "40.18 *"].iloc[0]
    assert shown["ours"] == "42.00 ± 2.00" and shown["difference"] == "+1.82"
    place = shown["may differ by"].split(", ")[0]
    assert f"{place}: augmentation resized_crop there, crop here." in table.attrs["notes"]


def test_memory_epochs_and_backbone_are_reasons(tmp_path: Path) -> None:
    changes = {"memory__budget": 2000, "memory__mode": "total", "training__epochs": 8, "training__backbone": "resnet18"}
    numbers, _ = results(tmp_path, (config("dgr", "lfh", 5, **SHUFFLED, **changes), ("head",), 40))
    (reasons,) = numbers.loc[numbers["published"] == 40.18, "reasons"]
    assert "memory 20 per class there, 2000 in total here" in reasons
    assert "epochs 160 there, 8 here" in reasons and "backbone resnet32 there, resnet18 here" in reasons


def test_what_a_source_leaves_open_is_said(tmp_path: Path) -> None:
    numbers, _ = results(tmp_path, (config("lucir_adaprior", "lfs", 10, **SHUFFLED), ("head",), 40))
    (row,) = numbers.to_dict("records")
    assert row["published"] == 36.94 and row["over_tasks"] != row["over_tasks"]  # equal experiences: one average
    assert "not stated there: epochs, augmentation, hold-out, ranks" in row["reasons"]
    assert "class order shuffled there, order_a here" in row["reasons"]


def test_an_unverified_number_is_marked_and_no_target(tmp_path: Path) -> None:
    numbers, table = results(tmp_path, (config("podnet", "lfh", 5, **SHUFFLED), ("head",), 40))
    doubtful = numbers[numbers["provenance"] == "unverified"]
    assert doubtful["published"].tolist() == [34.64] and doubtful["difference"].isna().all()
    assert numbers.loc[numbers["provenance"] == "secondary", "difference"].notna().all()
    (difference,) = table.loc[table["published"] == "34.64 ?", "difference"]
    assert difference == "–"
    assert any("?: unverified" in note for note in table.attrs["notes"])


@pytest.mark.parametrize(
    "changes",
    [{"stream__rho": 50.0}, {"stream__order": "ordered"}, {"stream__profile": "step"}, {"dataset__name": "cifar10"}],
)
def test_another_stream_is_not_compared(changes: dict, tmp_path: Path) -> None:
    base = config("dgr", "lfh", 5, **{**SHUFFLED, **changes})
    numbers, _ = results(tmp_path, (base, ("head",), 40))
    assert 40.18 not in set(numbers["published"])
    assert {52.32} <= set(numbers["published"]) if "stream__order" in changes else numbers.empty


def test_a_part_of_the_classes_and_another_classifier_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, config("dgr", "lfh", 5, **SHUFFLED), accuracy=40)
    summary, _ = summarise(tmp_path)
    assert comparison(summary, dict.fromkeys(summary["run"], 20))[0].empty
    balanced = {"stream__profile": "conventional", "stream__rho": 1.0}
    numbers, _ = results(tmp_path / "b", (config("icarl", "lfs", 10, **SHUFFLED, **balanced), ("head", "nme"), 40))
    assert set(numbers["method"]) == {"icarl (nme)"}


def test_the_command_writes_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    results(tmp_path, (config("dgr", "lfh", 5, **SHUFFLED), ("head",), 40))
    assert cli.main(["compare", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Published numbers beside ours" in out and "40.18 *" in out and "+1.82" not in out
    written = pd.read_csv(tmp_path / "tables" / "published.csv")
    assert {"ours", "published", "difference", "source", "reasons"} <= set(written.columns)
    assert "may differ by" in (tmp_path / "tables" / "published.md").read_text()
    assert r"\begin{table}" in (tmp_path / "tables" / "published.tex").read_text()


def test_the_command_says_when_nothing_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tmp_path, seeds=1)
    assert cli.main(["compare", str(tmp_path)]) == 0
    assert "No published number is of these streams and methods: cifar100 (0 classes) LFH-2" in capsys.readouterr().out
    assert not (tmp_path / "tables").exists()
    shutil.rmtree(tmp_path / "runs")
    assert cli.main(["compare", str(tmp_path)]) == 2


def test_list_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "published"]) == 0
    out = capsys.readouterr().out
    assert "GR (CVPR 2024)" in out and "PyCIL" in out and "7 unverified" in " ".join(out.split())
