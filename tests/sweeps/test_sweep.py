"""Sweeps of real worker processes: what they leave behind, and what survives failures, kills and company."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from benchmark.cli import main
from benchmark.config.loading import load
from benchmark.config.schema import validated
from benchmark.errors import UserError
from benchmark.outputs import write_results
from benchmark.runs.signals import Interrupted
from benchmark.storage.files import read_json, read_jsonl, write_json
from benchmark.storage.folder import RunFolder
from benchmark.storage.records import load_runs
from benchmark.sweeps.plan import planned_runs, write_plan
from benchmark.sweeps.sweep import run_sweep

CONFIG = """
# A few seconds of digits.
dataset: {name: digits, classes: 6}
stream: {tasks: 3, rho: 5, max_count: 20}
memory: {budget: 3}
training: {backbone: convnet, epochs: 1, batch_size: 16, lr: 0.05, augmentation: none, precision: fp32, compile: off}
grid:
  strategy: [finetune, icarl, "plugin.py:Moody"]
  stream.order_seed,stream.subset_seed,training.seed: [[0, 0, 0], [1, 1, 1]]
"""
# Files beside it steer it: broken makes it fail, wait makes it wait. It notes who built it, and for which seed.
PLUGIN = """
import os, time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from strategies.replay import Replay

HERE = Path(__file__).resolve().parent

@dataclass(frozen=True, kw_only=True)
class Moody(Replay):
    name: ClassVar[str] = "moody"

    def build(self, context):
        with (HERE / "built").open("a") as file:
            file.write(f"{context.seed} {os.getpid()}\\n")
        if (HERE / "broken").exists():
            raise ValueError("broken on purpose")
        while (HERE / "wait").exists():
            time.sleep(0.02)
        return super().build(context)
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """imcil in `folder`, as the leader of a process group of its own.

    Its temporary folder holds the locks on devices, for which it would wait for other sweeps of this machine.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "benchmark", *arguments],
        cwd=folder, env={**os.environ, "COLUMNS": "160", "TMPDIR": str(folder)}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for(condition: Callable[[], Any], seconds: float = 400) -> Any:
    """The first true value of `condition`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def built(folder: Path) -> list[tuple[int, int]]:
    """(seed, process) of every time the plugin was built."""
    path = folder / "built"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(seed), int(process)) for seed, process in map(str.split, lines)]


def alive(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def make_place(folder: Path) -> Path:
    (folder / "plugin.py").write_text(PLUGIN)
    (folder / "small.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return make_place(tmp_path)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[int, str, str], tuple[int, str, str]]:
    """A sweep in which one method fails, and its retry: the place, and what the two commands returned."""
    folder = make_place(tmp_path_factory.mktemp("sweep"))
    (folder / "broken").touch()
    first = finish(start(folder, "sweep", "small.yaml", "--allow-code", "--jobs", "2", "--out", "out"))
    (folder / "first").mkdir()
    for name in ("summary.csv", "curves.csv"):
        shutil.copy(folder / "out" / name, folder / "first" / name)
    for run in (folder / "out" / "runs").iterdir():
        if (run / "failure.json").exists():
            shutil.copy(run / "failure.json", folder / "first" / f"{run.name}.json")
    (folder / "broken").unlink()
    second = finish(start(folder, "retry", "out", "--allow-code", "--jobs", "1"))
    return folder, first, second


# --- failures and retry -----------------------------------------------------------------------------------------------


def test_a_failing_method_costs_its_own_runs_only(swept: Any) -> None:
    folder, (status, out, err), _ = swept
    assert status == 1
    summary = pd.read_csv(folder / "first" / "summary.csv")
    assert Counter(summary.drop_duplicates("run")["status"]) == {"done": 4, "failed": 2}
    assert set(summary.loc[summary["status"] == "failed", "strategy"]) == {"Moody"}
    failures = sorted((folder / "first").glob("*.json"))
    assert len(failures) == 2
    for failure in map(read_json, failures):
        assert (failure["kind"], failure["exception"], failure["attempt"]) == (
            "error", "ValueError: broken on purpose (plugin.py, line 18)", 1,
        )  # fmt: skip
        assert "in build" in failure["traceback"]
    assert err.count("failed: digits-lfs3-moody-s") == 2
    assert "2 of 6 runs failed; `imcil retry out --allow-code` runs them again." in err
    assert "Traceback" not in out + err
    assert "done digits-lfs3-icarl-s0" in out


def test_fail_fast_ends_with_the_first_failure(place: Path) -> None:
    (place / "broken").touch()
    grid = 'grid={strategy: ["plugin.py:Moody", finetune, icarl]}'
    command = ("sweep", "small.yaml", grid, "--allow-code", "--jobs", "1", "--fail-fast", "--out", "out")
    status, _, err = finish(start(place, *command))
    assert status == 1 and err.count("failed: digits-lfs3-moody-s") == 1
    assert Counter(record.state for record in load_runs(place / "out")) == {"failed": 1}
    (place / "broken").unlink()
    assert finish(start(place, "retry", "out", "--allow-code", "--jobs", "1"))[0] == 0
    assert Counter(record.state for record in load_runs(place / "out")) == {"done": 3}


def test_retry_carries_out_what_failed(swept: Any) -> None:
    folder, _, (status, out, err) = swept
    assert (status, err) == (0, "")
    assert "4 of 6 runs are finished already." in out
    assert {record.state for record in load_runs(folder / "out")} == {"done"}
    assert sorted(seed for seed, _ in built(folder)) == [0, 0, 1, 1]
    assert not list((folder / "out").rglob("failure.json"))


def test_runs_are_spread_over_workers_that_live_on(swept: Any) -> None:
    """Six runs on two workers, then two on one."""
    workers = [process for _, process in built(swept[0])]
    assert len(set(workers[2:])) == 1 and set(workers[:2]).isdisjoint(workers[2:])
    assert not any(alive(process) for process in workers)


def test_workers_use_one_thread_each(swept: Any) -> None:
    for record in load_runs(swept[0] / "out"):
        assert record.environment["resolved"]["threads"] == 1


# --- what a sweep leaves behind ---------------------------------------------------------------------------------------


def test_sweep_leaves_tables_and_figures(swept: Any) -> None:
    out = swept[0] / "out"
    assert {path.name for path in out.iterdir()} == {
        "runs",
        "sweep.json",
        "summary.csv",
        "curves.csv",
        "cost.csv",
        "tables",
        "figures",
    }
    tables = {path.name for path in (out / "tables").iterdir()}
    assert {f"average_accuracy_seen.{kind}" for kind in ("csv", "md", "tex")} <= tables
    for name in ("accuracy", "forgetting"):
        with Image.open(out / "figures" / f"{name}.png") as image:
            image.verify()
        assert (out / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_summary_has_a_row_for_every_run_and_classifier(swept: Any) -> None:
    out = swept[0] / "out"
    summary = pd.read_csv(out / "summary.csv")
    found = Counter(zip(summary["strategy"], summary["classifier"], summary["training_seed"], strict=True))
    classifiers = {"finetune": ["head"], "icarl": ["head", "nme"], "Moody": ["head"]}
    assert found == {(name, kind, seed): 1 for name, kinds in classifiers.items() for kind in kinds for seed in (0, 1)}
    for row in summary.itertuples():
        result = read_json(out / "runs" / row.run / "result.json")
        wanted = result["classifiers"][row.classifier]["summary"]["average_accuracy_seen"]
        assert row.average_accuracy_seen == wanted and 0 < wanted < 1
    curves = pd.read_csv(out / "curves.csv")
    assert len(curves) == 3 * len(summary)


def test_methods_are_paired_on_the_same_streams(swept: Any) -> None:
    records = load_runs(swept[0] / "out")
    streams = {(record.config["training"]["seed"], record.stream["sha256"]) for record in records}
    assert len(streams) == 2 and {seed for seed, _ in streams} == {0, 1}
    summary = pd.read_csv(swept[0] / "out" / "summary.csv")
    protocol = [
        "dataset",
        "protocol",
        "tasks",
        "rho",
        "order_seed",
        "subset_seed",
        "memory_budget",
        "epochs",
        "precision",
    ]
    for _, rows in summary.groupby("training_seed"):
        assert len(rows[protocol].drop_duplicates()) == 1


def test_sweep_again_skips_everything_and_changes_no_byte(
    swept: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = swept[0]
    monkeypatch.chdir(folder)
    before = contents(folder)
    assert main(["sweep", "small.yaml", "--allow-code", "--out", "out", "--jobs", "2"]) == 0
    assert "6 of 6 runs are finished already." in capfd.readouterr().out
    assert contents(folder) == before
    assert main(["retry", "out", "--allow-code"]) == 0
    assert contents(folder) == before


def test_part_of_a_sweep_does_not_forget_the_rest(
    swept: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(swept[0])
    before = contents(swept[0])
    assert main(["sweep", "small.yaml", "strategy=icarl", "--out", "out"]) == 0
    assert "2 of 2 runs are finished already." in capfd.readouterr().out
    assert contents(swept[0]) == before


def test_table_and_figures_are_made_again_from_run_folders_alone(
    swept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And without the plugin, which is not there any more."""
    before = contents(swept[0] / "out")
    for name, data in before.items():
        if name.startswith("runs/") or name == "sweep.json":
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    figures = ["figures", ".", "--only", "accuracy", "--only", "forgetting"]
    assert main(["table", "."]) == main(figures) == main(["status", "."]) == 0
    assert "6 runs: 6 done" in capfd.readouterr().out
    made = contents(tmp_path)  # `imcil figures` draws more than a sweep does
    assert {name: made.get(name) for name in before} == before


# --- kills and company ------------------------------------------------------------------------------------------------


def test_a_killed_worker_costs_one_run(place: Path) -> None:
    """The first run of a single worker; another worker takes its place."""
    (place / "small.yaml").write_text(
        CONFIG.replace("finetune, icarl, ", "").replace('Moody"', 'Moody", finetune, icarl')
    )
    (place / "wait").touch()
    running = start(place, "sweep", "small.yaml", "--allow-code", "--jobs", "1", "--out", "out", "training.seed=0")
    ((_, victim),) = wait_for(lambda: built(place))
    os.kill(victim, signal.SIGKILL)
    (place / "wait").unlink()
    status, _, err = finish(running)
    assert status == 1
    assert "the worker process died (exit code -9)" in err and "Traceback" not in err
    states = {record.config.get("strategy", {}).get("name", "?"): record.state for record in load_runs(place / "out")}
    assert states == {"finetune": "done", "icarl": "done", "plugin.py:Moody": "failed"}
    (failed,) = [record for record in load_runs(place / "out") if record.state == "failed"]
    assert (failed.failure["kind"], failed.failure["attempt"]) == ("killed", 1)
    assert "1 of 3 runs failed" in err


def test_two_sweeps_of_one_folder_share_the_runs(place: Path) -> None:
    arguments = ["sweep", "small.yaml", "strategy=plugin.py:Moody", "--jobs", "1", "--out", "out"]
    (place / "wait").touch()
    one, other = start(place, *arguments), start(place, *arguments)
    wait_for(lambda: len(built(place)) == 2)  # each has a run in hand
    (place / "wait").unlink()
    for status, _, err in (finish(one), finish(other)):
        assert (status, err) == (0, "")
    assert sorted(seed for seed, _ in built(place)) == [0, 1]
    assert len({process for _, process in built(place)}) == 2
    for record in load_runs(place / "out"):
        assert record.state == "done"
        assert [cost["experience"] for cost in read_jsonl(RunFolder(record.path).cost)] == [0, 1, 2]
    assert set(pd.read_csv(place / "out" / "summary.csv")["status"]) == {"done"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_leaves_no_worker_behind(place: Path, how: signal.Signals) -> None:
    """Ctrl-C reaches the whole group and is told in one line; a kill reaches the parent alone."""
    (place / "wait").touch()
    running = start(place, "sweep", "small.yaml", "strategy=plugin.py:Moody", "--jobs", "2", "--out", "out")
    wait_for(lambda: len(built(place)) == 2)
    workers = [worker for _, worker in built(place)]
    assert len(set(workers)) == 2 and all(map(alive, workers))
    if how == signal.SIGINT:
        os.killpg(running.pid, how)
    else:
        os.kill(running.pid, how)
    status, _, err = finish(running)
    wait_for(lambda: not any(map(alive, workers)))
    if how == signal.SIGINT:
        assert status == 75
        assert err.split("\n", 2)[1:] == [
            "Stopping every run after its step; a second signal ends them at once.",
            "Stopped, every run is saved; `imcil retry out --allow-code` continues.\n",
        ]
    assert {record.state for record in load_runs(place / "out")} <= {"pending", "interrupted"}
    assert len(planned_runs(place / "out")) == 2


def test_a_sweep_stopped_before_its_plan_names_no_folder_to_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class StoppedAtOnce:
        def run(self, runs: Any, fail_fast: bool = False) -> None:
            raise Interrupted

    runs = load("quick").runs()
    assert run_sweep(runs, tmp_path / "out", lambda directory, listen: StoppedAtOnce(), finish=write_results) == 75
    assert capsys.readouterr().err.endswith("Stopped before any run began; the same command starts again.\n")
    assert not (tmp_path / "out").exists()


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_plans_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no sweep: it has no sweep\.json"):
        planned_runs(tmp_path)
    plan = tmp_path / "sweep.json"
    for content in ("{", "[]", "{}", '{"runs": 3}', '{"runs": {"a": 3}}'):
        plan.write_text(content)
        with pytest.raises(UserError, match=r"sweep\.json (is damaged|does not fit this imcil)"):
            planned_runs(tmp_path)
    write_json(plan, {"runs": {"a": {"training": {"speed": 3}}}})
    with pytest.raises(UserError, match=r'does not fit this imcil: Unknown config key "training\.speed"'):
        planned_runs(tmp_path)


def test_a_run_stays_planned_until_it_cannot_be_carried_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep of other runs on the same folder keeps it; one that an edited method or another imcil outdated goes."""
    monkeypatch.chdir(place)
    runs = load("small.yaml", []).runs()
    write_plan(place, runs)
    write_plan(place, runs[:1])
    names = {run.run_name for run in runs}  # the files of methods are part of them
    assert {run.run_name for run in planned_runs(place)} == names

    outdated = [run.run_name for run in runs if run.code_files]
    begun, other = [run.run_name for run in runs if not run.code_files][:2]
    (place / "runs" / outdated[0]).mkdir(parents=True)
    plan = read_json(place / "sweep.json")["runs"]
    for name in (begun, other):
        plan[name]["training"]["speed"] = 3
    (place / "runs" / begun).mkdir()
    write_json(place / "sweep.json", {"runs": plan})
    (place / "plugin.py").write_text(PLUGIN + "# edited")
    write_plan(place, [])
    assert names - set(read_json(place / "sweep.json")["runs"]) == {*outdated[1:], other}


def test_plan_is_the_resolved_configs_by_name(swept: Any) -> None:
    plan = read_json(swept[0] / "out" / "sweep.json")["runs"]
    assert len(plan) == 6
    assert set(plan) == {path.name for path in (swept[0] / "out" / "runs").iterdir()}
    for name, content in plan.items():
        if not validated(content).code_files:
            assert validated(content).run_name == name
