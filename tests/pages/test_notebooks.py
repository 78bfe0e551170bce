"""The notebooks run from top to bottom, on the committed small results and on digits, and are committed bare."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from benchmark.storage.files import append_jsonl
from benchmark.storage.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RESULTS = ROOT / "tests" / "data" / "results"


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One for all notebooks: to import torch and Avalanche anew takes longer than most of them."""
    manager = KernelManager(kernel_name="python3")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    manager.start_kernel(cwd=str(ROOT / "notebooks"), env=environment)
    yield manager
    manager.shutdown_kernel(now=True)


def executed(kernel: KernelManager, name: str, **parameters: Path) -> nbformat.NotebookNode:
    """The notebook after a run without variables of others, with other values in its cell of parameters."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    for key, value in parameters.items():
        assert f"{key} = Path(" in cell.source
        cell.source += f"\n{key} = Path({str(value)!r})"
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    NotebookClient(notebook, km=kernel, timeout=300).execute()
    return notebook


def texts(notebook: nbformat.NotebookNode) -> str:
    """Everything printed or shown as text."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(
        output.get("text") or output["data"].get("text/markdown") or output["data"].get("text/plain", "")
        for output in outputs
    )


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert path.stat().st_size < 40_000


def test_first_steps(kernel: KernelManager, tmp_path: Path) -> None:
    notebook = executed(kernel, "first_steps", out=tmp_path)
    shown = texts(notebook)
    assert "Written to" in shown and "finetune" in shown and pictures(notebook) == 1
    assert (tmp_path / "report.html").is_file() and len(list((tmp_path / "runs").iterdir())) == 4


def test_add_a_strategy(kernel: KernelManager, tmp_path: Path) -> None:
    notebook = executed(kernel, "add_a_strategy", out=tmp_path)
    shown = texts(notebook)
    assert "checks passed" in shown and "weighted_replay" in shown and "too few pairs" in shown
    assert pictures(notebook) == 1


def test_every_figure_is_drawn(kernel: KernelManager) -> None:
    notebook = executed(kernel, "paper_figures", folder=RESULTS)
    missing = [line for line in texts(notebook).splitlines() if line.startswith("Not drawn")]
    assert missing == [] and pictures(notebook) == 16


def test_the_ten_questions_are_answered(kernel: KernelManager) -> None:
    notebook = executed(kernel, "gradient_reweighting", folder=RESULTS)
    shown = texts(notebook)
    assert "no pair of runs yet" not in shown and "Not drawn" not in shown
    assert shown.count("(n = 2)") > 80 and pictures(notebook) >= 5
    titles = [cell.source for cell in notebook.cells if cell.source.startswith("## ")]
    assert [title.split(".")[0] for title in titles] == [f"## {i}" for i in range(1, 11)]


@pytest.mark.slow
def test_the_ten_questions_say_what_has_not_run(kernel: KernelManager, tmp_path: Path) -> None:
    """With the runs of dgr and replay alone; its records: two older, one newer, one without beta."""
    for run in (RESULTS / "runs").iterdir():
        if "-lfs5-dgr-" in run.name or "-lfs5-replay-" in run.name:
            shutil.copytree(run, tmp_path / "runs" / run.name)
    for folder in map(RunFolder, tmp_path.glob("runs/*-dgr-*")):
        _first, _older, newer, nothing, *_ = records = folder.read_diagnostics()
        newer["plugins"]["GradientReweightingPlugin"] |= {"beta": 7.0, "beta_last": 8.0}
        nothing["plugins"]["GradientReweightingPlugin"] |= {"beta": None, "beta_last": None}
        undistilled = dict.fromkeys(("kd_ratio", "entropy", "class_weights"))
        nothing["plugins"]["DistributionAwareDistillationPlugin"] |= undistilled
        folder.packed_diagnostics.unlink()
        for record in records:
            append_jsonl(folder.diagnostics, record)
    shown = texts(executed(kernel, "gradient_reweighting", folder=tmp_path, online=tmp_path / "nowhere"))
    assert "no pair of runs yet" in shown and "Not drawn" in shown and "No runs of one pass" in shown
    assert "of 4 older records" in shown and "80 % of 6 between" in shown
