"""File systems that only one process sees: a disk that is really full, a folder that is really read-only."""

from __future__ import annotations

import ctypes
import io
import os
import subprocess
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import CONTEXT
from small_run import TINY, config, execute, repeatable

from benchmark.cli import main
from benchmark.storage.folder import RunFolder
from benchmark.sweeps.engines.local import LocalEngine


def own_mounts() -> None:
    """Give this process mounts that nobody else sees. Raises OSError where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER | CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def _serve(answer: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        own_mounts()
        mount("--make-rprivate", "/")
        mount("-t", "tmpfs", "tmpfs", "/mnt")
    except (OSError, subprocess.CalledProcessError) as error:
        answer.send(("refused", str(error)))
        return
    os.environ["TMPDIR"] = "/mnt"  # workers elsewhere on this machine, who may want the CPU alone, do not count
    answer.send(("answer", function(*arguments)))


def with_own_mounts(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns in a process that may mount file systems."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_serve, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    kind, content = ours.recv()
    process.join()
    if kind == "refused":
        pytest.skip(f"mounts of one's own are not allowed here: {content}")
    return content


def fill_a_disk(place: Path, kilobytes: int) -> tuple[list[Any], dict[str, Any]]:
    """A run on a disk of so many kilobytes, which then grows: what each attempt came to, and the outcome."""
    place.mkdir()
    mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place))
    wanted = config("icarl", training__checkpoint_minutes=0)
    folder = RunFolder(place / "run")
    attempts = [(*execute(wanted, folder), folder.read_failure().get("kind"))]
    mount("-o", "remount,size=64m", str(place))
    attempts.append((*execute(wanted, folder), folder.read_failure().get("kind")))
    return attempts, repeatable(folder)


def tell(arguments: list[str]) -> tuple[int, str, str]:
    """Exit status and output of an imcil command in this process."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        status = main(arguments)
    return status, out.getvalue(), err.getvalue()


SMALL = ["digits", "strategy=finetune", "training.epochs=1", "dataset.classes=4", "stream.tasks=2"]


def sweep_a_full_disk(place: Path) -> list[Any]:
    """A sweep on a disk of two pages, where not even the failure of a run finds room, and again when it has grown.

    The engine is told that all was checked: as if others had filled the disk since.
    """
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=8k", "tmpfs", str(place))
    wanted = config("finetune", **TINY)
    folder = RunFolder(place / "runs" / wanted.run_name)
    found = []
    for _ in range(2):
        events: list[Any] = []
        engine = LocalEngine(place, ["cpu"], lambda kind, name, content, told=events: told.append((kind, content)))
        engine.run([wanted], checked=True)
        found.append((events[-1], folder.state))
        mount("-o", "remount,size=64m", str(place))
    return found


def use_read_only(results: Path) -> list[Any]:
    """Commands on a folder that nobody can write to: statuses and what they printed."""
    mount("--bind", str(results), str(results))
    mount("-o", "remount,bind,ro", str(results))
    os.chdir(results)
    train = ["run", *SMALL, "--out", "."], ["sweep", *SMALL, "--out", "new", "--jobs", "1"]
    return [(arguments[0], *tell(arguments)) for arguments in (["status", "."], ["table", "."], *train)]
