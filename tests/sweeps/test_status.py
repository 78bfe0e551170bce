"""`imcil status`: where runs are, how far, and how long they will take."""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import results_folder as fake

from benchmark.storage.files import read_json, write_json
from benchmark.storage.folder import RunFolder
from benchmark.storage.leases import LEASE
from benchmark.storage.records import load_runs
from benchmark.sweeps import status


def a_folder(root: Path, **changes: Any) -> RunFolder:
    """A run in progress: 5 experiences of 4 classes, 160 epochs."""
    content = fake.config("replay", **changes)
    finished = RunFolder(root / "runs" / fake.write_run(root, content))
    finished.result.unlink()
    write_json(finished.stream, {**read_json(finished.stream), "tasks": 5})
    return finished


def tell(folder: RunFolder, held: Any, **changes: Any) -> None:
    progress = {"experience": 1, "experiences": 5, "epoch": 40, "epochs": 160, "loss": 1.0, "rate": 512.0}
    write_json(held.path, {**held.owner, "progress": progress, **changes})


def printed(root: Path, capfd: pytest.CaptureFixture[str]) -> str:
    status.print_status(root)
    return " ".join(capfd.readouterr().out.split())


def test_a_running_run_says_where_since_when_and_how_far(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = a_folder(tmp_path)
    with folder.claim() as held:
        assert f"on {platform.node()} (process {os.getpid()}) since " in printed(tmp_path, capfd)
        tell(folder, held)
        out = printed(tmp_path, capfd)
        assert f"{folder.name} running 0/5 {folder.name}: on {platform.node()} (process {os.getpid()}) since " in out
        assert re.search(r"since \d\d:\d\d, experience 2/5, epoch 40/160, 512 images/s, about 8 min left", out)
        assert "1 runs: 1 running" in out
        tell(folder, held, since=time.time() - 3 * 86400)
        assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d, ", printed(tmp_path, capfd))


def test_the_time_left_follows_from_the_images_left(tmp_path: Path) -> None:
    """By hand: experience 2 of 5 after 40 of 160 epochs, 20 exemplars a class."""
    folder = a_folder(tmp_path)
    (record,) = load_runs(tmp_path)
    counts = [int(500 * 100 ** (-i / 19) + 1e-9) for i in range(20)]
    left = 0
    for t, epochs in ((1, 120), (2, 160), (3, 160), (4, 160)):
        left += epochs * (sum(counts[4 * t : 4 * t + 4]) + 20 * 4 * t)
    progress = {"experience": 1, "epoch": 40, "epochs": 160}
    assert status._images_left(record, progress) == left
    assert folder.name == record.name


@pytest.mark.parametrize(
    "progress",
    [None, [], {}, {"experience": "x"}, {"experience": 1, "experiences": 5, "epoch": 1, "epochs": 2, "rate": 0.0}],
)
def test_progress_that_means_nothing_is_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], progress: Any
) -> None:
    folder = a_folder(tmp_path)
    with folder.claim() as held:
        tell(folder, held, progress=progress, since="yesterday")
        out = printed(tmp_path, capfd)
    assert f"on {platform.node()} (process {os.getpid()})" in out and "left" not in out and "since" not in out


@pytest.mark.parametrize("wrong", [0, 3600])
def test_silence_is_told_before_it_is_death(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    """A worker of another machine, whose process cannot be looked at; this one's clock may be wrong."""
    folder = a_folder(tmp_path)
    with folder.claim() as held:
        tell(folder, held, machine="elsewhere", host="node7", pid=412)
        assert "on node7 (process 412) since" in printed(tmp_path, capfd)
        past = time.time() - 0.75 * LEASE
        os.utime(held.path, (past, past))
        right = time.time
        monkeypatch.setattr(time, "time", lambda: right() + wrong)
        assert "no sign of life for 2 min" in printed(tmp_path, capfd)
        past = right() - 1.1 * LEASE
        os.utime(held.path, (past, past))
        assert "0/5 1 runs: 1 pending" in printed(tmp_path, capfd)  # others may have it


def test_of_many_finished_runs_only_the_number_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = fake.write_run(tmp_path, fake.config("replay"))
    for i in range(status.MOST_ROWS + 1):
        (tmp_path / "runs" / f"copy-{i:03d}").symlink_to(name)
    folder = a_folder(tmp_path, training__seed=1)
    folder.record_failure("error", "ValueError: broken")
    folder.record_failure("error", "ValueError: broken")
    out = printed(tmp_path, capfd)
    assert "copy-" not in out and f"Not listed: {status.MOST_ROWS + 2} done runs." in out
    assert f"{folder.name} failed 0/5 {folder.name}: ValueError: broken (attempt 2)" in out
    assert f"{status.MOST_ROWS + 3} runs: {status.MOST_ROWS + 2} done, 1 failed" in out


def test_watching_ends_with_the_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside a terminal: a line whenever the totals change."""
    monkeypatch.setattr(status, "LOOK_EVERY", 0.02)
    done = RunFolder(tmp_path / "runs" / fake.write_run(tmp_path, fake.config("dgr")))
    folder = a_folder(tmp_path)
    write_json(tmp_path / "sweep.json", {"runs": {folder.name: {}, done.name: {}}})
    told: list[str] = []
    watching = threading.Thread(target=status.watch_status, args=(tmp_path,))

    def heard(line: str) -> None:
        end = time.monotonic() + 30
        while line not in told:
            assert time.monotonic() < end, told
            told.extend(capfd.readouterr().out.splitlines())
            time.sleep(0.02)

    watching.start()
    heard("2 runs: 1 done, 1 pending")
    with folder.claim():
        heard("2 runs: 1 done, 1 running")
        write_json(folder.result, read_json(done.result))
    watching.join(timeout=30)
    assert not watching.is_alive()
    heard("2 runs: 2 done")
    assert len(told) == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "1 h 0 min"), (12000, "3 h 20 min"), (187200, "2 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert status.duration(seconds) == text
