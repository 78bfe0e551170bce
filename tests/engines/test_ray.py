"""The Ray engine on a real Ray cluster of two nodes: what a sweep leaves behind, and what it survives."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmark.storage.records import load_runs

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]
SWEEP = ("sweep", "small.yaml", "--allow-code", "--out", "out", "--engine", "ray")


class Cluster:
    """Nodes with the resources that a test gives them, beside a head that has none."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.address = cluster.address

    def add_node(self, **resources: int) -> Any:
        return self.cluster.add_node(**resources)

    def kill_node(self, node: Any) -> None:
        """Power off: SIGKILL to everything that runs on the node, at once."""
        (raylet,) = node.all_processes["raylet"]
        processes = psutil.Process(raylet.process.pid)
        for process in [processes, *processes.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="session")
def head() -> Iterator[Any]:
    """The head of a cluster, which runs no workers."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="no Ray: run tests/engines/install.sh")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves its workers on a machine that is not idle
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def cluster(head: Any) -> Iterator[Cluster]:
    """No node but the head."""
    yield Cluster(head)
    for node in list(head.worker_nodes):
        head.remove_node(node)


@pytest.fixture
def start(place: Any, cluster: Cluster) -> Callable[..., Any]:
    """imcil, told where the cluster is."""
    return lambda *arguments: place.start(*arguments, "--address", cluster.address)


def test_a_sweep_on_two_nodes(place: Any, cluster: Cluster, uninterrupted: dict[str, bytes]) -> None:
    """Each node has a run in hand at the same time; the files are those of the local engine."""
    nodes = {cluster.add_node().node_id for _ in range(2)}
    place.switch("hold", True)
    running = place.start(*SWEEP)  # without an address: the cluster of this machine
    place.wait_for(lambda: len(place.notes()) == 2)
    place.switch("hold", False)
    status, out, err = place.finish(running)
    assert (status, err) == (0, "")
    assert {note.node for note in place.notes()} == nodes
    assert "[2/2] done" in out
    assert place.science() == uninterrupted


def test_a_node_that_dies_costs_nothing(
    place: Any, cluster: Cluster, start: Callable[..., Any], uninterrupted: dict[str, bytes]
) -> None:
    """A worker on the other node carries on with the run that was on it."""
    stays, dies = cluster.add_node(), cluster.add_node()
    place.switch("hold", True)
    running = start(*SWEEP)
    place.wait_for(lambda: len(place.notes()) == 2)
    (lost,) = [note for note in place.notes() if note.node == dies.node_id]
    cluster.kill_node(dies)
    place.wait_for(lambda: not psutil.pid_exists(lost.process))
    place.switch("hold", False)
    status, out, err = place.finish(running)
    assert (status, err) == (0, "")
    assert [note.node for note in place.notes() if note.seed == lost.seed] == [dies.node_id, stays.node_id]
    assert "interrupted" in out
    assert place.science() == uninterrupted


def test_a_worker_that_dies_is_replaced(
    place: Any, cluster: Cluster, start: Callable[..., Any], uninterrupted: dict[str, bytes]
) -> None:
    """There is no other worker, and no other node until one joins the cluster in mid-run."""
    first = cluster.add_node()
    place.switch("hold", True)
    running = start(*SWEEP, "--jobs", "1")
    (note,) = place.wait_for(place.notes)
    os.kill(note.process, signal.SIGKILL)
    place.wait_for(lambda: len(place.notes()) == 2)
    cluster.kill_node(first)
    second = cluster.add_node()
    place.switch("hold", False)
    status, _, err = place.finish(running)
    assert (status, err) == (0, "")
    assert [note.node for note in place.notes()] == [first.node_id] * 2 + [second.node_id] * 2
    assert place.science() == uninterrupted


def test_ctrl_c_saves_the_runs(
    place: Any, cluster: Cluster, start: Callable[..., Any], uninterrupted: dict[str, bytes]
) -> None:
    for _ in range(2):
        cluster.add_node()
    place.switch("slow", True)
    running = start(*SWEEP)
    place.wait_for(lambda: len(place.notes()) == 2)
    os.killpg(running.pid, signal.SIGINT)
    status, _, err = place.finish(running)
    assert status == 75
    assert "Stopped, every run is saved; `imcil retry out` continues." in err
    assert {record.state for record in load_runs(place.folder / "out")} == {"interrupted"}
    place.wait_for(lambda: not any(psutil.pid_exists(note.process) for note in place.notes()))
    place.switch("slow", False)
    assert place.finish(start("retry", "out", "--allow-code", "--engine", "ray"))[0] == 0
    assert place.science() == uninterrupted


def test_two_workers_share_a_gpu(
    place: Any, cluster: Cluster, start: Callable[..., Any], uninterrupted: dict[str, bytes]
) -> None:
    """The cluster says that a node has one; both runs are given it, although another node has more cores."""
    cluster.add_node(num_cpus=4)
    owner = cluster.add_node(num_cpus=2, num_gpus=1)
    place.switch("hold", True)
    running = start(*SWEEP, "--per-gpu", "2")
    place.wait_for(lambda: len(place.notes()) == 2)
    place.switch("hold", False)
    status, _, err = place.finish(running)
    assert (status, err) == (0, "")
    assert {(note.node, note.gpu) for note in place.notes()} == {(owner.node_id, "0")}
    assert place.science() == uninterrupted


def test_a_cluster_for_this_sweep_alone(place: Any, uninterrupted: dict[str, bytes]) -> None:
    pytest.importorskip("ray", reason="no Ray: run tests/engines/install.sh")
    status, _, err = place.finish(place.start(*SWEEP, "--jobs", "1", "--address", "local"))
    assert (status, err) == (0, "")
    assert place.science() == uninterrupted


def test_workers_that_cannot_work_end_the_sweep_in_one_sentence(
    place: Any, cluster: Cluster, start: Callable[..., Any]
) -> None:
    """A method that is gone when its worker starts."""
    running = start(*SWEEP)
    place.wait_for((place.folder / "out" / "sweep.json").exists)  # checked, and waiting for a node with room
    (place.folder / "plugin.py").unlink()
    cluster.add_node()
    status, _, err = place.finish(running)
    assert status == 2
    assert err.startswith("imcil: A worker on the Ray cluster cannot work: ") and "plugin.py" in err
    assert err.count("\n") == 1


def test_fail_fast_ends_the_workers(place: Any, cluster: Cluster, start: Callable[..., Any]) -> None:
    plugin: Path = place.folder / "plugin.py"
    fault = 'if self.seed == 1:\n            raise ValueError("broken")\n        '
    plugin.write_text(plugin.read_text().replace("if strategy.exp", f"{fault}if strategy.exp"))
    for _ in range(2):
        cluster.add_node()
    place.switch("slow", True)
    status, _, err = place.finish(start(*SWEEP, "--fail-fast"))
    assert status == 1
    assert "1 of 2 runs failed" in err and "ValueError: broken" in err
    states = {record.state for record in load_runs(place.folder / "out")}
    assert "failed" in states <= {"failed", "interrupted", "pending"}


def test_a_gpu_that_the_cluster_does_not_have(place: Any, cluster: Cluster, start: Callable[..., Any]) -> None:
    status, out, err = place.finish(start(*SWEEP, "--device", "cuda"))
    assert (status, out, err) == (2, "", "imcil: --device cuda needs a GPU, and the Ray cluster has none.\n")
    assert not (place.folder / "out").exists()
