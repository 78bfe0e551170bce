"""Faults: kills, signals, full and failing disks, torn files. A run ends with the bytes of one that met none of them.

How many are tried at least stands in data/faults.json, from which the README tells it.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import Fork, ask_before_checkpoints, never_give_up
from mounts import fill_a_disk, sweep_a_full_disk, use_read_only, with_own_mounts
from PIL import Image
from small_run import TINY, AskedAfter, config, done, execute, interrupt, repeatable, short, states

from benchmark.config.schema import RunConfig
from benchmark.errors import UserError
from benchmark.outputs import write_tables
from benchmark.results.costs import run_cost
from benchmark.runs import checkpoint
from benchmark.runs.execute import execute as execute_here
from benchmark.storage.files import read_json, read_jsonl, write_json
from benchmark.storage.folder import RunFolder
from benchmark.storage.records import RunRecord, load_runs
from benchmark.sweeps.plan import planned_runs, write_plan
from benchmark.sweeps.status import print_status
from strategies import registry

COUNTS = json.loads((Path(__file__).parents[1] / "data" / "faults.json").read_text())
METHODS = ["icarl", "bic", "dgr", "lucir", "replay", "wa"]


def tried(fault: str, times: int, slow: bool = False) -> None:
    """What the README says of `make test` (or, `slow`, of what `make test-all` adds) holds."""
    test, test_all = COUNTS[fault]
    assert times >= (test_all - test if slow else test)


def plan(directory: Path, strategies: Sequence[str], **changes: Any) -> list[RunFolder]:
    """A sweep of small runs that save every step; the folders of its runs."""
    runs = [config(short(strategy), **{"training__checkpoint_minutes": 0, **changes}) for strategy in strategies]
    write_plan(directory, runs)
    return [RunFolder(directory / "runs" / each.run_name) for each in runs]


def outcome(directory: Path) -> dict[str, Any]:
    """All that has to repeat: tables, curves, and of each run the result, metrics, stream, config and confusion."""
    write_tables(directory)
    tables = [directory / "summary.csv", directory / "curves.csv", *sorted((directory / "tables").rglob("*.*"))]
    files = {str(path.relative_to(directory)): path.read_bytes() for path in tables}
    return {**files, **{path.name: repeatable(RunFolder(path)) for path in sorted((directory / "runs").iterdir())}}


def whole(folder: RunFolder) -> list[str]:
    """Names of its checkpoints, without one that is being written."""
    return [name for name in states(folder) if not name.startswith(".")]


def counted(folder: RunFolder) -> dict[str, float]:
    """What a run cost but for clocks and peaks; a kill between line and checkpoint leaves two of an experience."""
    lines = read_jsonl(folder.cost)
    assert list(dict.fromkeys(line["experience"] for line in lines)) == [0, 1, 2]
    return {name: value for name, value in run_cost(lines).items() if "seconds" not in name and "peak" not in name}


def undisturbed(directory: Path, strategies: Sequence[str]) -> dict[str, Any]:
    plan(directory, strategies)
    assert Fork(directory).end() == 0
    return outcome(directory)


# --- kills ------------------------------------------------------------------------------------------------------------


def kill_often(directory: Path, folders: Sequence[RunFolder], times: int, seed: int) -> int:
    """Two workers at a sweep, of which one or the other is killed so often and replaced; returns how often it was."""
    rng = random.Random(seed)
    reached = dict.fromkeys(folders, "")
    finished: Counter[str | None] = Counter()
    crew: list[Fork | None] = [Fork(directory, never_give_up, paced=True) for _ in range(2)]
    kills = 0
    while kills < times and any(crew):
        place = rng.choice([place for place, fork in enumerate(crew) if fork])
        victim = crew[place]
        assert victim is not None
        steps = rng.choice([1, 1, 2, 3, 5, 8, 13, 34])
        victim.allow(steps + 3)
        if victim.hear("step", steps):
            time.sleep(rng.random() * 0.03)  # to be met while it computes, evaluates, writes, claims
            kills += victim.kill()
            crew[place] = Fork(directory, never_give_up, paced=True)
        else:  # nothing is left for it
            assert victim.end() == 0
            crew[place] = None
        finished.update(name for kind, name in victim.events if kind == "done")
        for folder in folders:
            newest = "done" if folder.state == "done" else max(whole(folder), default="")
            assert newest >= reached[folder], "progress was lost"
            reached[folder] = newest
    for fork in crew:
        if fork:
            fork.allow()
    for fork in [*crew, Fork(directory, never_give_up)]:  # the last one takes what the dead left to nobody
        if fork:
            assert fork.end() == 0
            finished.update(name for kind, name in fork.events if kind == "done")
    assert max(finished.values()) == 1
    return kills


def test_a_sweep_whose_workers_are_killed_again_and_again(tmp_path: Path) -> None:
    directory = tmp_path / "killed"
    folders = plan(directory, METHODS)
    tried("worker killed (SIGKILL)", kill_often(directory, folders, times=24, seed=0))
    assert outcome(directory) == undisturbed(tmp_path / "straight", METHODS)
    for folder in folders:
        assert counted(folder) == counted(RunFolder(tmp_path / "straight" / "runs" / folder.name))
        assert not list(folder.path.glob("claim.*")) and not list(folder.path.rglob(".*.tmp"))


@pytest.mark.slow
def test_a_sweep_of_every_method_whose_workers_are_killed_a_hundred_times(tmp_path: Path) -> None:
    directory = tmp_path / "killed"
    strategies = [name for name in registry.names() if registry.get(name).task_kind == "single"]
    kills = kill_often(directory, plan(directory, strategies), times=120, seed=1)
    tried("worker killed (SIGKILL)", kills, slow=True)
    assert outcome(directory) == undisturbed(tmp_path / "straight", strategies)


@pytest.mark.slow
def test_a_sweep_command_that_is_killed_with_its_workers(tmp_path: Path) -> None:
    """The whole process group at once, soon after it saved something new; what is typed again is the same command."""
    rng = random.Random(0)

    def saved() -> set[Path]:
        return {
            path for path in (tmp_path / "killed").rglob("*.*") if path.name == "result.json" or path.suffix == ".pt"
        }

    command = [sys.executable, "-m", "benchmark", "sweep", "small.yaml", "--jobs", "2", "--out"]
    (tmp_path / "small.yaml").write_text(json.dumps({
        "dataset": {"name": "digits", "classes": 6}, "stream": {"tasks": 3, "rho": 5, "max_count": 60},
        "memory": {"budget": 3},
        "training": {"backbone": "convnet", "epochs": 8, "batch_size": 4, "precision": "fp32", "compile": "off",
                     "checkpoint_minutes": 0},
        "grid": {"strategy": ["icarl", "bic", "dgr", "lucir"]},
    }))  # fmt: skip
    subprocess.run([*command, "straight"], cwd=tmp_path, check=True, capture_output=True)
    kills = 0
    for _ in range(10):
        before = saved()
        running = subprocess.Popen(
            [*command, "killed"], cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL
        )
        while running.poll() is None and saved() <= before:
            time.sleep(0.01)
        time.sleep(rng.random() / 2)
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            kills += 1
        running.wait()
    subprocess.run([*command, "killed"], cwd=tmp_path, check=True, capture_output=True)
    assert kills >= 2
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "straight")


# --- company ----------------------------------------------------------------------------------------------------------


def test_four_workers_carry_out_each_run_once(tmp_path: Path) -> None:
    folders = [*plan(tmp_path, METHODS), *plan(tmp_path, METHODS, training__seed=1)]
    write_plan(tmp_path, [config(short(s), training__seed=seed) for s in METHODS for seed in (0, 1)])
    crew = [Fork(tmp_path) for _ in range(4)]
    assert [fork.end() for fork in crew] == [0] * 4
    events = Counter(event for fork in crew for event in fork.events)
    for folder in folders:
        assert (events["started", folder.name], events["done", folder.name]) == (1, 1)
        assert [cost["experience"] for cost in read_jsonl(folder.cost)] == [0, 1, 2]
    assert sum(any(kind == "done" for kind, _ in fork.events) for fork in crew) > 1
    tried("run that four workers want at once", len(folders))


MOODY = """
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from strategies.replay import Replay

@dataclass(frozen=True, kw_only=True)
class Moody(Replay):
    name: ClassVar[str] = "moody"

    def build(self, context):
        mood = Path(__file__).parent / f"mood{context.seed}"
        if mood.exists() and mood.read_text() == "fail":
            raise ValueError("broken on purpose")
        while mood.exists():
            time.sleep(0.02)
        return super().build(context)
"""


def test_runs_that_fail_or_hang_cost_no_other_run(tmp_path: Path) -> None:
    """Files make run 0 fail, run 1 hang and run 2 work; then they are gone."""
    (tmp_path / "moody.py").write_text(MOODY)
    file = f"{tmp_path / 'moody.py'}:Moody"
    runs = [config({"name": file}, training__seed=seed) for seed in range(3)]
    write_plan(tmp_path, runs)
    folders = [RunFolder(tmp_path / "runs" / each.run_name) for each in runs]
    (tmp_path / "mood0").write_text("fail")
    (tmp_path / "mood1").write_text("hang")
    hanging = Fork(tmp_path, code_files={file})
    while hanging.hear("started") and hanging.events[-1][1] != folders[1].name:
        pass
    other = Fork(tmp_path, code_files={file})
    assert other.end() == 0 and ("done", folders[2].name) in other.events
    assert [folder.state for folder in folders] == ["failed", "running", "done"]
    failure = folders[0].read_failure()
    assert (failure["kind"], failure["attempt"]) == ("error", 1)
    assert failure["exception"] == "ValueError: broken on purpose (moody.py, line 15)"
    assert "in build" in failure["traceback"]
    hanging.kill()
    assert [folder.state for folder in folders] == ["failed", "pending", "done"]
    for mood in tmp_path.glob("mood[01]"):
        mood.unlink()
    folders[0].forgive()
    again = Fork(tmp_path, code_files={file})
    assert again.end() == 0
    assert Counter(kind for kind, _ in again.events if kind != "step")["done"] == 2
    assert {folder.state for folder in folders} == {"done"}


def test_an_infinite_loss_is_a_kind_of_failure(tmp_path: Path) -> None:
    (folder,) = plan(tmp_path, ["replay"], training__lr=1e30)
    assert Fork(tmp_path).end() == 0
    assert folder.state == "failed" and folder.read_failure()["kind"] == "non-finite loss"


# --- signals ----------------------------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_by_signals_goes_on(tmp_path: Path) -> None:
    """Each signal twice in the life of one run with stages: inside an epoch, inside a stage, between experiences."""
    (folder,) = plan(tmp_path / "stopped", ["bic"])
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1] * 2
    for number, steps in zip(numbers, (7, 9, 20, 12, 25, 10), strict=True):
        fork = Fork(tmp_path / "stopped", paced=True)
        fork.allow(steps)
        assert fork.hear("step", steps)
        fork.send(number)
        fork.allow()
        assert fork.end() == 75
        assert [event for event in fork.events if event[0] != "step"][-1] == ("interrupted", folder.name)
        assert folder.state == "interrupted"
    assert Fork(tmp_path / "stopped").end() == 0
    assert outcome(tmp_path / "stopped") == undisturbed(tmp_path / "straight", ["bic"])
    tried("signal (SIGTERM, SIGINT, SIGUSR1)", len(numbers))


@pytest.mark.parametrize(
    ("numbers", "status"),
    [([signal.SIGTERM], 75), ([signal.SIGINT, signal.SIGTERM], -signal.SIGTERM), ([signal.SIGKILL], -signal.SIGKILL)],
)
def test_signals_during_the_writing_of_a_checkpoint(numbers: list[signal.Signals], status: int, tmp_path: Path) -> None:
    """One: it is finished. A second: the process ends at once, and the checkpoint before is the newest."""
    wanted = config("icarl", training__checkpoint_minutes=0)
    (folder,) = plan(tmp_path / "stopped", ["icarl"])
    for written in (1, 2, 4):
        fork = Fork(tmp_path / "stopped", ask_before_checkpoints)
        for _ in range(written - 1):
            assert fork.hear("writing")
            fork.allow()
        assert fork.hear("writing")
        before = whole(folder)
        for number in numbers:
            fork.send(number)
            time.sleep(0.1)  # two signals at once would be taken in any order
        fork.allow()
        assert fork.end() == status
        names = whole(folder)
        if status == 75:
            assert max(names) > max(before, default="")
        else:
            assert names == before
        recorded = len(read_jsonl(folder.metrics))
        found = checkpoint.latest(folder, wanted, recorded)
        assert (found.name if found else "") == max(names, default="")
    assert Fork(tmp_path / "stopped").end() == 0
    assert not list(folder.path.rglob(".*.tmp"))
    assert outcome(tmp_path / "stopped") == undisturbed(tmp_path / "straight", ["icarl"])


# --- disks ------------------------------------------------------------------------------------------------------------


class Disk:
    """Stands between Python and the disk: from one call on, `broken` of them fail (None: all until it is mended)."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls, self.first, self.broken, self.code = 0, 0, 0, 0
        for name in ("fsync", "replace", "mkdir", "link"):
            patch.setattr(os, name, self._guarded(getattr(os, name)))

    def breaks(self, first: int, broken: int | None, code: int) -> None:
        self.calls, self.first, self.broken, self.code = 0, first, broken, code

    def _guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if (
                self.first
                and self.calls >= self.first
                and (self.broken is None or self.calls < self.first + self.broken)
            ):
                raise OSError(self.code, os.strerror(self.code))
            return call(*args, **kwargs)

        return guarded


def fail_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: str, every: int) -> int:
    """Have a run meet a disk that fails at one call, and one that fails from there on; returns how often it did.

    Every call in turn, or one of `every`.
    """
    wanted = config("replay", **TINY)
    straight = done(wanted, tmp_path / "straight")
    failed = 0
    disk = Disk(monkeypatch)
    disk.breaks(0, 0, code)
    assert execute(wanted, RunFolder(tmp_path / "counted")) == ("done", None)
    calls = disk.calls
    for first in range(1, calls + 1, every):
        for broken in (1, None):
            folder = RunFolder(tmp_path / f"{first}-{broken}")
            disk.breaks(first, broken, code)
            ending, message = execute(wanted, folder)
            disk.breaks(0, 0, code)
            if ending == "failed":
                failed += 1
                assert message is not None and os.strerror(code) in message
                recorded = folder.read_failure()
                if folder.result.exists():  # it came after all
                    assert folder.state == "done"
                elif recorded:
                    assert recorded["kind"] == kind and os.strerror(code) in recorded["exception"]
                    assert folder.state == "failed"
                else:  # the disk would not take that either, or the claim itself failed
                    assert folder.state in ("pending", "interrupted")
            assert not [path for path in folder.path.rglob(".*") if path.is_file()]
            kept = states(folder)
            trained: list[int] = []
            execute(wanted, folder, trained.append)
            assert folder.state == "done"
            if kept:
                assert trained == list(range(int(max(kept)[:4]), 2))  # what was saved is not trained again
            assert repeatable(folder) == repeatable(straight)
            assert not folder.failure.exists()
    return failed


def test_a_run_on_a_disk_that_is_full_goes_on_when_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = fail_disk(tmp_path, monkeypatch, errno.ENOSPC, "disk full", every=2)
    tried("full disk (ENOSPC) at a write", times)


def test_a_run_on_a_disk_that_fails_goes_on_when_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = fail_disk(tmp_path, monkeypatch, errno.EIO, "error", every=5)
    tried("failing disk (EIO) at a write", times)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "kind", "fault"),
    [
        (errno.ENOSPC, "disk full", "full disk (ENOSPC) at a write"),
        (errno.EIO, "error", "failing disk (EIO) at a write"),
    ],
)
def test_a_disk_that_fails_at_any_call(
    code: int, kind: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried(fault, fail_disk(tmp_path, monkeypatch, code, kind, every=1), slow=True)


# --- file systems of our own ------------------------------------------------------------------------------------------


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    straight = repeatable(done(config("icarl", training__checkpoint_minutes=0), tmp_path / "straight"))
    sizes = (4, 16, 40, 400, 1600, 2600)
    kinds = set()
    for size in sizes:
        (first, second), found = with_own_mounts(fill_a_disk, tmp_path / str(size), size)
        assert first[0] == "failed" and "No space left on device" in first[1]
        kinds.add(first[2])
        assert second == ("done", None, None)
        assert found == straight
    assert "disk full" in kinds and kinds <= {"disk full", None}  # None where nothing more could be written at all


def test_a_sweep_on_a_full_disk_ends_and_goes_on(tmp_path: Path) -> None:
    (first, state), again = with_own_mounts(sweep_a_full_disk, tmp_path / "disk")
    assert first[0] == "failed" and "No space left on device" in first[1]
    assert state == "pending"  # for there was no room to say more
    assert again == (("done", None), "done")


def test_a_read_only_folder_can_be_read_and_is_told(tmp_path: Path) -> None:
    done(config("replay", **TINY), tmp_path / "results" / "runs" / "a-run")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for command, status, out, err in with_own_mounts(use_read_only, tmp_path / "results"):
        if command == "status":
            assert (status, err) == (0, "") and "1 runs: 1 done" in out
        else:
            assert status in (1, 2) and "Read-only file system" in err and ".tmp" not in err, (command, err)
            assert err.startswith("imcil: ") and err.count("\n") == 1, (command, err)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# --- torn files -------------------------------------------------------------------------------------------------------


def right_or_missing(found: RunRecord, right: RunRecord) -> None:
    """Nothing was read from a damaged folder but what is true."""
    for part in ("config", "stream", "environment", "result", "failure"):
        assert getattr(found, part) in (None, {}, getattr(right, part))
    assert (found.state == "done") == (found.result is not None and bool(found.config))


def test_json_files_torn_at_every_byte(tmp_path: Path) -> None:
    """Of a finished run and of one that failed, was saved and is claimed: read as they were or not at all."""
    finished, broken = plan(tmp_path, ["icarl", "replay"], metrics__diagnostics=True)
    done(config("icarl", metrics__diagnostics=True), finished.path)
    interrupt(config("replay", metrics__diagnostics=True), broken, 1)
    broken.record_failure("error", "ValueError: a reason", "a traceback")
    with broken.claim():
        pass
    whole = load_runs(tmp_path)
    lines = {path: read_jsonl(path) for path in tmp_path.rglob("*.jsonl")}
    times = 0
    for path in sorted(tmp_path.rglob("*.json*")):
        data = path.read_bytes()
        for length in range(len(data)):
            times += 1
            path.write_bytes(data[:length])
            if path in lines:
                found = read_jsonl(path)
                assert found == lines[path][: len(found)] and len(found) >= data[:length].count(b"\n")
            elif path.name == "sweep.json":
                if length < len(data) - 1:  # all but its last newline
                    with pytest.raises(UserError, match=r"sweep\.json is damaged"):
                        planned_runs(tmp_path)
            else:
                for record, right in zip(load_runs(tmp_path), whole, strict=True):
                    right_or_missing(record, right)
        path.write_bytes(data)
    assert len({path.name for path in tmp_path.rglob("*.json*")}) == 10
    tried("JSON file cut short", times)


@pytest.mark.parametrize("name", ["config.json", "environment.json", "stream.json", "result.json", "metrics.jsonl"])
def test_a_run_with_a_torn_file_is_done_again(name: str, tmp_path: Path) -> None:
    wanted = config("replay", **TINY)
    folder = done(wanted, tmp_path / "run")
    straight = repeatable(folder)
    data = (folder.path / name).read_bytes()
    folder.result.write_bytes(folder.result.read_bytes()[:-5])
    (folder.path / name).write_bytes(data[: len(data) // 2])
    assert folder.state != "done"
    assert execute(wanted, folder) == ("done", None)
    assert repeatable(folder) == straight


def test_a_result_with_a_flipped_bit_is_never_read_wrong(tmp_path: Path) -> None:
    """Any bit of it; in white space none hangs on it, and a format of the future is refused by another sentence."""
    folder = done(config("replay", **TINY), tmp_path / "run")
    data, right = folder.result.read_bytes(), folder.read_result()
    assert right is not None and "sha256" not in right and b'"sha256": "' in data
    damaged = 0
    for place in range(len(data) * 8):
        spoiled = bytearray(data)
        spoiled[place // 8] ^= 1 << place % 8
        folder.result.write_bytes(spoiled)
        try:
            found = folder.read_result()
        except UserError:
            assert b'"format": 1,' not in spoiled
            continue
        damaged += found is None
        assert found is None or {name: found.get(name) for name in right} == right
    assert damaged > 0.9 * len(data) * 8


def test_a_result_with_a_wrong_number_is_named_and_done_again(tmp_path: Path, capsys: Any) -> None:
    wanted = config("replay", **TINY)
    folder = done(wanted, tmp_path / "runs" / "run")
    straight, data = repeatable(folder), folder.result.read_bytes()
    place = data.index(b"0.", data.index(b'"summary"')) + 2
    folder.result.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    (record,) = load_runs(tmp_path)
    assert record.result is None and record.problems == ("result.json is damaged",)
    print_status(tmp_path)
    assert "run: result.json is damaged" in capsys.readouterr().out
    assert execute(wanted, folder) == ("done", None)
    assert repeatable(folder) == straight


def test_a_result_of_an_earlier_imcil_has_no_checksum(tmp_path: Path) -> None:
    folder = done(config("replay", **TINY), tmp_path / "run")
    content, right = read_json(folder.result), folder.read_result()
    del content["sha256"]
    write_json(folder.result, content)
    assert folder.state == "done" and folder.read_result() == right == content


BACKBONE = """
from torch import nn

class Tiny(nn.Module):
    num_features = 4

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8)

    def forward(self, x):
        return self.conv(x).flatten(1).relu()
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, RunFolder]:
    """A run of a tiny network with two checkpoints, the newest inside an experience."""
    place = tmp_path_factory.mktemp("saved")
    (place / "tiny.py").write_text(BACKBONE)
    wanted = config("replay", training__checkpoint_minutes=0, training__backbone=f"{place / 'tiny.py'}:Tiny")
    folder = RunFolder(place / "run")
    interrupt(wanted, folder, 1)
    assert len(states(folder)) == 2
    return wanted, folder


def same(one: Any, other: Any) -> bool:
    """Equality of nested state, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def damaged(saved: tuple[RunConfig, RunFolder], versions: Sequence[bytes]) -> tuple[int, int]:
    """Put each of these in the place of the newest checkpoint: (times that the one before was used, times it was not).

    It is told; and what is read is one of the two, bit for bit.
    """
    wanted, folder = saved
    older, newer = (folder.checkpoints / name for name in states(folder))
    recorded = len(read_jsonl(folder.metrics))
    whole = newer.read_bytes()
    right = {path.name: vars(checkpoint.Checkpoint(**without_format(path))) for path in (older, newer)}
    fallen_back = taken = 0
    try:
        for version in versions:
            newer.write_bytes(version)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = checkpoint.latest(folder, wanted, recorded)
            assert found is not None and same(vars(found), right[found.name])
            told = [str(warning.message) for warning in caught if "checkpoint before it" in str(warning.message)]
            if found.name == older.name:
                fallen_back += 1
                assert len(told) == 1 and newer.name in told[0]
            else:
                taken += 1
                assert not told
    finally:
        newer.write_bytes(whole)
    return fallen_back, taken


def without_format(path: Path) -> dict[str, Any]:
    content = torch.load(path, weights_only=True)
    del content["format"]
    return dict(content)


def test_a_checkpoint_cut_short_falls_back_to_the_one_before(saved: tuple[RunConfig, RunFolder]) -> None:
    """Cut at every 64th byte, and at each of the first and the last 4 KiB, it cannot be read."""
    newest = max(saved[1].checkpoints.iterdir())
    data = newest.read_bytes()
    lengths = {*range(0, len(data), 64), *range(4096), *range(len(data) - 4096, len(data))}
    for length in lengths:
        newest.write_bytes(data[:length])
        with pytest.raises((zipfile.BadZipFile, OSError)):
            checkpoint._read(newest)
    newest.write_bytes(data)
    few = sorted(lengths)[:: len(lengths) // 500]
    assert damaged(saved, [data[:length] for length in few]) == (len(few), 0)
    tried("checkpoint cut short", len(lengths))


def test_a_checkpoint_with_a_flipped_bit_is_never_read_wrong(saved: tuple[RunConfig, RunFolder]) -> None:
    """A bit that no content hangs on (padding, a date) may be any."""
    data = max(saved[1].checkpoints.iterdir()).read_bytes()
    rng = np.random.default_rng(0)
    versions = []
    for place in range(0, len(data), 64):
        spoiled = bytearray(data)
        spoiled[place] ^= 1 << int(rng.integers(8))
        versions.append(bytes(spoiled))
    fallen_back, _ = damaged(saved, versions)
    assert fallen_back > len(versions) / 3
    tried("bit of a checkpoint flipped", len(versions))


# --- other places -----------------------------------------------------------------------------------------------------


def test_a_run_goes_on_where_its_data_was_moved_to(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side, count in (("train", 12), ("test", 4)):
        for label in range(4):
            folder = tmp_path / "here" / side / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (8, 8, 3)) + 40 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")

    def wanted(root: Path) -> RunConfig:
        changes = {**TINY, "stream__max_count": 12, "stream__rho": 2, "training__checkpoint_minutes": 0}
        return config("replay", dataset__name="folder", dataset__root=str(root), **changes)

    straight = done(wanted(tmp_path / "here"), tmp_path / "straight")
    moved = RunFolder(tmp_path / "moved")
    interrupt(wanted(tmp_path / "here"), moved, 1)
    (tmp_path / "here").rename(tmp_path / "there")
    assert wanted(tmp_path / "here").hash == wanted(tmp_path / "there").hash
    begun: list[int] = []
    execute_here(wanted(tmp_path / "there"), moved, lambda event: begun.append(event["experience"]))
    assert 0 not in begun
    for name in ("result.json", "metrics.jsonl", "stream.json"):
        assert (moved.path / name).read_bytes() == (straight.path / name).read_bytes()


def test_a_run_goes_on_on_another_device(tmp_path: Path) -> None:
    """From a GPU to a CPU, as far as that goes without one: the checkpoint is one that a GPU would have written."""
    wanted = config("icarl", training__checkpoint_minutes=0)
    folder = RunFolder(tmp_path / "moved")
    interrupt(wanted, folder, 1)
    newest = max(folder.checkpoints.iterdir())
    content = torch.load(newest, weights_only=True)
    content["resolved"]["device"] = "cuda"
    content["progress"]["random"]["cuda"] = torch.zeros(16, dtype=torch.uint8)
    torch.save(content, newest)
    begun: list[int] = []
    execute_here(wanted, folder, lambda event: begun.append(event["experience"]), device="cpu")
    assert 0 not in begun
    assert read_json(folder.environment)["resolved"]["device"] == "cpu"
    assert repeatable(folder) == repeatable(done(wanted, tmp_path / "straight"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_moves_between_cpu_and_gpu(devices: tuple[str, str], tmp_path: Path) -> None:
    wanted = config("icarl", training__checkpoint_minutes=0)
    folder = RunFolder(tmp_path / "moved")
    for limit, device in zip((9, 1000), devices, strict=True):
        with pytest.raises(SystemExit) if limit == 9 else warnings.catch_warnings():
            execute_here(wanted, folder, device=device, stop=AskedAfter(limit))
    assert folder.state == "done" and read_json(folder.environment)["resolved"]["device"] == devices[1]


def test_every_count_of_the_readme_is_held_by_a_test() -> None:
    text = Path(__file__).read_text()
    for fault, (test, test_all) in COUNTS.items():
        assert text.count(f'"{fault}"') and 0 < test <= test_all
