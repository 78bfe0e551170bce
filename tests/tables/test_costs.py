"""cost.jsonl -> cost.csv and the tables of cost, against counts written by hand. Nothing here needs torch."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import results_folder as fake

from benchmark.errors import UserError
from benchmark.results.costs import cost_frame, run_cost, write_costs
from benchmark.results.summary import summarise
from benchmark.storage.files import append_jsonl
from benchmark.storage.folder import RunFolder
from benchmark.tables import costs, tables

STRATEGIES = {"replay": (100, 0), "lwf": (100, 100)}  # images an epoch through the network and through a teacher


def line(t: int, trained: int, teacher: int = 0, **more: float) -> dict[str, float]:
    return {
        "experience": t, "train_seconds": 2.0, "eval_seconds": 1.0, "images_trained": trained,
        "forward_images": trained + teacher + 10, "backward_images": trained, "teacher_images": teacher,
        "eval_images": 50, "steps": 5, "stage_steps": 0, "parameters": 1000 + t, "model_bytes": 4000,
        "teacher_bytes": 4000 if teacher else 0, "exemplar_bytes": 3072 * (t + 1), "state_bytes": 0,
        "peak_rss_bytes": 10**9, **more,
    }  # fmt: skip


def folder(root: Path, lengths: tuple[int, ...] = (10,), seeds: int = 2, counted: bool = True) -> pd.DataFrame:
    """Runs whose accuracy is their epochs, in percent; two experiences each."""
    for strategy, (images, teacher) in STRATEGIES.items():
        for epochs in lengths:
            for seed in range(seeds):
                content = fake.config(strategy, "lfs", 2, seed, training__epochs=epochs)
                name = fake.write_run(root, content, accuracy=epochs)
                for t in range(2):
                    cost = line(t, images * epochs, teacher * epochs * t)
                    kept = cost if counted else {k: cost[k] for k in ("experience", "train_seconds", "images_trained")}
                    append_jsonl(RunFolder(root / "runs" / name).cost, kept)
    return summarise(root)[0]


def test_counts_add_up_over_experiences_and_sizes_are_the_largest() -> None:
    cost = run_cost([line(0, 100), line(1, 200, 200)])
    assert (cost["backward_images"], cost["teacher_images"], cost["forward_images"]) == (300, 200, 520)
    assert cost["compute"] == 520 + 2 * 300
    assert (cost["parameters"], cost["exemplar_bytes"], cost["teacher_bytes"]) == (1001, 6144, 4000)
    assert (cost["steps"], cost["train_seconds"]) == (10, 4.0)


def test_an_experience_trained_again_counts_once_but_took_its_time_twice() -> None:
    cost = run_cost([line(0, 100), line(1, 200), line(1, 200)])
    assert cost["backward_images"] == 300 and cost["train_seconds"] == 6.0


def test_lines_of_an_older_imcil_have_no_compute() -> None:
    older = {"experience": 0, "train_seconds": 2.0, "images_trained": 100}
    assert run_cost([older]) == {"images_trained": 100, "train_seconds": 2.0}
    assert "forward_images" not in run_cost([older, line(1, 200)]), "half a sum is no sum"


def test_cost_csv_has_a_row_per_finished_run(tmp_path: Path) -> None:
    summary = folder(tmp_path)
    fake.write_run(tmp_path, fake.config("dgr", "lfs", 2), finished=False)
    write_costs(tmp_path, summarise(tmp_path)[0])
    found = pd.read_csv(tmp_path / "cost.csv")
    assert sorted(found["run"]) == sorted(summary["run"]) and len(found) == 4
    lwf = found[found["strategy"] == "lwf"].iloc[0]
    assert lwf["compute"] == (2 * 1000 + 1000 + 20) + 2 * 2000


def test_costs_are_ratios_to_replay(tmp_path: Path) -> None:
    numbers, table = costs.cost_table(folder(tmp_path))
    ratios = dict(zip(numbers["method"], numbers["passes"], strict=True))
    assert ratios == {"replay": 1.0, "lwf": pytest.approx((3020 + 4000) / (2020 + 4000))}
    assert table.loc["lwf"].tolist() == ["LFS-2", "2", "1.17", "33 %", "0", "0.01", "1,001"]
    assert tables.TABLES["cost"](summarise(tmp_path)[0], ())[1].equals(table)


def test_a_budget_shows_the_longest_training_that_it_pays(tmp_path: Path) -> None:
    """lwf costs 1.17 times as much: with replay's 12 epochs it can train 10, with 10 only 4, with 4 nothing."""
    _, table = costs.matched_table(folder(tmp_path, lengths=(4, 10, 12)))
    assert table.columns.tolist() == [f"LFS-2: replay, epochs {n}" for n in (4, 10, 12)]
    assert table.loc["replay"].tolist() == ["4.00 ± 0.00 @4", "10.00 ± 0.00 @10", "12.00 ± 0.00 @12"]
    assert table.loc["lwf"].tolist() == ["–", "4.00 ± 0.00 @4", "10.00 ± 0.00 @10"]


def test_what_cannot_be_shown_is_told(tmp_path: Path) -> None:
    equally_long = folder(tmp_path / "a")
    with pytest.raises(UserError, match="several lengths"):
        costs.matched_table(equally_long)
    uncounted = folder(tmp_path / "b", lengths=(4, 10), counted=False)
    for build in (costs.cost_table, costs.matched_table):
        with pytest.raises(UserError, match="older imcil"):
            build(uncounted)
    without = equally_long[equally_long["strategy"] != "replay"]
    without.attrs = equally_long.attrs
    with pytest.raises(UserError, match="relative to replay"):
        costs.cost_table(without)
    tables.write_all_tables(tables.tables_folder(tmp_path / "b"), uncounted)
    assert not (tmp_path / "b" / "tables" / "cost.csv").exists()


def test_a_damaged_cost_file_costs_its_row_only(tmp_path: Path) -> None:
    summary = folder(tmp_path)
    path = RunFolder(tmp_path / "runs" / summary["run"][0]).cost
    path.write_text("{not json\n")
    found = cost_frame(summary)
    assert found["compute"].isna().sum() == 1 and len(found) == 4
