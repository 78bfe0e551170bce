"""Exporting a sweep for committing: what is kept, how small it is, and that it can be read again."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import results_folder as fake

from benchmark.errors import UserError
from benchmark.storage import archive
from benchmark.storage.files import DamagedFile, append_jsonl, read_json, read_jsonl, write_json
from benchmark.storage.folder import RunFolder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    content = fake.config("dgr")
    content["dataset"]["root"] = "/home/somebody/images"
    finished = RunFolder(tmp_path / "source" / "runs" / fake.write_run(tmp_path / "source", content, details=True))
    finished.write_result(read_json(finished.result))  # with its checksum
    fake.write_run(tmp_path / "source", fake.config("replay"), finished=False)
    return tmp_path / "source"


def exported(target: Path) -> RunFolder:
    (folder,) = (target / "runs").iterdir()
    return RunFolder(folder)


def test_finished_runs_keep_what_tables_and_figures_read(source: Path, tmp_path: Path) -> None:
    assert archive.export(source, tmp_path / "target") == 1
    there = exported(tmp_path / "target")
    here = RunFolder(source / "runs" / there.name)
    names = {path.relative_to(there.path).as_posix() for path in there.path.rglob("*") if path.is_file()}
    assert names == {
        "config.json", "environment.json", "stream.json", "metrics.jsonl", "cost.jsonl", "result.json",
        "diagnostics.jsonl.gz", "confusion/04.npz",
    }  # fmt: skip
    assert read_json(there.config)["dataset"]["root"] is None
    assert "somebody" not in "".join(path.read_text(errors="ignore") for path in there.path.rglob("*.json*"))
    for part in ("metrics", "cost", "result", "stream", "environment"):
        assert getattr(there, part).read_bytes() == getattr(here, part).read_bytes(), part
    assert "sha256" in read_json(there.result) and there.state == "done"


def test_diagnostics_keep_four_digits(source: Path, tmp_path: Path) -> None:
    (here,) = [path for path in (source / "runs").iterdir() if "dgr" in path.name]
    append_jsonl(RunFolder(here).diagnostics, {"experience": 5, "phi": [0.123456, 123456.0], "lost": [123456]})
    archive.export(source, tmp_path / "target")
    records = exported(tmp_path / "target").read_diagnostics()
    assert [record["experience"] for record in records] == [0, 1, 2, 3, 4, 5]
    assert records[5] == {"experience": 5, "phi": [0.1235, 123500.0], "lost": [123456]}
    assert records[4]["weight_norm"] == [5.0] * 16 + [2.0] * 4


def test_exporting_again_adds_what_is_missing_and_changes_nothing(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    archive.export(source, target)
    there = exported(target)
    before = {path: path.read_bytes() for path in there.path.rglob("*") if path.is_file()}
    assert archive.export(source, target) == 0
    there.packed_diagnostics.unlink()
    there.metrics.unlink()
    write_json(there.environment, {"resolved": {"precision": "fp32", "compile": "off"}})  # as committed long ago
    before[there.environment] = there.environment.read_bytes()
    assert archive.export(source, target) == 1
    assert {path: path.read_bytes() for path in there.path.rglob("*") if path.is_file()} == before


def test_what_was_planned_elsewhere_stays_planned(source: Path, tmp_path: Path) -> None:
    """A reference may grow from the sweeps of several folders."""
    target = tmp_path / "target"
    write_json(target / "sweep.json", {"runs": {"another": {"kept": True}}})
    write_json(source / "sweep.json", {"runs": {"mine": {"dataset": {"root": "/home/somebody"}}}})
    archive.export(source, target)
    assert read_json(target / "sweep.json")["runs"] == {
        "another": {"kept": True}, "mine": {"dataset": {"root": None}},
    }  # fmt: skip


def test_a_run_that_is_too_large_to_commit_is_named(source: Path, tmp_path: Path) -> None:
    (here,) = [path for path in (source / "runs").iterdir() if "dgr" in path.name]
    RunFolder(here).metrics.write_bytes(b" " * archive.LARGEST)
    with pytest.raises(UserError, match=rf"{here.name} has \d+ bytes to export, more than the 40000"):
        archive.export(source, tmp_path / "target")
    assert not (tmp_path / "target" / "runs").exists()


@pytest.mark.parametrize(
    "damage",
    [b"no gzip", gzip.compress(b'{"a": 1}\nnot json\n{"a": 2}\n')],
    ids=["no gzip", "a line inside"],  # a compressed stream holds the time, an id must not
)
def test_damaged_compressed_lines_are_named(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "diagnostics.jsonl.gz"
    path.write_bytes(damage)
    with pytest.raises(DamagedFile, match=r"diagnostics\.jsonl\.gz is damaged"):
        read_jsonl(path)
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}\n')[:-12])
    with pytest.raises(DamagedFile, match=r"diagnostics\.jsonl\.gz is damaged"):
        read_jsonl(path)
