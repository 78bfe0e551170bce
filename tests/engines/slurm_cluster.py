"""A real two-node SLURM on loopback for tests: munged, slurmctld and two slurmd, as whoever runs it, in one folder.

Needs the programs of the Debian packages slurmctld, slurmd, slurm-client and munge (`install.sh` beside this file), and
uses no part of an installed configuration: its own key, sockets, ports and state. `python slurm_cluster.py FOLDER`
starts one, prints what to export, and stops it on Ctrl-C.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
NODES = ("node1", "node2")
APART = ("unshare", *(["--map-current-user"] if os.getuid() else []),
         "--fork", "--pid", "--kill-child", "--mount-proc")  # fmt: skip
CONFIG = """
ClusterName=imcil
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
SlurmdTimeout=6
KillWait=20
MinJobAge=600
NodeName={nodes} NodeAddr=127.0.0.1 NodeHostname={host} Port={node_ports} CPUs=1 RealMemory=4000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE OverTimeLimit=0 PriorityTier=1 GraceTime=120
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


def missing_programs() -> list[str]:
    """Programs of SLURM and munge that are not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


class SlurmCluster:
    """Use as a context manager; `environment` is what programs need to talk to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        }
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> SlurmCluster:
        with ExitStack() as stack:
            stack.callback(self.stop)
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start all daemons and wait until both nodes are idle."""
        for name in ("munge", "state"):
            (self.folder / name).mkdir(mode=0o700, parents=True)
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        ports = free_ports(3)
        (self.folder / "slurm.conf").write_text(
            CONFIG.format(
                folder=self.folder, host=socket.gethostname().partition(".")[0], user=getpass.getuser(),
                controller_port=ports[0], node_ports=f"[{ports[1]}-{ports[2]}]", nodes="node[1-2]",
            )
        )  # fmt: skip
        munge = self.folder / "munge"
        self._spawn(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}/socket",
            f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--num-threads=2",
        )  # fmt: skip
        wait_until(lambda: (munge / "socket").exists(), "munged")
        self._spawn("slurmctld", "-D", "-c")
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: set(self.node_states().values()) == {"idle"}, "both nodes")

    def start_node(self, node: str, apart: bool = False) -> None:
        """Start the slurmd of one node; `apart`: it and the other node cannot see each other's processes."""
        command = ["slurmd", "-D", "-N", node]
        self._spawn(*(APART if apart else []), *command, name=node, IMCIL_TEST_NODE=f"{self.folder}/{node}")

    def kill_node(self, node: str) -> None:
        """Power off: SIGKILL to the slurmd of `node` and to everything that it started."""
        while processes := self.processes_of(node):
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)
        self.daemons.pop(node).wait()

    def recover(self) -> None:
        """No job, and every node up."""
        self._end_jobs()
        for node in NODES:
            if node not in self.daemons:
                self.start_node(node)
            with suppress(subprocess.CalledProcessError):  # it was not drained
                self.run("scontrol", "update", f"nodename={node}", "state=resume")
        wait_until(lambda: set(self.node_states().values()) == {"idle"} and not self.run("squeue", "-h"), "idle nodes")

    def processes_of(self, node: str) -> list[int]:
        """The job steps of a node and everything they started."""
        marks = {f"IMCIL_TEST_NODE={self.folder}/{node}".encode(), f"SLURMD_NODENAME={node}".encode()}
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environment = set((path / "environ").read_bytes().split(b"\0"))
                if marks & environment and f"SLURM_CONF={self.folder}/slurm.conf".encode() in environment:
                    found.append(int(path.name))
        return found

    def run(self, *command: str) -> str:
        """A SLURM program; its standard output."""
        return subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def node_states(self) -> dict[str, str]:
        """Node -> idle, alloc, down, …"""
        try:
            lines = self.run("sinfo", "-h", "-N", "-o", "%N %T").split("\n")
        except subprocess.CalledProcessError:
            return {}
        return {node: state.rstrip("*") for node, state in (line.split() for line in lines if line)}

    def stop(self) -> None:
        """End the jobs, then the daemons."""
        self._end_jobs()
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in reversed(self.daemons.values()):
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.daemons.clear()

    def _end_jobs(self) -> None:
        with suppress(subprocess.SubprocessError, OSError):
            self.run("scancel", f"--user={getpass.getuser()}")
        for node in NODES:
            for process in self.processes_of(node):
                with suppress(OSError):
                    if Path(f"/proc/{process}/comm").read_text().strip() not in ("slurmd", "unshare"):
                        os.kill(process, signal.SIGKILL)

    def _spawn(self, program: str, *arguments: str, name: str | None = None, **extra: str) -> None:
        path = shutil.which(program, path=self.environment["PATH"])
        assert path is not None, program
        log = (self.folder / f"{name or program}.out").open("ab")
        self.daemons[name or program] = subprocess.Popen(
            [path, *arguments], env={**self.environment, **extra}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        log.close()


def free_ports(count: int) -> list[int]:
    """Adjacent ports nobody listens on."""
    for _ in range(100):
        first = 20000 + secrets.randbelow(10000)
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + count):
                listener = stack.enter_context(socket.socket())
                listener.bind(("127.0.0.1", port))
            return list(range(first, first + count))
    raise RuntimeError("no free ports")


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Return when `condition` holds; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


if __name__ == "__main__":
    with SlurmCluster(Path(sys.argv[1]).absolute()) as cluster:
        print(f"export SLURM_CONF={cluster.folder}/slurm.conf   # Ctrl-C here stops the cluster", flush=True)
        signal.pause()
