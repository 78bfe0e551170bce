"""The SLURM engine on a real SLURM of two nodes: what a sweep leaves behind, and what it survives."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from benchmark.cli import main
from benchmark.storage.leases import BEATS, LEASE
from benchmark.storage.records import load_runs

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]
SWEEP = ("sweep", "small.yaml", "--allow-code", "--out", "out", "--engine", "slurm")


@pytest.fixture
def cluster(slurm_cluster: Any) -> Any:
    """Both nodes up, and nothing to do."""
    slurm_cluster.recover()
    return slurm_cluster


@pytest.fixture
def start(place: Any, cluster: Any) -> Callable[..., Any]:
    """imcil on the cluster's front end."""
    return lambda *arguments: place.start(*arguments, environment=cluster.environment)


def job_of(place: Any) -> str:
    """The number of the last job, from its script."""
    scripts = place.wait_for(lambda: list((place.folder / "out" / "slurm").glob("[0-9]*_submission.sh")))
    return str(max(int(path.name.partition("_")[0]) for path in scripts))


def queue(cluster: Any) -> list[str]:
    """States of all tasks that wait or run."""
    return cluster.run("squeue", "--noheader", "--array", "--format=%T").split()


def restarts(cluster: Any, task: str) -> int:
    """How often SLURM started a task again."""
    shown = cluster.run("scontrol", "show", "job", task)
    return int(shown.partition("Restarts=")[2].split()[0])


def test_a_sweep_on_two_nodes(place: Any, start: Any, uninterrupted: dict[str, bytes]) -> None:
    """Each node has a run in hand at the same time; the files are those of the local engine."""
    place.switch("hold", True)
    running = start(*SWEEP, "--jobs", "2")
    place.wait_for(lambda: len(place.notes()) == 2)
    place.switch("hold", False)
    status, out, err = place.finish(running)
    assert (status, err) == (0, ""), place.logs()
    assert {note.node for note in place.notes()} == {"node1", "node2"}
    job = job_of(place)
    assert f"Submitted as job {job}. Logs: out/slurm/{job}_*_log.out. Watch: `imcil status out --watch`." in out
    assert "[2/2] done" in out
    assert place.science() == uninterrupted


def test_a_node_that_dies_costs_nothing(place: Any, cluster: Any, start: Any, uninterrupted: dict[str, bytes]) -> None:
    """The worker of the other node carries on with the run that was on it."""
    place.switch("hold", True)
    running = start(*SWEEP, "--jobs", "2")
    place.wait_for(lambda: len(place.notes()) == 2)
    (lost,) = [note for note in place.notes() if note.node == "node2"]
    cluster.kill_node("node2")
    assert lost.process not in cluster.processes_of("node2")
    place.switch("hold", False)
    status, _, err = place.finish(running)
    assert (status, err) == (0, ""), place.logs()
    assert [note.node for note in place.notes() if note.seed == lost.seed] == ["node2", "node1"]
    assert place.science() == uninterrupted


def test_a_node_that_nobody_can_look_into_is_dead_when_its_claim_runs_out(
    place: Any, cluster: Any, start: Any, uninterrupted: dict[str, bytes]
) -> None:
    """As between real machines: whether a process of the other node lives is told by its claim alone."""
    cluster.kill_node("node2")
    cluster.start_node("node2", apart=True)
    cluster.recover()
    place.switch("hold", True)
    running = start(*SWEEP, "--jobs", "2")
    place.wait_for(lambda: len(place.notes()) == 2)
    (lost,) = [note for note in place.notes() if note.node == "node2"]
    cluster.kill_node("node2")
    killed = time.monotonic()
    place.switch("hold", False)
    place.wait_for(lambda: [note.node for note in place.notes() if note.seed == lost.seed] == ["node2", "node1"])
    assert time.monotonic() - killed > LEASE - LEASE / BEATS - 1
    status, _, err = place.finish(running)
    assert (status, err) == (0, ""), place.logs()
    assert place.science() == uninterrupted


def test_the_task_of_a_node_that_died_starts_again(
    place: Any, cluster: Any, start: Any, uninterrupted: dict[str, bytes]
) -> None:
    """There is no other worker: SLURM puts the task back in the queue."""
    place.switch("hold", True)
    cluster.run("scontrol", "update", "nodename=node1", "state=drain", "reason=test")
    running = start(*SWEEP, "--jobs", "1")
    place.wait_for(place.notes)
    cluster.run("scontrol", "update", "nodename=node1", "state=resume")
    cluster.kill_node("node2")
    place.switch("hold", False)
    status, _, err = place.finish(running)
    assert (status, err) == (0, ""), place.logs()
    assert restarts(cluster, job_of(place)) == 1
    assert place.notes()[0].node == "node2" and {note.node for note in place.notes()[1:]} == {"node1"}
    assert place.science() == uninterrupted


def test_a_task_whose_time_is_up_saves_and_is_requeued(
    place: Any, cluster: Any, start: Any, uninterrupted: dict[str, bytes]
) -> None:
    """SLURM itself sends the signal, up to a minute before it is due; the task ends with status 75."""
    place.switch("slow", True, seconds=3)
    running = start(*SWEEP, "--jobs", "1", "--slurm", "time=3,signal=USR1@60")
    place.wait_for(lambda: "Saving every run." in place.logs())
    place.switch("slow", False)
    status, _, err = place.finish(running)
    assert (status, err) == (0, ""), place.logs()
    assert restarts(cluster, job_of(place)) >= 1
    assert "Exited with exit code 75" in place.logs()
    assert "DUE TO TIME LIMIT" not in place.logs()
    assert place.science() == uninterrupted


def test_a_task_that_is_preempted_saves_and_is_requeued(
    place: Any, cluster: Any, start: Any, uninterrupted: dict[str, bytes]
) -> None:
    """A job of a partition with priority takes its node."""
    cluster.run("scontrol", "update", "nodename=node1", "state=drain", "reason=test")
    place.switch("slow", True)
    running = start(*SWEEP, "--jobs", "1")
    place.wait_for(place.notes)
    cluster.run("sbatch", "--partition=urgent", "--nodelist=node2", "--output=/dev/null", "--wrap=sleep 5")
    place.wait_for(lambda: "Saving every run." in place.logs())
    cluster.run("scontrol", "update", "nodename=node1", "state=resume")
    place.switch("slow", False)
    status, _, err = place.finish(running)
    assert (status, err) == (0, ""), place.logs()
    assert restarts(cluster, job_of(place)) == 1
    assert "Exited with exit code 75" in place.logs()
    assert place.science() == uninterrupted


def test_only_75_is_requeued(place: Any, cluster: Any, start: Any) -> None:
    """A method that is gone when its tasks start is nothing to try again."""
    cluster.run("scontrol", "update", "nodename=node[1-2]", "state=drain", "reason=test")
    running = start(*SWEEP, "--jobs", "1")
    job = job_of(place)
    place.wait_for(lambda: queue(cluster))
    (place.folder / "plugin.py").unlink()
    cluster.run("scontrol", "update", "nodename=node[1-2]", "state=resume")
    status, _, err = place.finish(running)
    assert status == 1
    assert "2 of 2 runs are unfinished and no worker is left; `imcil retry out` continues." in err
    assert "plugin.py" in place.logs()
    assert (restarts(cluster, job), queue(cluster)) == (0, [])


def test_ctrl_c_cancels_the_job_and_saves_the_runs(
    place: Any, cluster: Any, start: Any, uninterrupted: dict[str, bytes]
) -> None:
    place.switch("slow", True)
    running = start(*SWEEP, "--jobs", "2")
    place.wait_for(lambda: len(place.notes()) == 2)
    os.killpg(running.pid, signal.SIGINT)
    status, _, err = place.finish(running)
    assert status == 75
    assert "Stopped, every run is saved; `imcil retry out` continues." in err
    assert queue(cluster) == []
    assert {record.state for record in load_runs(place.folder / "out")} == {"interrupted"}
    assert restarts(cluster, job_of(place)) == 0  # 75 or not: what was cancelled stays so
    place.switch("slow", False)
    assert place.finish(start("retry", "out", "--allow-code", "--engine", "slurm", "--jobs", "2"))[0] == 0
    assert place.science() == uninterrupted


def test_detached(place: Any, cluster: Any, start: Any, uninterrupted: dict[str, bytes]) -> None:
    """The command returns while the job has not started yet; tables are made when they are asked for."""
    place.switch("hold", True)
    status, out, err = place.finish(start(*SWEEP, "--detach", "--slurm", "partition=main,time=60,comment=a b"))
    assert (status, err) == (0, "")
    assert f"Submitted as job {job_of(place)}." in out and "[" not in out
    assert len(queue(cluster)) == 2  # --jobs auto: one for each run
    assert "a b" in cluster.run("squeue", "--noheader", "--format=%k")
    place.wait_for(lambda: len(place.notes()) == 2)
    place.switch("hold", False)
    place.wait_for(lambda: {record.state for record in load_runs(place.folder / "out")} == {"done"})
    place.wait_for(lambda: not queue(cluster))
    assert main(["table", str(place.folder / "out")]) == 0
    assert place.science() == uninterrupted


def test_a_refusal_of_slurm_is_told_in_one_sentence(place: Any, start: Any) -> None:
    status, out, err = place.finish(start(*SWEEP, "--slurm", "partition=nowhere"))
    assert (status, out) == (2, "")
    assert err.startswith("imcil: SLURM refuses the job: ") and "partition" in err and err.count("\n") == 1


def test_fail_fast_ends_the_job(place: Any, cluster: Any, start: Any) -> None:
    plugin = place.folder / "plugin.py"
    fault = 'if self.seed == 1:\n            raise ValueError("broken")\n        '
    plugin.write_text(plugin.read_text().replace("if strategy.exp", f"{fault}if strategy.exp"))
    place.switch("slow", True)
    status, _, err = place.finish(start(*SWEEP, "--jobs", "2", "--fail-fast"))
    assert status == 1
    assert "1 of 2 runs failed" in err and "ValueError: broken" in err
    assert queue(cluster) == []
    assert {record.state for record in load_runs(place.folder / "out")} == {"failed", "interrupted"}
