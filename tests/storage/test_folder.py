"""Run folders: atomic writes, derived state, and readers that survive every truncation."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.storage.files import (
    DamagedFile,
    append_jsonl,
    config_hash,
    read_json,
    read_jsonl,
    write_bytes,
    write_json,
    write_text,
)
from benchmark.storage.folder import RunFolder
from benchmark.storage.leases import AlreadyRunning
from benchmark.storage.records import load_runs

CONFIG = {"strategy": {"name": "replay"}, "training": {"seed": 0}}
RESULT = {
    "format": 1,
    "run": "replay-0",
    "config_hash": config_hash(CONFIG),
    "classifiers": {"head": {"summary": {"average_accuracy_seen": 0.625, "forgetting": None}, "curves": {"é": [1]}}},
    "memory_held": [20, 5],
    "complete": True,
}
LINES = [{"experience": t, "classifiers": {"head": {"correct": [t, 12], "total": [20, 20]}}} for t in range(3)]


def write_run(path: Path, result=RESULT) -> RunFolder:
    folder = RunFolder(path)
    for file in (folder.config, folder.environment, folder.stream):
        write_json(file, CONFIG)
    if result is not None:
        write_json(folder.result, result)
    return folder


# --- files


def test_json_is_deterministic_and_strict(tmp_path):
    value = {"b": np.float64(0.1), "a": [float("nan"), np.int64(3), float("inf")], "c": np.arange(2), "d": (True, None)}
    write_json(tmp_path / "one.json", value)
    write_json(tmp_path / "two.json", dict(reversed(value.items())))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert read_json(tmp_path / "one.json") == {"a": [None, 3, None], "b": 0.1, "c": [0, 1], "d": [True, None]}
    assert "NaN" not in (tmp_path / "one.json").read_text()


def test_floats_come_back_exactly(tmp_path):
    values = np.random.default_rng(0).random(100).tolist()
    write_json(tmp_path / "x.json", values)
    assert read_json(tmp_path / "x.json") == values


def test_an_unknown_type_is_refused_and_the_old_file_stays(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert read_json(tmp_path / "x.json") == {"a": 1}


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, call, code):
    path = tmp_path / "result.json"
    write_json(path, {"old": True})

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(*((os, "fsync", fail) if call == "fsync" else (Path, "replace", fail)))
        with pytest.raises(OSError, match=os.strerror(code)):
            write_json(path, {"new": True})
    assert read_json(path) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_every_write_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("replace"), replace(self, to))[1])
    write_text(tmp_path / "x.txt", "x")
    assert events == ["fsync", "replace", "fsync"]


def test_a_damaged_json_file_is_named(tmp_path):
    (tmp_path / "config.json").write_bytes(b'{"a": \xff')
    with pytest.raises(DamagedFile, match=r"config\.json is damaged"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[" * 200_000)
    with pytest.raises(DamagedFile):
        read_json(tmp_path / "config.json")


def test_lines_truncated_at_every_byte_give_whole_records_only(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for line in LINES:
        append_jsonl(path, line)
    data = path.read_bytes()
    ends = [i for i, byte in enumerate(data) if byte == ord("\n")]
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        whole = sum(end <= length for end in ends)  # the last line is whole without its newline, too
        assert read_jsonl(path) == LINES[:whole], length


def test_appending_after_any_truncation_repairs_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for line in LINES:
        append_jsonl(path, line)
    data = path.read_bytes()
    for length in range(len(data) - 1):
        path.write_bytes(data[:length])
        kept = read_jsonl(path)
        for line in LINES[len(kept) :]:
            append_jsonl(path, line)
        assert path.read_bytes() == data, length


def test_a_damaged_middle_line_is_never_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for middle in (b'{"experience": ', b"12", b"", b"\x00\x00"):
        path.write_bytes(b'{"experience":0}\n' + middle + b'\n{"experience":2}\n')
        with pytest.raises(DamagedFile, match="line 2"):
            read_jsonl(path)
    path.write_bytes(b'{"experience":0}\n' + b"\x00" * 100)  # what a power cut may leave
    assert read_jsonl(path) == [{"experience": 0}]
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_config_hash_depends_on_values_only():
    base = {"a": {"x": 1, "y": [1, 2.5]}, "b": None}
    same = {"b": None, "a": {"y": (1.0, 2.5), "x": 1.0}}
    assert config_hash(base) == config_hash(same)
    assert len(config_hash(base)) == 64
    others = [{"a": {"x": 2, "y": [1, 2.5]}, "b": None}, {"a": {"x": 1, "y": [2.5, 1]}, "b": None}, {}, {"a": True}]
    assert len({config_hash(other) for other in [base, *others, {"a": "1"}]}) == 6
    assert config_hash({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


# --- state


def test_states_follow_from_the_files(tmp_path):
    folder = write_run(tmp_path / "run", result=None)
    assert folder.state == "pending"
    folder.checkpoints.mkdir()
    (folder.checkpoints / ".000.pt.x.tmp").write_text("torn")
    assert folder.state == "pending"
    (folder.checkpoints / "000.pt").write_text("x")
    assert folder.state == "interrupted"
    write_json(folder.failure, {"kind": "oom"})
    assert folder.state == "failed"
    with folder.claim():
        assert folder.state == "running"
    assert folder.state == "failed"
    write_json(folder.result, RESULT)
    assert folder.state == "done"


def test_metrics_alone_mean_interrupted(tmp_path):
    folder = write_run(tmp_path / "run", result=None)
    append_jsonl(folder.metrics, LINES[0])
    assert folder.state == "interrupted"


def test_result_truncated_at_every_byte_is_not_done(tmp_path):
    folder = write_run(tmp_path / "runs" / "run")
    data = folder.result.read_bytes()
    for length in range(len(data) - 1):  # without its last byte, the newline, it is still whole
        folder.result.write_bytes(data[:length])
        assert folder.state == "pending", length
        (record,) = load_runs(tmp_path)
        assert record.result is None and "result.json is damaged" in record.problems
    folder.result.write_bytes(data)
    assert folder.state == "done" and folder.read_result() == json.loads(data)


@pytest.mark.parametrize(
    "change", [{"complete": False}, {"complete": 1}, {"format": None}, {"classifiers": []}, {"format": "1"}]
)
def test_an_incomplete_result_is_not_done(tmp_path, change):
    assert write_run(tmp_path / "run", result=RESULT | change).state == "pending"


def test_a_newer_result_is_refused_not_overwritten(tmp_path):
    folder = write_run(tmp_path / "runs" / "run", result=RESULT | {"format": 2})
    with pytest.raises(UserError, match="format 2"):
        _ = folder.state
    (record,) = load_runs(tmp_path)
    assert record.result is None and "format 2" in record.problems[0]


def test_the_lock_excludes_and_is_freed(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.claim():
        with pytest.raises(AlreadyRunning, match="run is being run"), RunFolder(tmp_path / "run").claim():
            raise AssertionError("two holders")
        assert folder.state == "running"
    with pytest.raises(KeyError), folder.claim():
        raise KeyError
    with folder.claim():
        pass


def test_a_killed_process_does_not_stay_running(tmp_path):
    code = f"""
import sys, time
from benchmark.storage.folder import RunFolder
with RunFolder({str(tmp_path / "run")!r}).claim():
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        folder = RunFolder(tmp_path / "run")
        assert folder.state == "running"
        child.kill()
        child.wait()
    assert folder.state == "pending"


def test_a_new_holder_removes_half_written_checkpoints(tmp_path):
    folder = RunFolder(tmp_path / "run")
    write_bytes(folder.checkpoints / "000.pt", b"x")
    (folder.checkpoints / ".001.pt.abc.tmp").write_bytes(b"torn")
    with folder.claim():
        assert [p.name for p in folder.checkpoints.iterdir()] == ["000.pt"]


# --- loading


def test_load_runs_reports_what_it_cannot_read(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "b-good")
    (runs / "a-foreign").mkdir()
    (runs / ".hidden").mkdir()
    (runs / "note.txt").write_text("not a run")
    broken = write_run(runs / "c-broken")
    broken.config.write_text("{")
    listed = write_run(runs / "d-list", result=None)
    listed.config.write_text("[1, 2]")
    missing = write_run(runs / "e-no-stream")
    missing.stream.unlink()
    odd = write_run(runs / "f-folder-for-file", result=None)
    odd.failure.mkdir()
    records = {record.name: record for record in load_runs(tmp_path)}
    assert list(records) == ["a-foreign", "b-good", "c-broken", "d-list", "e-no-stream", "f-folder-for-file"]
    assert records["a-foreign"].state == "damaged" and records["a-foreign"].problems == ("config.json is missing",)
    assert records["b-good"].state == "done" and records["b-good"].problems == ()
    assert records["c-broken"].state == "damaged" and "config.json is damaged" in records["c-broken"].problems
    assert records["d-list"].state == "damaged"
    assert records["e-no-stream"].state == "done" and "stream.json is missing" in records["e-no-stream"].problems
    assert "failure.json is damaged" in records["f-folder-for-file"].problems


def test_a_folder_without_runs_is_one_clear_sentence(tmp_path):
    with pytest.raises(UserError, match="no folder runs/"):
        load_runs(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_can_be_read(tmp_path):
    folder = write_run(tmp_path / "runs" / "run")
    folder.path.chmod(0o555)
    try:
        assert load_runs(tmp_path)[0].state == "done"
    finally:
        folder.path.chmod(0o755)
