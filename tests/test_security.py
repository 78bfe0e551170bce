"""A stranger's results folder runs no code, sends nothing to the terminal or a spreadsheet, and leads nowhere else."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import results_folder as fake
from small_run import TINY, config, execute

from benchmark import datasets
from benchmark.cli import _parser, main
from benchmark.commands import _check_code
from benchmark.config.loading import load
from benchmark.errors import UserError
from benchmark.outputs import write_results
from benchmark.runs import checkpoint
from benchmark.storage.files import DamagedFile, append_jsonl, append_text, read_json, read_jsonl, write_json
from benchmark.storage.folder import RunFolder
from benchmark.storage.text import printable
from benchmark.sweeps.engines.base import InvalidRuns
from benchmark.sweeps.engines.worker import Listener, check
from benchmark.sweeps.plan import planned_runs
from benchmark.sweeps.sweep import run_sweep

# Commands that read results, in a process whose every import, unpickling, process, connection and write is noted.
WATCHED = """
import io, json, os, sys
folder, plugin, *commands = sys.argv[1:]
import matplotlib.figure, seaborn  # they may build their caches first
seen = []
def watch(event, arguments):
    if event in ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect"):
        seen.append([event, str(arguments)])
    if event == "open" and isinstance(arguments[0], str):
        path, flags = os.path.realpath(arguments[0]), arguments[2] or 0
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if path == plugin or (writes and not path.startswith((folder + os.sep, "/dev/null"))):
            seen.append([event, path])
sys.addaudithook(watch)
from benchmark.cli import main
status = {}
for command in commands:
    status[command] = main([command, folder])
modules = [name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(folder)]
heavy = sorted({"torch", "avalanche", "pickletools"} & set(sys.modules))
print("WATCHED " + json.dumps({"seen": seen, "modules": modules, "heavy": heavy, "status": status}))
"""
READING = ["status", "table", "figures", "report", "compare"]


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder in which everything that can hold a payload holds one; `trace` beside it would tell."""
    place = tmp_path_factory.mktemp("stranger")
    root, trace = place / "results", place / "trace"
    evil, *_ = fake.build(root, {"replay": ["head"], "dgr": ["head"]}, [("lfs", 5)], seeds=1, details=True)
    payload = pickle.dumps(Payload(trace))
    plugin = root / "plugin.py"
    plugin.write_text(f"import os; os.mkdir({str(trace)!r})\n")
    folder = RunFolder(root / "runs" / evil)
    for name in ("checkpoints/0001-00000000.pt", "result.pkl", "diagnostics.jsonl", "cost.jsonl"):
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_bytes(payload)
    (folder.path / "diagnostics.jsonl.gz").write_bytes(gzip.compress(payload))
    (folder.path / "config.yaml").write_text(f"strategy: !!python/object/apply:os.mkdir ['{trace}']\n")
    for path in folder.confusion.iterdir():
        with path.open("wb") as file:
            np.savez(file, head=np.array([Payload(trace)], dtype=object), allow_pickle=True)
    content = read_json(folder.config)
    content["strategy"] = {"name": f"{plugin}:Mine", "note": "=1+1"}
    content["training"]["backbone"] = f"{plugin}:net"
    write_json(folder.config, content)

    spoken = RunFolder(root / "runs" / "spoken")
    named = fake.config("=cmd|' /C calc'!A0\x1b]0;owned\x07\x1b[2J", seed=3)
    fake.write_run(root, named)
    (root / "runs" / fake.name_of(named)).rename(spoken.path)
    result = read_json(spoken.result)
    result["classifiers"]["../../../escaped"] = result["classifiers"].pop("head")
    result["classifiers"]["../../../escaped"]["summary"]["=2+3"] = 0.5
    result["classifiers"]["../../../escaped"]["summary"]["../../escaped"] = 0.5
    write_json(spoken.result, result)

    for name in ("pipe", "endless", "outside"):
        (root / "runs" / name).mkdir()
        write_json(root / "runs" / name / "config.json", fake.config("replay", seed=4))
    for name in ("result.json", "environment.json", "stream.json", "metrics.jsonl", "claim.0001.json", "failure.json"):
        os.mkfifo(root / "runs" / "pipe" / name)
        (root / "runs" / "endless" / name).symlink_to("/dev/zero")
    (root / "runs" / "outside" / "checkpoints").symlink_to(place)
    plan = read_json(root / "sweep.json")
    plan["runs"] |= {"../../escaped": content, "/etc/passwd": content, "\x1b[31mred": content}
    write_json(root / "sweep.json", plan)
    return root


@pytest.fixture(scope="module")
def watched(stranger: Path) -> tuple[dict[str, Any], str]:
    """What commands that read results did in it, and what they printed."""
    before = sorted(stranger.parent.iterdir())
    command = [sys.executable, "-c", WATCHED, str(stranger), str(stranger / "plugin.py"), *READING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=stranger.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(stranger.parent.iterdir()) == before
    out, _, told = done.stdout.rpartition("WATCHED ")
    return json.loads(told), out + done.stderr


def test_reading_results_runs_no_code(watched: Any, stranger: Path) -> None:
    told, _ = watched
    assert told["status"] == dict.fromkeys(READING, 0)
    assert told["seen"] == [] and told["modules"] == [] and told["heavy"] == []
    assert not (stranger.parent / "trace").exists()


def test_the_watch_would_see_code_run(stranger: Path) -> None:
    """The payloads are live, and what looks out for them is awake."""
    trace = stranger.parent / "trace"
    for run in (
        lambda: pickle.loads(next((stranger / "runs").glob("*/result.pkl")).read_bytes()),
        lambda: exec((stranger / "plugin.py").read_text()),
    ):
        run()
        trace.rmdir()
    careless = """
import collections, pickle
def main(arguments):
    pickle.loads(pickle.dumps(collections.OrderedDict()))
    open("/dev/full", "w")
"""
    code = WATCHED.replace("from benchmark.cli import main", careless)
    command = [sys.executable, "-c", code, str(stranger), "plugin", "a command"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.split("WATCHED ")[1])
    assert [event for event, _ in told["seen"]] == ["pickle.find_class", "open"]


def test_nothing_is_sent_to_the_terminal(watched: Any) -> None:
    _, out = watched
    assert "red" in out and "\x1b" not in out and "\x07" not in out
    assert printable("a\x1b[2Jb\r\n\u202ec") == "a [2Jb   c"


def test_no_cell_of_a_spreadsheet_is_a_formula(watched: Any, stranger: Path) -> None:
    files = [stranger / "summary.csv", stranger / "curves.csv", *(stranger / "tables").glob("*.csv")]
    content = "\n".join(path.read_text() for path in files)
    assert "'=cmd|" in content and "'=2+3" in content
    for path in files:
        for line in path.read_text().splitlines():
            for cell in line.split(","):
                assert not cell.strip('"').startswith(("=", "+", "@", "\t")), (path.name, line)


def test_names_do_not_lead_out_of_the_folder(watched: Any, stranger: Path) -> None:
    assert not list(stranger.parent.rglob("escaped*"))
    assert {path.name for path in stranger.iterdir()} == {
        "runs", "sweep.json", "plugin.py", "summary.csv", "curves.csv", "cost.csv", "tables", "figures", "report.html",
    }  # fmt: skip


# --- pipes, devices, bombs --------------------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_damaged(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "endless.json"):
        with pytest.raises(DamagedFile, match=f"{name} is damaged: it is no regular file"):
            read_json(tmp_path / name)
        with pytest.raises(DamagedFile):
            read_jsonl(tmp_path / name)
    assert RunFolder(tmp_path).read_result() is None


def test_a_small_file_does_not_unpack_to_a_large_one(tmp_path: Path) -> None:
    bomb = tmp_path / "diagnostics.jsonl.gz"
    bomb.write_bytes(gzip.compress(b"\0" * (300 * 2**20), compresslevel=1))
    assert bomb.stat().st_size < 2**21
    with pytest.raises(DamagedFile, match="holds more than any run does"):
        read_jsonl(bomb)
    bomb.write_bytes(gzip.compress(b'{"a": 1}\n')[:-3])
    with pytest.raises(DamagedFile, match="cut short"):
        read_jsonl(bomb)
    bomb.write_bytes(gzip.compress(b'{"a": 1}\n'))
    assert read_jsonl(bomb) == [{"a": 1}]


# --- working in a folder of a stranger --------------------------------------------------------------------------------


@pytest.fixture
def refusal(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)

    def refused(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        err = capfd.readouterr().err
        assert err.count("\n") == 1
        return err

    return refused


def test_code_is_named_exactly_or_not_at_all(refusal: Callable[..., str], tmp_path: Path) -> None:
    """The name on the command line is not that of a file with a shorter one; a text elsewhere names nothing."""
    for name in ("mine.py", "yours_mine.py"):
        Path(name).write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    Path("theirs.yaml").write_text("dataset: {name: digits}\ntraining: {backbone: 'mine.py:net'}\n")
    for override in (
        "strategy=yours_mine.py:net",
        "dataset.root=see mine.py:net",
        "strategy=replay",
    ):
        assert 'would run code from "' in refusal("sweep", "theirs.yaml", override)
    Path("grid.yaml").write_text("dataset: {name: digits}\ngrid: {strategy: [replay, 'mine.py:net']}\n")
    assert 'would run code from "mine.py:net"' in refusal("sweep", "grid.yaml")
    assert not (tmp_path / "trace").exists()
    options = _parser().parse_args(["sweep", "grid.yaml", "grid={strategy: [replay, 'mine.py:net']}"])
    _check_code(options, load("grid.yaml", options.overrides).runs())
    with pytest.raises(UserError, match=r'would run code from "yours_mine\.py:net"'):
        _check_code(options, load("grid.yaml", ["strategy=yours_mine.py:net"]).runs())


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": {"name": "../../../escaped"}},
        {"stream": {"protocol": "../../../escaped"}},
        {"strategy": {"name": "/../../../escaped"}},
        {"strategy": {"name": "x:/../../escaped"}},
    ],
)
def test_a_plan_does_not_lead_out_of_the_folder(tmp_path: Path, changes: Any) -> None:
    """Its runs are refused before anything is written."""
    content = {**load("digits").base.model_dump(mode="json"), **changes}
    place = tmp_path / "a" / "b"
    write_json(place / "sweep.json", {"runs": {"run": content}})
    before = sorted(tmp_path.rglob("*"))

    def nothing(out: Path, listener: Listener) -> Any:
        class Checking:
            def run(self, runs: Any, fail_fast: bool = False) -> None:
                raise InvalidRuns(dict(check(runs, "cpu", out, workers=1)))

        return Checking()

    with pytest.raises(UserError, match=r"escaped"):
        run_sweep(planned_runs(place), place, nothing, retry=True, finish=write_results)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("part", ["", "checkpoints", "confusion", "tensorboard", "wandb"])
def test_a_run_is_not_written_through_a_symbolic_link(tmp_path: Path, part: str) -> None:
    """What lies behind it would be replaced, and *.pt removed."""
    elsewhere = tmp_path / "models"
    elsewhere.mkdir()
    (elsewhere / "mine.pt").write_text("years of work")
    folder = RunFolder(tmp_path / "runs" / "run")
    (folder.path.parent if not part else folder.path).mkdir(parents=True)
    (folder.path / part if part else folder.path).symlink_to(elsewhere)
    for use in (lambda: folder.claim().__enter__(), folder.forgive):
        with pytest.raises(OSError, match=f"a run is not written through a symbolic link: '{folder.path / part}'"):
            use()
    folder.tidy()
    assert [path.name for path in elsewhere.iterdir()] == ["mine.pt"]


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl", "diagnostics.jsonl", "cost.jsonl"])
def test_a_run_with_a_file_that_leads_elsewhere_fails_and_writes_nothing_there(tmp_path: Path, name: str) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("line one\nline two, kept for years\n")
    wanted = config("replay", **TINY)
    folder = RunFolder(tmp_path / "results" / "runs" / wanted.run_name)
    folder.path.mkdir(parents=True)
    (folder.path / name).symlink_to(notes)
    kind, message = execute(wanted, folder)
    assert kind == "failed" and message is not None and f"{name}'" in message and "symbolic link" in message
    assert notes.read_text() == "line one\nline two, kept for years\n"


def test_nothing_is_appended_to_a_link_a_pipe_or_a_device(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("kept")
    (tmp_path / "link").symlink_to(notes)
    (tmp_path / "dangling").symlink_to(tmp_path / "made")
    (tmp_path / "device").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "device", "pipe"):
        with pytest.raises(OSError):
            append_text(tmp_path / name, "line\n")
        with pytest.raises(OSError):
            append_jsonl(tmp_path / name, {"a": 1})
    assert notes.read_text() == "kept" and not (tmp_path / "made").exists()


@pytest.mark.parametrize("part", ["tables", "figures"])
def test_tables_and_figures_are_not_written_through_a_symbolic_link(
    refusal: Callable[..., str], part: str, tmp_path: Path
) -> None:
    """By no command; the results folder itself may be one."""
    results, mine = tmp_path / "results", tmp_path / "mine"
    fake.build(results, {"replay": ["head"]}, [("lfs", 5)], seeds=1)
    mine.mkdir()
    (results / part).symlink_to(mine)
    (tmp_path / "linked").symlink_to(results)
    named = f"linked/{part} is a symbolic link: results are written through none"
    assert named in refusal(part.removesuffix("s") if part == "tables" else part, "linked")
    with pytest.raises(UserError, match=named):
        run_sweep([], Path("linked"), NotImplemented, finish=write_results)
    assert not list(mine.iterdir())
    (results / part).unlink()
    assert main([part.removesuffix("s") if part == "tables" else part, "linked"]) == 0
    assert len(list((results / part).iterdir())) > 1


def test_a_sweep_is_not_carried_out_through_a_symbolic_link(tmp_path: Path) -> None:
    """Neither runs/ nor a folder in it; a failure behind it would be forgiven."""
    wanted = config("replay", **TINY)
    elsewhere = tmp_path / "elsewhere"
    for link, target in (("one/runs", elsewhere), (f"two/runs/{wanted.run_name}", elsewhere / wanted.run_name)):
        target.mkdir(parents=True, exist_ok=True)
        (tmp_path / link).parent.mkdir(parents=True)
        (tmp_path / link).symlink_to(target)
        with pytest.raises(UserError, match=f"{link} is a symbolic link"):
            run_sweep([wanted], (tmp_path / link.split("/")[0]), NotImplemented, retry=True, finish=write_results)
    assert not [path for path in elsewhere.rglob("*") if path.is_file()]


def test_a_checkpoint_that_is_a_pipe_or_a_device_is_passed_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    os.mkfifo(folder.checkpoints / "0001-00000000.pt")
    (folder.checkpoints / "0000-00000003.pt").symlink_to("/dev/zero")
    with pytest.warns(UserWarning, match=r"is damaged \(DamagedFile\)") as told:
        assert checkpoint.latest(folder, config("replay", **TINY), recorded=1) is None
    assert len(told) == 2


# --- data -------------------------------------------------------------------------------------------------------------


def test_an_archive_that_is_not_the_release_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its members lead out of the data root: by name, through a link, as a device."""

    def no_network(*arguments: Any, **options: Any) -> Any:
        raise OSError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    root = tmp_path / "root"
    root.mkdir()
    for archive in ("cifar-10-python.tar.gz", "cifar-100-python.tar.gz", "food-101.tar.gz"):
        with tarfile.open(root / archive, "w:gz") as tar:
            for name in ("../escaped", str(tmp_path / "escaped")):
                member = tarfile.TarInfo(name)
                member.size = 4
                tar.addfile(member, io.BytesIO(b"evil"))
            link = tarfile.TarInfo("cifar-10-batches-py")
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
            tar.addfile(link)
    for name in ("cifar10", "cifar100", "food101"):
        with pytest.raises(UserError, match="its download failed"):
            datasets.load(name, root, cache_dir=tmp_path / "cache")
    assert not list(tmp_path.rglob("escaped")) and not (root / "cifar-10-batches-py").exists()


def test_a_pickle_that_is_not_the_release_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "root" / "cifar-100-python"
    folder.mkdir(parents=True)
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "trace")))
    with pytest.raises(UserError, match="incomplete or not the original"):
        datasets.load("cifar100", tmp_path / "root", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "trace").exists()
