"""The pages are true: generated blocks are up to date, the example is a working method, commands and links exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import results_folder

from benchmark import pages
from benchmark.cli import main
from benchmark.errors import UserError
from benchmark.storage.archive import LARGEST

ROOT = Path(__file__).resolve().parents[2]
PAGES = {page: (ROOT / page).read_text(encoding="utf-8") for page in pages.PAGES}
README = PAGES[Path("README.md")]
REFERENCES = sorted((ROOT / "results" / "reference").glob("*/runs"))


def example() -> str:
    """The method of "Add your method", as printed."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return next(block for block in blocks if "class Mine" in block)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_generated_blocks_are_up_to_date(page: Path) -> None:
    assert pages.regenerate(PAGES[page], (ROOT / page).parent) == PAGES[page], "run `make readme`"


def test_the_example_is_short_and_passes_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.contract.checks import check_strategy
    from strategies import registry

    assert len(example().splitlines()) <= 40
    (tmp_path / "mine.py").write_text(example())
    monkeypatch.chdir(tmp_path)
    check_strategy(registry.get("mine.py:Mine")())


def test_the_commands_of_the_readme_exist(capsys: pytest.CaptureFixture[str]) -> None:
    commands = set(re.findall(r"\bimcil ([a-z]+)\b", "".join(PAGES.values())))
    assert {"run", "sweep", "stream", "check", "status", "retry"} <= commands
    for command in commands:
        with pytest.raises(SystemExit) as leaving:
            main([command, "--help"])
        assert leaving.value.code == 0, command
    capsys.readouterr()


def anchors(page: Path) -> set[str]:
    """The sections of a page, as links name them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


def test_the_links_of_the_pages_lead_somewhere() -> None:
    """To a section of the same page, to one of the other page, or to a file."""
    links = [(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\(([^)]*)\)", text)]
    assert len(links) >= 25
    for page, link in links:
        name, _, section = link.partition("#")
        if not name.startswith("http"):
            target = (ROOT / page).parent / name if name else ROOT / page
            assert target.exists(), link
            assert not section or section in anchors(target.resolve().relative_to(ROOT)), link


@pytest.mark.parametrize("runs", REFERENCES, ids=lambda path: path.parent.name)
def test_committed_runs_are_small_and_whole(runs: Path) -> None:
    folders = [folder for folder in runs.iterdir() if folder.is_dir()]
    assert folders
    for folder in folders:
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert {"config.json", "environment.json", "stream.json", "result.json"} <= files, folder
        several = json.loads((folder / "result.json").read_text()).get("task_kind") == "multi"  # labels an image
        assert sum(name.startswith("confusion/") for name in files) == (not several), folder
        assert sum((folder / name).stat().st_size for name in files) <= LARGEST, folder


def test_differences_may_be_of_some_runs() -> None:
    """Rows of another setting than the one asked for are left out, and a key must exist."""
    every = pages.differences(ROOT, "results/reference/quick", "baseline=dgr")
    lfs = pages.differences(ROOT, "results/reference/quick", "baseline=dgr", "stream.protocol=lfs")
    assert "LFH-5" in every and "LFS-5" in lfs and "LFH-5" not in lfs
    with pytest.raises(UserError, match=r'"stream\.protocl" selects no runs'):
        pages.differences(ROOT, "results/reference/quick", "baseline=dgr", "stream.protocl=lfs")


def test_precisions_are_compared_run_by_run(tmp_path: Path) -> None:
    """The same runs in two folders; a folder of two precisions is refused."""
    for folder, precision, gain in (("a", "bf16", 2), ("b", "fp32", 0)):
        for seed in range(3):
            content = results_folder.config("replay", seed=seed)
            results_folder.write_run(tmp_path / folder, content, accuracy=50 + gain + 10 * seed, precision=precision)
    asked = ("average_accuracy_seen", "replay")
    shown = pages.precisions(tmp_path, "a", "b", *asked)
    assert "replay in bf16 minus replay in fp32" in shown and "+2.00" in shown and "3 of 3" in shown
    results_folder.write_run(tmp_path / "a", results_folder.config("replay", seed=3), precision="fp32")
    with pytest.raises(UserError, match="The runs of a must be of one precision, and are of bf16 and fp32"):
        pages.precisions(tmp_path, "a", "b", *asked)


def test_committed_tables_follow_from_the_committed_runs(tmp_path: Path) -> None:
    """summary.csv and curves.csv are rebuilt from the run folders, byte for byte."""
    from benchmark.results.summary import summarise, write_summary

    assert REFERENCES, "no reference results are committed"
    for runs in REFERENCES:
        target = tmp_path / runs.parent.name
        target.mkdir()
        (target / "runs").symlink_to(runs, target_is_directory=True)
        (target / "sweep.json").write_bytes((runs.parent / "sweep.json").read_bytes())
        write_summary(target)
        for name in ("summary.csv", "curves.csv"):
            assert (target / name).read_bytes() == (runs.parent / name).read_bytes(), f"{runs.parent / name}"
        assert len(summarise(target)[0])
