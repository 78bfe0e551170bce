"""Claims: one owner at a time, whoever dies, on this machine or on another one."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.storage import files, leases
from benchmark.storage.folder import RunFolder
from benchmark.storage.leases import AlreadyRunning, Claim, ClaimLost, hold, newest
from benchmark.storage.records import load_runs

ELSEWHERE = {"host": "far", "pid": 1, "process_start": 1, "machine": "another boot", "since": 0.0, "lease": 100.0}


def write_claim(folder: Path, number: int = 1, age: float = 0.0, **changes: Any) -> Path:
    """A claim file as another worker may have left it, `age` seconds ago."""
    path = folder / f"claim.{number:04d}.json"
    folder.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps({**ELSEWHERE, **changes}))
    heard = time.time() - age
    os.utime(path, (heard, heard))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


# --- one owner --------------------------------------------------------------------------------------------------------


def test_a_claim_excludes_until_it_is_released(tmp_path: Path) -> None:
    with hold(tmp_path / "run"):
        with pytest.raises(AlreadyRunning, match="run is being run"), hold(tmp_path / "run"):
            raise AssertionError("two owners")
        assert names(tmp_path / "run") == ["claim.0001.json"]
    with pytest.raises(KeyError), hold(tmp_path / "run"):
        raise KeyError
    with hold(tmp_path / "run") as held:
        assert names(tmp_path / "run") == [f"claim.000{n}.json" for n in (1, 2, 3)]
        held.done = True
    assert names(tmp_path / "run") == []


def test_a_finished_run_has_no_claims(tmp_path: Path) -> None:
    with hold(tmp_path) as held:
        held.done = True
    assert names(tmp_path) == []


CONTENDER = """
import os, random, sys, time
from pathlib import Path
from benchmark.storage.leases import AlreadyRunning, hold
root = Path(sys.argv[1])
runs = sorted(root.iterdir())
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    random.shuffle(runs)
    for run in runs:
        if (run / "result").exists():
            continue
        try:
            with hold(run) as held:
                if (run / "result").exists():
                    held.done = True
                    continue
                with (run / "inside").open("x"):  # fails with two owners at once
                    pass
                with (run / "executed").open("a") as file:
                    file.write(f"{os.getpid()}\\n")
                time.sleep(random.random() / 100)
                (run / "inside").unlink()
                if random.random() < 0.3:
                    continue  # released without a result, for another to take
                (run / "result").touch()
                held.done = True
        except AlreadyRunning:
            pass
print("over", flush=True)
"""


def test_four_processes_never_own_a_run_together(tmp_path: Path) -> None:
    """Sixty runs, some released unfinished, a third of them with a claim whose owner on another machine is dead."""
    for i in range(60):
        (tmp_path / f"{i:02d}").mkdir()
        if i % 3 == 0:
            write_claim(tmp_path / f"{i:02d}", number=1 + i % 4, age=1000)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        out, _ = worker.communicate(timeout=120)
        assert (worker.returncode, out) == (0, "over\n")
    done = [run for run in tmp_path.iterdir() if (run / "result").exists()]
    assert len(done) > 50
    for run in done:
        assert names(run) == ["executed", "result"]
    who = Counter(line for run in done for line in (run / "executed").read_text().split())
    assert len(who) > 1


# --- dead owners ------------------------------------------------------------------------------------------------------


def test_a_killed_owner_on_this_machine_is_dead_at_once(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from benchmark.storage.leases import hold
with hold(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    with start(code) as child:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunning), hold(tmp_path):
            pass
        child.kill()
        stat = Path(f"/proc/{child.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":  # dead, not yet waited for by its parent
            time.sleep(0.01)
        with hold(tmp_path) as held:
            assert held.number == 2


def test_another_process_of_the_same_number_is_another_owner(tmp_path: Path) -> None:
    with hold(tmp_path) as held:
        mine = held.owner
    write_claim(tmp_path, 2, **mine)
    with pytest.raises(AlreadyRunning), hold(tmp_path):
        pass
    write_claim(tmp_path, 2, **{**mine, "process_start": mine["process_start"] + 1})
    with hold(tmp_path):
        pass


@pytest.mark.parametrize("age, alive", [(0, True), (90, True), (110, False)])
def test_an_owner_elsewhere_is_dead_after_its_lease(tmp_path: Path, age: float, alive: bool) -> None:
    write_claim(tmp_path, age=age)
    if alive:
        with pytest.raises(AlreadyRunning), hold(tmp_path):
            pass
        assert names(tmp_path) == ["claim.0001.json"]
    else:
        with hold(tmp_path) as held:
            assert held.number == 2


def test_a_wrong_clock_kills_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The age of a claim is told by the file system's clock, not by this machine's."""
    write_claim(tmp_path)
    now = time.time()
    monkeypatch.setattr(leases.time, "time", lambda: now + 10_000)
    with pytest.raises(AlreadyRunning), hold(tmp_path):
        pass


@pytest.mark.parametrize("wrong", [-10_000, 300, 10_000])
def test_states_are_told_by_the_clock_of_the_file_system(
    tmp_path: Path, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a run which cannot be claimed is shown as running, and no other, whatever this machine's clock says."""
    for name, age in (("alive", 0), ("dead", 110)):
        write_claim(tmp_path / "runs" / name, age=age)
        files.write_json(tmp_path / "runs" / name / "config.json", {"strategy": "replay"})
    now = time.time()
    monkeypatch.setattr(leases.time, "time", lambda: now + wrong)
    assert [record.state for record in load_runs(tmp_path)] == ["running", "pending"]
    assert [RunFolder(tmp_path / "runs" / name).state for name in ("alive", "dead")] == ["running", "pending"]
    left = sorted(path.name for path in (tmp_path / "runs").rglob("*") if path.name != "config.json")
    assert left == ["alive", "claim.0001.json", "claim.0001.json", "dead"]


def test_a_listing_asks_for_the_time_once_and_only_if_it_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder may hold ten thousand runs; and one that cannot be written to is read by this machine's clock."""
    asked: list[Path] = []
    file_clock = leases._file_clock
    monkeypatch.setattr(leases, "_file_clock", lambda folder: (asked.append(folder), file_clock(folder))[1])
    write_claim(tmp_path / "runs" / "over", released=True)
    with hold(tmp_path / "runs" / "here"):
        load_runs(tmp_path)
        assert not asked
    for name in ("one", "two", "three"):
        write_claim(tmp_path / "runs" / name)
        files.write_json(tmp_path / "runs" / name / "config.json", {"strategy": "replay"})
    load_runs(tmp_path)
    assert asked == [tmp_path / "runs"]

    def read_only(folder: Path) -> float:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(leases, "_file_clock", read_only)
    assert [record.state for record in load_runs(tmp_path)].count("running") == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"lease": "long"}', "\x00" * 50])
def test_a_damaged_claim_counts_until_the_usual_lease_is_over(tmp_path: Path, content: str) -> None:
    path = tmp_path / "claim.0001.json"
    path.write_text(content)
    with pytest.raises(AlreadyRunning), hold(tmp_path):
        pass
    heard = time.time() - leases.LEASE - 1
    os.utime(path, (heard, heard))
    with hold(tmp_path) as held:
        assert held.number == 2


def test_the_highest_number_holds(tmp_path: Path) -> None:
    write_claim(tmp_path, 9, age=1000)
    write_claim(tmp_path, 10)
    write_claim(tmp_path, 2)
    (tmp_path / "claim.99999999999.json").touch()
    (tmp_path / ".claim.0011.json.x.tmp").touch()
    with pytest.raises(AlreadyRunning), hold(tmp_path):
        pass
    found = newest(tmp_path)
    assert found is not None and found.number == 10


def test_a_claim_is_there_with_its_owner_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a worker killed at any moment of claiming is known to be dead at once, not after the lease."""
    link, seen = os.link, []

    def watched(source: Path, target: Path) -> None:
        seen.append((json.loads(source.read_text())["pid"], target.exists()))
        link(source, target)

    monkeypatch.setattr(os, "link", watched)
    with hold(tmp_path):
        assert names(tmp_path) == ["claim.0001.json"]
    assert seen == [(os.getpid(), False)]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_links_takes_claims(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", without)
    with hold(tmp_path) as held:
        assert names(tmp_path) == ["claim.0001.json"]
        monkeypatch.setattr(leases, "newest", lambda folder: None)  # another looked just before
        with pytest.raises(AlreadyRunning), hold(tmp_path):
            pass
        assert names(tmp_path) == ["claim.0001.json"] and held.number == 1


def test_a_network_that_loses_the_answer_to_a_link_and_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def asked_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", asked_twice)
    with hold(tmp_path) as held:
        assert names(tmp_path) == ["claim.0001.json"] and held.number == 1


def test_the_loser_of_a_link_whose_file_the_winner_removes_finds_the_run_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The winner may tidy up between the link that fails and the look at how often the loser's file is linked."""
    link = os.link
    winners = []

    def beaten(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        kept = source.read_bytes()
        with hold(tmp_path) as other:
            source.write_bytes(kept)
            try:
                link(source, target)
            finally:
                source.unlink()
                winners.append(other.number)

    monkeypatch.setattr(os, "link", beaten)
    with pytest.raises(AlreadyRunning), hold(tmp_path):
        pass
    assert winners == [1]
    assert names(tmp_path) == ["claim.0001.json"]


def test_what_killed_writes_of_claims_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next owner; a worker that was about to claim the same number finds it taken."""
    write_claim(tmp_path, 1, age=1000)
    for number in (1, 2, 3):
        (tmp_path / f".claim.000{number}.json.0123.tmp").touch()
    link = os.link
    outcomes = []

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        with hold(tmp_path) as other:
            outcomes.append((other.number, source.exists()))
            link(source, target)

    monkeypatch.setattr(os, "link", overtaken)
    with pytest.raises(AlreadyRunning), hold(tmp_path):
        pass
    assert outcomes == [(2, False)]
    assert names(tmp_path) == [".claim.0003.json.0123.tmp", "claim.0001.json", "claim.0002.json"]


# --- signs of life ----------------------------------------------------------------------------------------------------


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes to hold; a busy machine may take its time."""
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_an_owner_gives_signs_of_life_and_tells_its_progress(tmp_path: Path) -> None:
    def heard() -> Claim:
        found = newest(tmp_path)
        assert found is not None
        return found

    with hold(tmp_path, lease=0.4) as held:
        first = heard()
        held.progress = {"epoch": 3}
        assert soon(lambda: heard().heard > first.heard and heard().owner.get("progress") == {"epoch": 3})
        assert heard().owner["pid"] == os.getpid()
    released = heard()
    assert released.owner["released"] is True
    time.sleep(0.2)
    assert heard() == released


def test_a_full_disk_does_not_silence_an_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with hold(tmp_path, lease=0.4):
        monkeypatch.setattr(leases, "write_json", full)
        path = tmp_path / "claim.0001.json"
        os.utime(path, (0, 0))
        assert soon(lambda: path.stat().st_mtime > 0)


def test_a_claim_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space"), hold(tmp_path):
            pass
    assert names(tmp_path) == []
    with hold(tmp_path):
        pass


def test_an_owner_taken_for_dead_learns_of_it(tmp_path: Path) -> None:
    with hold(tmp_path) as held:
        held.confirm()
        write_claim(tmp_path, 2)
        with pytest.raises(ClaimLost, match="taken over"):
            held.confirm()
    with pytest.raises(AlreadyRunning), hold(tmp_path):  # its release is no release of the new owner's claim
        pass


def test_deaths_in_a_row_are_counted(tmp_path: Path) -> None:
    def deaths() -> int:
        with hold(tmp_path, mark=5) as held:
            return held.deaths(since=100)

    write_claim(tmp_path, 1, age=1000, since=200, mark=5)
    write_claim(tmp_path, 2, age=1000, since=300, mark=5, released=True)
    write_claim(tmp_path, 3, age=1000, since=50, mark=5)
    assert deaths() == 0  # it began before
    write_claim(tmp_path, 5, age=1000, since=200, mark=4)
    assert deaths() == 0  # the run has moved on since
    write_claim(tmp_path, 7, age=1000, since=200, mark=5)
    write_claim(tmp_path, 8, age=1000, since=300, mark=5)
    assert deaths() == 2
    assert deaths() == 0  # the last one was released
