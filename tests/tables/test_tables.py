"""Run folders -> summary.csv, curves.csv, tables and the README's blocks."""

import io
import json
import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest
import results_folder as fake

from benchmark import pages
from benchmark.errors import UserError
from benchmark.metrics import multi_label, single_label
from benchmark.metrics.catalogue import WRITTEN
from benchmark.results import summary
from benchmark.storage import folder
from benchmark.storage.records import load_runs
from benchmark.tables import comparisons, render, tables


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    fake.build(root)
    return root


def table_of(root, metric="average_accuracy_seen", **kwargs):
    return tables.load_table(root, metric, **kwargs)


# --- summary.csv and curves.csv

SUMMARY_COLUMNS = [
    "run",
    "status",
    "strategy",
    "classifier",
    "task_kind",
    "dataset",
    "classes",
    "protocol",
    "tasks",
    "profile",
    "rho",
    "max_count",
    "ranks",
    "order",
    "order_seed",
    "subset_seed",
    "rank_seed",
    "training_seed",
    "holdout",
    "memory_mode",
    "memory_budget",
    "memory_held",
    "backbone",
    "augmentation",
    "epochs",
    "precision",
    "compile",
    "average_accuracy_seen",
    "average_accuracy_tasks",
    "average_accuracy_class_mean",
    "last_accuracy_seen",
    "last_accuracy_tasks",
    "last_accuracy_class_mean",
    "forgetting",
    "backward_transfer",
    "many_accuracy",
    "medium_accuracy",
    "few_accuracy",
    "old_accuracy",
    "new_accuracy",
]


def test_summary_has_the_documented_columns_and_one_row_per_run_and_classifier(results):
    frame, curves = summary.summarise(results)
    assert list(frame.columns) == SUMMARY_COLUMNS
    assert len(frame) == 2 * 3 * (1 + 2 + 1)
    row = frame[(frame["strategy"] == "icarl") & (frame["classifier"] == "nme")].iloc[0]
    result = folder.read_json(results / "runs" / row["run"] / "result.json")
    assert row["average_accuracy_seen"] == result["classifiers"]["nme"]["summary"]["average_accuracy_seen"]
    assert (row["memory_held"], row["memory_budget"], row["precision"], row["compile"]) == (325, 20, "bf16", "off")
    lfs = curves[(curves["run"] == row["run"]) & (curves["classifier"] == "nme")]
    assert lfs["accuracy_seen"].tolist() == result["classifiers"]["nme"]["curves"]["accuracy_seen"]
    assert lfs["experience"].tolist() == list(range(len(lfs)))
    assert np.isnan(lfs["forgetting"].iloc[0]) and lfs["num_seen_classes"].iloc[-1] == 20
    assert list(curves.columns)[-len(single_label.CURVES) :] == list(single_label.CURVES)


def test_csv_files_are_byte_identical_when_repeated_and_exact_when_read(results, tmp_path):
    for repeat in ("a", "b"):
        shutil.copytree(results, tmp_path / repeat)
        frame, _ = summary.write_summary(tmp_path / repeat)
    for name in ("summary.csv", "curves.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    again = pd.read_csv(tmp_path / "a" / "summary.csv", float_precision="round_trip")
    np.testing.assert_array_equal(again["average_accuracy_seen"], frame["average_accuracy_seen"])
    text = (tmp_path / "a" / "summary.csv").read_text()
    assert "NaN" not in text and ",20,lfs,5,exponential,100.0,,by_label,shuffled,0,0,0,0,0.0," in text


def test_unfinished_failed_and_damaged_runs_have_a_row_without_metrics(tmp_path):
    done = fake.write_run(tmp_path, fake.config("replay"))
    waiting = fake.write_run(tmp_path, fake.config("replay", seed=1), finished=False)
    failed = fake.write_run(tmp_path, fake.config("replay", seed=2), finished=False)
    folder.write_json(tmp_path / "runs" / failed / "failure.json", {"kind": "oom"})
    (tmp_path / "runs" / "zz-foreign").mkdir()
    frame, curves = summary.summarise(tmp_path)
    status = dict(zip(frame["run"], frame["status"], strict=True))
    assert status == {done: "done", waiting: "pending", failed: "failed", "zz-foreign": "damaged"}
    rows = frame.set_index("run")
    assert rows.loc[waiting, "training_seed"] == 1 and pd.isna(rows.loc[waiting, "precision"])
    assert rows.loc[[waiting, failed, "zz-foreign"], list(single_label.SUMMARY)].isna().all(axis=None)
    assert set(curves["run"]) == {done}
    lines = frame.to_csv(index=False).splitlines()
    assert lines[-1] == "zz-foreign,damaged" + "," * (len(SUMMARY_COLUMNS) - 2)


def test_no_runs_give_empty_frames_with_all_columns(tmp_path):
    (tmp_path / "runs").mkdir()
    frame, curves = summary.write_summary(tmp_path)
    assert list(frame.columns) == SUMMARY_COLUMNS and len(frame) == len(curves) == 0


def test_values_that_are_no_numbers_are_empty_cells(tmp_path):
    name = fake.write_run(tmp_path, fake.config("replay"))
    path = tmp_path / "runs" / name / "result.json"
    result = folder.read_json(path)
    result["classifiers"]["head"]["summary"] |= {"forgetting": "high", "few_accuracy": True, "many_accuracy": None}
    result["classifiers"]["head"]["curves"]["accuracy_seen"] = [0.5, "x", {}]
    result["classifiers"]["odd"] = [1, 2]
    path.write_text(json.dumps(result).replace('"many_accuracy": null', '"many_accuracy": 1e999'))
    frame, curves = summary.summarise(tmp_path)
    head = frame[frame["classifier"] == "head"].iloc[0]
    assert head[["forgetting", "few_accuracy", "many_accuracy"]].isna().all()
    np.testing.assert_equal(curves["accuracy_seen"].tolist(), [0.5] + [float("nan")] * 4)
    assert set(frame["classifier"]) == {"head", "odd"}


def test_paths_of_this_machine_and_long_lists_stay_out_of_the_csv(tmp_path):
    content = fake.config("/home/me/mine.py:Mine", training__backbone="/home/me/net.py:Net", stream__order=[1, 0])
    path = tmp_path / "runs" / "x" / "config.json"
    folder.write_json(path, content)
    frame, _ = summary.summarise(tmp_path)
    assert frame.loc[0, ["strategy", "backbone", "order"]].tolist() == ["Mine", "Net", "custom"]


def test_ten_thousand_runs_are_summarised_quickly(tmp_path):
    name = fake.write_run(tmp_path, fake.config("replay"))
    (record,) = load_runs(tmp_path)
    started = time.process_time()
    for _ in range(200):
        load_runs(tmp_path)
    frame, _ = summary.summarise_runs([record] * 2000)
    elapsed = time.process_time() - started
    assert len(frame) == 2000 and frame["run"].iloc[0] == name
    assert elapsed < 2.0  # 200 loads and 2,000 rows; a tenth of a second on an idle machine


# --- tables


def test_cells_are_mean_and_sample_standard_deviation_over_seeds(tmp_path):
    for seed, accuracy in enumerate((40, 50, 60)):
        fake.write_run(tmp_path, fake.config("replay", seed=seed), accuracy=accuracy)
    frame, _ = summary.summarise(tmp_path)
    cell = tables.cells(frame).iloc[0]
    assert (cell["method"], cell["setting"], cell["n"], cell["expected"]) == ("replay", "LFS-5", 3, 3)
    assert cell["mean"] == pytest.approx(0.5) and cell["sd"] == pytest.approx(0.1)
    assert tables.main_table(frame).loc["replay", "LFS-5"] == "50.00 ± 10.00"
    assert tables.main_table(frame, "forgetting").loc["replay", "LFS-5"] == "0.00 ± 0.00"


def test_one_seed_has_no_standard_deviation(tmp_path):
    fake.write_run(tmp_path, fake.config("replay"), accuracy=40)
    table = table_of(tmp_path)
    assert table.loc["replay", "LFS-5"] == "40.00"
    assert table.attrs["notes"][0] == "One run a cell: no standard deviation."


def test_methods_by_settings_with_one_row_per_classifier(results):
    table = table_of(results)
    assert set(table.index) == {"dgr", "finetune", "icarl (head)", "icarl (nme)"}
    assert list(table.columns) == ["LFH-2", "LFS-5"]
    assert "mean over experiences, base included" in table.attrs["title"]
    assert table.attrs["notes"] == [
        "Mean ± standard deviation (n - 1) over n = 3 seeds (varied: order_seed, training_seed).",
        "Stream: cifar100, 20 classes, LFH-2 / LFS-5, exponential profile, rho 100, ranks by_label, order shuffled, "
        "hold-out 0.",
        "Training: resnet32, augmentation crop, 160 epochs, memory 20 per class, precision bf16, compile off.",
        "Classifier: the network's head, unless the method names another.",
    ]


def test_methods_with_fewer_seeds_than_others_of_their_column_are_named(tmp_path):
    for method, protocol, seeds in (("dgr", "lfs", 4), ("bic", "lfs", 2), ("wa", "lfs", 3), ("wa", "lfh", 3)):
        for seed in range(seeds):
            fake.write_run(tmp_path, fake.config(method, protocol, seed=seed))
    notes = table_of(tmp_path).attrs["notes"]
    assert "n = 2 to 4 seeds" in notes[0]
    assert notes[1].startswith("Fewer seeds than others of their column") and notes[1].endswith("(2: bic; 3: wa).")
    unfinished = fake.config("bic", seed=2)
    fake.write_run(tmp_path, unfinished, finished=False)  # its cell says so itself
    assert table_of(tmp_path).attrs["notes"][2].endswith("(3: wa).")


def test_rows_are_best_first_or_in_the_given_order(tmp_path):
    for name, accuracy in (("low", 10), ("high", 90), ("middle", 50)):
        fake.write_run(tmp_path, fake.config(name), accuracy=accuracy)
    assert list(table_of(tmp_path).index) == ["high", "middle", "low"]
    assert list(table_of(tmp_path, order=["low", "middle"]).index) == ["low", "middle", "high"]


def test_forgetting_is_best_when_low(results):
    frame, _ = summary.summarise(results)
    found = tables.cells(frame, "forgetting").groupby("method")["mean"].mean()
    assert list(tables.main_table(frame, "forgetting").index) == list(found.sort_values().index)


def test_settings_are_ordered_by_size_and_named_by_what_varies(tmp_path):
    for tasks, rho in ((10, 10.0), (5, 10.0), (10, 100.0), (5, 100.0)):
        fake.write_run(tmp_path, fake.config("replay", tasks=tasks, stream__rho=rho), accuracy=50)
    expected = ["LFS-5, rho=10", "LFS-5, rho=100", "LFS-10, rho=10", "LFS-10, rho=100"]
    assert list(table_of(tmp_path).columns) == expected


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({"memory__budget": 5}, ["LFS-5, memory=5", "LFS-5, memory=20"]),
        ({"training__epochs": 2}, ["LFS-5, 2 epochs", "LFS-5, 160 epochs"]),
        ({"stream__order": "order_a"}, ["LFS-5, order order_a", "LFS-5, order shuffled"]),
        ({"dataset__name": "food101"}, ["cifar100 LFS-5", "food101 LFS-5"]),
        ({"stream__holdout": 0.1}, ["LFS-5, holdout=0", "LFS-5, holdout=0.1"]),
    ],
)
def test_runs_of_unlike_protocol_are_never_averaged(tmp_path, change, settings):
    for seed in range(2):
        fake.write_run(tmp_path, fake.config("replay", seed=seed), accuracy=20)
        fake.write_run(tmp_path, fake.config("replay", seed=seed, **change), accuracy=80)
    table = table_of(tmp_path)
    assert list(table.columns) == settings
    assert sorted(table.loc["replay"]) == ["20.00 ± 0.00", "80.00 ± 0.00"]


def test_a_protocol_part_that_only_other_methods_have_goes_to_the_method(tmp_path):
    fake.write_run(tmp_path, fake.config("lwf", memory__budget=0), accuracy=20)
    fake.write_run(tmp_path, fake.config("replay"), accuracy=80)
    table = table_of(tmp_path)
    assert table["LFS-5"].to_dict() == {"replay [memory=20]": "80.00", "lwf [memory=0]": "20.00"}


@pytest.mark.parametrize(
    ("change", "labels"),
    [
        ({"strategy__temperature": 4}, {"lwf [temperature=4]", "lwf [temperature=default]"}),
        ({"training__lr": 0.5}, {"lwf [lr=0.1]", "lwf [lr=0.5]"}),
        ({"training__precision": "fp32"}, {"lwf [precision=auto]", "lwf [precision=fp32]"}),
        ({"memory__selection": "random"}, {"lwf [memory.selection=herding]", "lwf [memory.selection=random]"}),
    ],
)
def test_an_option_that_varies_becomes_part_of_the_method(tmp_path, change, labels):
    for seed in range(2):
        fake.write_run(tmp_path, fake.config("lwf", seed=seed), accuracy=20)
        fake.write_run(tmp_path, fake.config("lwf", seed=seed, **change), accuracy=80)
    assert set(table_of(tmp_path).index) == labels


def test_two_custom_orders_stay_apart_and_the_data_path_does_not_matter(tmp_path):
    fake.write_run(tmp_path, fake.config("lwf", stream__order=[0, 1]), accuracy=20)
    fake.write_run(tmp_path, fake.config("lwf", stream__order=[1, 0]), accuracy=80)
    assert len(table_of(tmp_path).index) == 2
    other = tmp_path / "other"
    fake.write_run(other, fake.config("lwf"), accuracy=20)
    fake.write_run(other, fake.config("lwf", seed=1, dataset__root="/elsewhere"), accuracy=80)
    assert list(table_of(other).index) == ["lwf"]


def test_mixed_precision_is_refused(tmp_path):
    fake.write_run(tmp_path, fake.config("replay", seed=0), precision="bf16")
    fake.write_run(tmp_path, fake.config("replay", seed=1), precision="fp32")
    with pytest.raises(UserError, match=r"replay on LFS-5 mixes runs with precision bf16 and fp32"):
        table_of(tmp_path)
    frame, _ = summary.summarise(tmp_path)
    assert len(tables.main_table(frame[frame["precision"] == "fp32"])) == 1


def test_unlike_precision_between_methods_is_shown(tmp_path):
    fake.write_run(tmp_path, fake.config("replay"), precision="bf16")
    fake.write_run(tmp_path, fake.config("wa"), precision="bf16")
    fake.write_run(tmp_path, fake.config("lwf"), precision="fp32")
    notes = table_of(tmp_path).attrs["notes"]
    assert "precision bf16 / fp32" in notes[-2]
    assert "Unlike precision may be part of a difference (fp32: lwf; all others: bf16)." in notes
    fake.write_run(tmp_path, fake.config("lwf", stream__protocol="lfh"), precision="bf16")
    notes = table_of(tmp_path).attrs["notes"]
    assert "Unlike precision may be part of a difference (fp32: lwf LFS-5; all others: bf16)." in notes


def test_numbers_of_classes_and_images_are_told_apart_and_named(tmp_path):
    for classes, most in ((None, 500), ([3, 1, 4, 15], 500), (10, 300)):
        fake.write_run(tmp_path, fake.config("lwf", dataset__classes=classes, stream__max_count=most))
    table = table_of(tmp_path)
    assert table.index.tolist() == ["lwf"] and table.columns.tolist() == [
        "LFS-5, 4 classes, max_count=500",
        "LFS-5, 10 classes, max_count=300",
        "LFS-5, all classes, max_count=500",
    ]
    assert "cifar100, 4 / 10 classes, LFS-5" in table.attrs["notes"][-3]
    assert "at most 300 / 500 images a class" in table.attrs["notes"][-3]


def test_unlike_classes_of_one_number_are_not_averaged(tmp_path):
    for seed, classes in enumerate(([0, 1, 2], [3, 4, 5], 3)):
        fake.write_run(tmp_path, fake.config("lwf", seed=seed, dataset__classes=classes))
    assert len(table_of(tmp_path)) == 3


def test_a_method_with_runs_in_a_hard_setting_is_no_worse_for_it(tmp_path):
    for strategy, protocol, accuracy in (("dgr", "lfs", 50), ("lwf", "lfs", 40), ("dgr", "lfh", 10), ("wa", "lfh", 5)):
        fake.write_run(tmp_path, fake.config(strategy, protocol), accuracy=accuracy)
    assert table_of(tmp_path).index.tolist() == ["dgr", "wa", "lwf"]


def test_written_tables_name_what_could_not_be_read(tmp_path):
    fake.write_run(tmp_path, fake.config("lwf"))
    (tmp_path / "runs" / "zz-foreign").mkdir()
    tables.write_all_tables(tables.tables_folder(tmp_path), summary.summarise(tmp_path)[0])
    for name in ("average_accuracy_seen", "memory"):
        assert "1 run folder could not be read: zz-foreign." in (tmp_path / "tables" / f"{name}.md").read_text()


def test_exemplars_are_no_percent(results):
    assert table_of(results, "memory_held").equals(tables.memory_table(summary.summarise(results)[0]))


def test_runs_with_the_same_seeds_are_refused_without_the_options_that_tell_them_apart(tmp_path):
    fake.write_run(tmp_path, fake.config("lwf"))
    fake.write_run(tmp_path, fake.config("lwf", training__lr=0.5))
    frame, _ = summary.summarise(tmp_path)
    frame.attrs.clear()
    with pytest.raises(UserError, match="same seeds"):
        tables.main_table(frame)


def test_cells_say_what_is_missing(tmp_path):
    for seed in range(3):
        fake.write_run(tmp_path, fake.config("lwf", seed=seed), accuracy=50)
        fake.write_run(tmp_path, fake.config("icarl", seed=seed), ["head", "nme"], 50, finished=seed < 2)
        name = fake.write_run(tmp_path, fake.config("wa", seed=seed), accuracy=50, finished=seed < 1)
        if seed == 2:
            folder.write_json(tmp_path / "runs" / name / "failure.json", {"kind": "oom"})
        fake.write_run(tmp_path, fake.config("bic", seed=seed), finished=False)
    table = table_of(tmp_path)
    assert table["LFS-5"].to_dict() == {
        "lwf": "50.00 ± 0.00",
        "icarl (head)": "50.00 ± 0.00 (2/3)",
        "icarl (nme)": "50.00 ± 0.00 (2/3)",
        "wa": "50.00 (1/3, 1 failed)",
        "bic": "– (0/3)",
    }
    assert "n = 3 seeds" in table.attrs["notes"][0] and "a of the b runs" in table.attrs["notes"][1]


def test_without_a_complete_cell_the_note_counts_what_there_is(tmp_path):
    for strategy, done in (("lwf", 2), ("wa", 1), ("bic", 0)):
        for seed in range(3):
            fake.write_run(tmp_path, fake.config(strategy, seed=seed), accuracy=50, finished=seed < done)
    assert "n = 1 to 2 seeds" in table_of(tmp_path).attrs["notes"][0]


def test_planned_runs_without_a_folder_are_counted(tmp_path):
    names = fake.build(tmp_path, {"lwf": ["head"], "wa": ["head"]})
    for name in names[:5]:
        shutil.rmtree(tmp_path / "runs" / name)
    table = table_of(tmp_path)
    assert table.loc["lwf", "LFS-5"] == "– (0/3)" and table.loc["lwf", "LFH-2"].endswith("(1/3)")
    assert not table.loc["wa"].str.contains(r"\(").any()
    frame, _ = summary.summarise(tmp_path)
    assert frame["run"].tolist() == sorted(frame["run"]) and (frame["status"] == "pending").sum() == 5


@pytest.mark.parametrize("content", ["", "[]", '{"runs": ["a"]}', '{"runs": {"a": 3}}', '{"runs": {'])
def test_a_strange_plan_does_no_harm(tmp_path, content):
    fake.write_run(tmp_path, fake.config("replay"), accuracy=50)
    (tmp_path / "sweep.json").write_text(content)
    assert table_of(tmp_path)["LFS-5"].to_dict() == {"replay": "50.00"}


def test_a_metric_without_value_is_a_dash(tmp_path):
    name = fake.write_run(tmp_path, fake.config("replay"))
    path = tmp_path / "runs" / name / "result.json"
    result = folder.read_json(path)
    result["classifiers"]["head"]["summary"]["few_accuracy"] = None
    folder.write_json(path, result)
    table = table_of(tmp_path, "groups")
    assert table.loc["replay", ("LFS-5", "few")] == "–" and table.loc["replay", ("LFS-5", "many")] != "–"


def test_an_unknown_metric_is_one_clear_sentence(results):
    with pytest.raises(UserError, match=r'no metric "acuracy".*average_accuracy_seen'):
        table_of(results, "acuracy")


def test_groups_follow_their_settings(results):
    table = table_of(results, "groups")
    assert table.columns.tolist() == [(s, g) for s in ("LFH-2", "LFS-5") for g in ("many", "medium", "few")]
    frame, _ = summary.summarise(results)
    cell = tables.cells(frame, "few_accuracy").set_index(["method", "setting"]).loc[("dgr", "LFS-5")]
    assert table.loc["dgr", ("LFS-5", "few")] == f"{100 * cell['mean']:.2f} ± {100 * cell['sd']:.2f}"


def test_writing_tables_is_deterministic_and_its_csv_holds_the_numbers(results, tmp_path):
    for repeat in ("a", "b"):
        shutil.copytree(results, tmp_path / repeat)
        written = tables.write_all_tables(
            tables.tables_folder(tmp_path / repeat), summary.summarise(tmp_path / repeat)[0]
        )
    assert [path.name for path in written] == [
        f"{name}.{suffix}"
        for name in [*WRITTEN, "groups", "old_new", "memory", "ranks", "variance"]
        for suffix in ("csv", "md", "tex")
    ]
    for path in written:
        assert path.read_bytes() == (tmp_path / "a" / "tables" / path.name).read_bytes()
    frame, _ = summary.summarise(results)
    numbers = pd.read_csv(written[0], float_precision="round_trip")
    np.testing.assert_array_equal(numbers["mean"], tables.cells(frame)["mean"])


def test_a_summary_read_back_from_csv_gives_the_same_table(results):
    frame, _ = summary.summarise(results)
    again = pd.read_csv(io.StringIO(frame.to_csv(index=False)), float_precision="round_trip")
    pd.testing.assert_frame_equal(tables.main_table(again), tables.main_table(frame), check_dtype=False)
    assert tables.main_table(again).attrs == tables.main_table(frame).attrs


def test_multi_label_results_get_tables_of_their_own(tmp_path):
    fake.write_run(tmp_path, fake.config("replay"), accuracy=50)
    name = fake.write_run(tmp_path, fake.config("rebll"))
    path = tmp_path / "runs" / name / "result.json"
    result = folder.read_json(path) | {"task_kind": "multi"}
    result["classifiers"]["head"] = {"summary": {"average_map": 0.25, "last_map": 0.2}, "curves": {"map": [0.3, 0.2]}}
    folder.write_json(path, result)
    frame, curves = summary.summarise(tmp_path)
    assert list(frame.columns) == [*SUMMARY_COLUMNS, "average_map", "last_map"]
    assert curves.loc[curves["run"] == name, "map"].tolist() == [0.3, 0.2]
    written = {
        path.stem: path
        for path in tables.write_all_tables(tables.tables_folder(tmp_path), frame)
        if path.suffix == ".md"
    }
    assert "rebll" in written["average_map"].read_text() and "replay" not in written["average_map"].read_text()
    assert "rebll" not in written["groups"].read_text()


def write_multi_run(root, strategy: str, seed: int, values: dict, **changes) -> str:
    name = fake.write_run(root, fake.config(strategy, seed=seed, dataset__name="glyph_scenes", **changes))
    path = root / "runs" / name / "result.json"
    content = {"summary": values, "curves": {"map": [0.3, values["average_map"]]}}
    folder.write_json(path, folder.read_json(path) | {"task_kind": "multi", "classifiers": {"head": content}})
    return name


@pytest.fixture
def multi(tmp_path):
    """Two multi-label methods, three seeds; one relabels. A run that has not started is of that kind, too."""
    for seed in range(3):
        write_multi_run(tmp_path, "ml_lwf", seed, {"average_map": 0.5, "last_map": 0.4, "fpr_at_0.5": 0.2 + seed / 100})
        labels = {"pseudo_recall": 0.8, "pseudo_precision": 0.5, "memory_label_fpr_after": 0.1}
        values = {"average_map": 0.6, "last_map": 0.5, "fpr_at_0.5": 0.1 + seed / 50, **labels}
        write_multi_run(tmp_path, "rebll", seed, values)
    fake.write_run(tmp_path, fake.config("ml_lwf", seed=3, dataset__name="glyph_scenes"), finished=False)
    return tmp_path


def test_multi_label_results_are_shown_by_their_own_metric(multi, capsys):
    frame, _ = summary.summarise(multi)
    assert set(frame["task_kind"]) == {"multi"}
    assert tables.default_metric(frame) == "average_map"
    table = tables.main_table(frame)
    assert table.index.tolist() == ["rebll", "ml_lwf"] and table.loc["rebll"].tolist() == ["60.00 ± 0.00"]
    tables.print_all_tables(tables.tables_folder(multi), frame)
    assert "average_map" in capsys.readouterr().out
    known = [name for name in frame.columns if name in multi_label.SUMMARY]
    assert known == [name for name in multi_label.SUMMARY if name in known]


def test_the_natural_profile_has_no_rho(tmp_path):
    for protocol, profile in (("lfs", "natural"), ("lfh", "exponential")):
        fake.write_run(tmp_path / profile, fake.config("replay", protocol, stream__profile=profile), accuracy=50)
    notes = [" ".join(table_of(tmp_path / name).attrs["notes"]) for name in ("natural", "exponential")]
    assert "natural profile, order" in notes[0] and "rho" not in notes[0]
    assert "exponential profile, rho 100, ranks by_label, order" in notes[1]


def test_multi_label_tables_hold_several_metrics_and_relabeling(multi):
    frame, _ = summary.summarise(multi)
    for name in ("cf1_at_0.5", "cf1_at_0.8", "of1_at_0.5", "of1_at_0.8", "memory_fpr_at_0.5"):
        frame[name] = 0.25
    for name in ("memory_label_fpr_before", "memory_label_fnr_before", "memory_label_fnr_after"):
        frame[name] = frame["pseudo_recall"]
    written = {
        path.stem: path for path in tables.write_all_tables(tables.tables_folder(multi), frame) if path.suffix == ".md"
    }
    assert {"average_map", "last_map", "fpr_at_0_5", "multilabel", "relabeling"} <= set(written)
    overview = written["multilabel"].read_text()
    assert "12.00 ± 2.00" in overview and "25.00 ± 0.00" in overview
    relabeling = written["relabeling"].read_text()
    assert "80.00" in relabeling and "ml_lwf" not in relabeling
    assert not {"groups", "ranks", "cost"} & set(written)


def test_one_row_against_another_in_several_metrics(multi):
    frame, _ = summary.summarise(multi)
    table = comparisons.pair_table(frame, [("rebll", "ml_lwf")], ["average_map", "fpr_at_0.5"])
    assert table.loc["average_map", "difference"] == "+10.00" and table.loc["average_map", "better"] == "3 of 3"
    lower = table.loc["fpr_at_0.5 (lower is better)"]
    assert lower["difference"] == "-9.00" and lower["better"] == "3 of 3"  # -10, -9, -8
    assert lower[comparisons.INTERVAL] == "-11.48 to -6.52"  # t(2) = 4.303 times 1 / sqrt(3)
    with pytest.raises(UserError, match="no finished run"):
        comparisons.pair_table(frame, [("rebll", "ml_asl")], ["average_map"])
    with pytest.raises(UserError, match="no runs with pseudo_recall"):
        comparisons.pair_table(frame, [("rebll", "ml_lwf")], ["pseudo_recall"])


def test_several_pairs_of_rows(multi):
    frame, _ = summary.summarise(multi)
    both = [("rebll", "ml_lwf"), ("ml_lwf", "rebll")]
    table = comparisons.pair_table(frame, both, ["average_map"])
    assert table.index.tolist() == ["rebll minus ml_lwf", "ml_lwf minus rebll"]
    assert table["difference"].tolist() == ["+10.00", "-10.00"] and table["better"].tolist() == ["3 of 3", "0 of 3"]
    assert table.attrs["title"].startswith("Pairs of methods: Average mAP") and "metric" not in table
    more = comparisons.pair_table(frame, both, ["average_map", "fpr_at_0.5"])
    assert more["pair"].nunique() == 2 and more.index.nunique() == 2


def test_the_table_is_printed_whatever_the_names(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    tables.print_table(hostile_table())
    out = capsys.readouterr().out
    assert "Title_a" in out and "note ± rho 10" in out and "1.00 ± 0.10" in out and r"\input{x}" in out


def wide_table(columns: int) -> pd.DataFrame:
    table = pd.DataFrame({f"setting {i}": [f"{i}{i}.00 ± 1.00"] * 2 for i in range(columns)}, index=["dgr", "replay"])
    table.attrs.update(title="Wide", notes=["a note"], bold=[("dgr", "setting 0")])
    return table


def test_a_pipe_gets_a_wide_table_in_one_piece(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    tables.print_table(wide_table(columns=9))
    lines = capsys.readouterr().out.splitlines()
    assert sum("dgr" in line for line in lines) == 1
    assert all(f"{i}{i}.00 ± 1.00" in next(line for line in lines if "dgr" in line) for i in range(9))
    assert "setting 8" in lines[2]


def test_a_narrow_terminal_gets_the_columns_in_blocks(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "48")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the output for a terminal
    tables.print_table(wide_table(columns=5))
    lines = [re.sub("\x1b.*?m", "", line) for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if "dgr" in line]
    assert [line.count("±") for line in rows] == [2, 2, 1] and max(map(len, lines)) <= 48
    assert "".join(re.findall(r"\d\d\.00 ± 1\.00", " ".join(rows))) == "".join(f"{i}{i}.00 ± 1.00" for i in range(5))
    assert lines[-1] == "a note"


def test_a_terminal_narrower_than_a_column_gets_one_column_at_a_time(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setenv("FORCE_COLOR", "1")
    tables.print_table(wide_table(columns=2))
    assert sum("replay" in line or "rep" in line for line in capsys.readouterr().out.splitlines()) == 2


def test_the_main_table_is_printed_with_its_place_and_what_could_not_be_read(tmp_path, capsys):
    fake.write_run(tmp_path, fake.config("replay"), accuracy=50)
    (tmp_path / "runs" / "zz-foreign").mkdir()
    frame, _ = summary.summarise(tmp_path)
    tables.print_all_tables(tables.tables_folder(tmp_path), frame)
    out = capsys.readouterr().out
    assert "replay" in out and "50.00" in out and "1 run folder could not be read: zz-foreign." in " ".join(out.split())
    assert "tables" in out.splitlines()[-1]


# --- markup


def hostile_table():
    table = pd.DataFrame(
        {"LFS-10, rho=10": ["1.00 ± 0.10"]}, index=["a|b\n<script>[red]_x_ 50% & \\input{x} $y$ #1 ~^"]
    )
    table.attrs = {"title": "Title_a", "notes": ["note ± rho 10", "by_label"]}
    return table


def test_markdown_is_one_table_whatever_the_names():
    lines = render.to_markdown(hostile_table()).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 3 and "<script" not in rows[2].replace("\\<script", "")
    assert rows[2].replace("\\|", "").count("|") == 3
    assert lines[0] == "**Title_a**" and lines[-1] == "- by_label"


def test_latex_is_balanced_and_escaped():
    text = render.to_latex(hostile_table(), "main")
    assert r"\input" not in text and r"\textbackslash{}input\{x\}" in text
    assert r"50\% \& " in text and r"\$y\$ \#1" in text and r"LFS-10, $\rho$=10" in text and r"1.00 $\pm$ 0.10" in text
    bare = text.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lr}", r"\label{tab:main}"):
        assert text.count(command) == 1


def test_latex_groups_span_their_setting(results):
    text = render.to_latex(table_of(results, "groups"), "groups")
    assert r"& \multicolumn{3}{c}{LFH-2} & \multicolumn{3}{c}{LFS-5} \\" in text
    assert r"\cmidrule(lr){2-4} \cmidrule(lr){5-7}" in text and r"\begin{tabular}{lrrrrrr}" in text


def test_nothing_is_bold(results):
    body = "\n".join(line for line in render.to_markdown(table_of(results)).splitlines() if line.startswith("|"))
    assert "**" not in body and "textbf" not in render.to_latex(table_of(results), "x")


# --- README

README = """# Title
<!-- generated: table results forgetting -->
old
<!-- end -->
Text stays.
<!-- generated: strategies -->
<!-- end -->
<!-- generated: configs -->
<!-- end -->
"""


@pytest.fixture
def page(results, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    path = tmp_path / "README.md"
    path.write_text(README)
    return path


def test_readme_blocks_are_regenerated_and_checked(page, capsys):
    assert pages.main(["--check", str(page)]) == 1
    assert page.read_text() == README and "+**Forgetting" in capsys.readouterr().err
    assert pages.main([str(page)]) == 0
    text = page.read_text()
    assert "old\n" not in text and "\nText stays.\n" in text and text.startswith("# Title\n")
    assert render.to_markdown(table_of(page.parent / "results", "forgetting")) in text
    assert "\n- `finetune`: " in text
    assert pages.main(["--check", str(page)]) == 0
    page.write_text(text.replace("± ", "± 1"))
    assert pages.main(["--check", str(page)]) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<!-- generated: tabel x -->\n<!-- end -->\n", 'Did you mean "table"'),
        ("<!-- generated: strategies -->\n", "needs a line"),
        ("<!-- generated: strategies -->\n<!-- generated: configs -->\n<!-- end -->\n", "needs a line"),
        ("<!-- generated: table -->\n<!-- end -->\n", "wrong number of arguments"),
        ("<!-- generated: table a b c d -->\n<!-- end -->\n", "one metric at most"),
        ("<!-- generated: pairs a -->\n<!-- end -->\n", "wrong number of arguments"),
        ("<!-- generated: table nowhere -->\n<!-- end -->\n", "no results folder"),
        ("<!-- generated: figures a ranks -->\n<!-- end -->\n", "a/figures has no ranks.png"),
        ("<!-- generated: figures a -->\n<!-- end -->\n", "a/figures has no figure.png"),
        ("<!-- generated:  -->\n<!-- end -->\n", "no generated block"),
    ],
)
def test_a_wrong_block_is_one_clear_sentence(tmp_path, content, message, capsys):
    page = tmp_path / "README.md"
    page.write_text(content)
    assert pages.main([str(page)]) == 2
    assert message in capsys.readouterr().err and page.read_text() == content


def test_a_block_may_be_of_some_runs(page, capsys):
    page.write_text(
        "<!-- generated: table results last_accuracy_seen stream.protocol=lfs strategy=dgr -->\n<!-- end -->\n"
    )
    assert pages.main([str(page)]) == 0
    text = page.read_text()
    assert "LFS-5" in text and "LFH-2" not in text and "| finetune" not in text and "Last accuracy" in text
    page.write_text("<!-- generated: table results stream.protocl=lfs -->\n<!-- end -->\n")
    assert pages.main([str(page)]) == 2
    assert '"stream.protocl" selects no runs' in capsys.readouterr().err


def test_figures_stand_under_their_line(tmp_path):
    (tmp_path / "a/figures").mkdir(parents=True)
    for name in ("ranks", "accuracy", "no_figure"):
        (tmp_path / f"a/figures/{name}.png").touch()
    every = pages.figures(tmp_path, "a")
    assert re.findall(r"\]\((.*)\)", every) == ["a/figures/accuracy.png", "a/figures/ranks.png"]
    assert pages.figures(tmp_path, "a", "ranks") == (
        "Average ranks with critical difference:\n\n![Average ranks with critical difference](a/figures/ranks.png)\n"
    )


def test_variants_are_empty_in_a_plain_sweep(results):
    assert summary.find_variants(load_runs(results)) == {}
