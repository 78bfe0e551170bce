"""Which runs end an experience's epochs on a few images: found from recorded counts, told under tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import results_folder
from small_run import config, done

from benchmark.results import small_batches
from benchmark.results.summary import all_runs, summarise
from benchmark.storage.files import append_jsonl, read_json, write_json
from benchmark.storage.folder import RunFolder
from benchmark.tables import tables
from strategies.training.recipe import batch_sizes

EPOCHS = 10


def write(root: Path, images: list[int], strategy: str = "dgr", size: int = 64, **changes: Any) -> str:
    """A finished run whose experiences trained on so many images in every epoch."""
    training = {f"training__{key}": value for key, value in changes.items()}
    content = results_folder.config(strategy, training__batch_size=size, training__epochs=EPOCHS, **training)
    name = results_folder.write_run(root, content)
    for t, n in enumerate(images):
        steps = EPOCHS * len(batch_sizes(n, size, content["training"].get("last_batch", "keep")))
        line = {"experience": t, "images_trained": EPOCHS * n, "steps": steps}
        append_jsonl(RunFolder(root / "runs" / name).cost, line)
    return name


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ([298, 477, 579], (3, 64)),  # 42, 29 and 3 are left
        ([579, 66], (2, 64)),  # the smallest of several
        ([263], (7, 64)),
        ([264], None),  # 8 are an eighth
        ([128, 65], None),  # nothing is left; one image joins the batch before
        ([5], None),  # the whole experience is one batch
    ],
)
def test_a_last_batch_is_small_below_an_eighth(
    images: list[int], found: tuple[int, int] | None, tmp_path: Path
) -> None:
    name = write(tmp_path, images)
    assert small_batches.find_small(all_runs(tmp_path)) == ({name: found} if found else {})


def test_batches_that_share_evenly_are_not_small(tmp_path: Path) -> None:
    write(tmp_path, [579], last_batch="even")
    assert small_batches.find_small(all_runs(tmp_path)) == {}


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"experience": 0}],
        [{"experience": 0, "images_trained": EPOCHS * 579}],  # an older imcil did not count steps
        [{"experience": 0, "images_trained": EPOCHS * 579, "steps": 7}],  # batches of its own making
        [{"experience": 0, "images_trained": EPOCHS * 579 + 1, "steps": EPOCHS * 10}],
        [{"experience": 0, "images_trained": None, "steps": 1}],
    ],
)
def test_nothing_is_said_of_runs_that_do_not_tell(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    name = write(tmp_path, [])
    for line in lines:
        append_jsonl(RunFolder(tmp_path / "runs" / name).cost, line)
    assert small_batches.find_small(all_runs(tmp_path)) == {}


@pytest.mark.parametrize("images", [[], [579]])
def test_nothing_is_said_of_a_config_that_was_damaged(images: list[int], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / write(tmp_path, images))
    content = read_json(folder.config)
    content["training"]["batch_size"] = "many"
    write_json(folder.config, content)
    assert small_batches.find_small(all_runs(tmp_path)) == {}


def test_tables_say_it_of_the_runs_they_show(tmp_path: Path) -> None:
    for name, left in {"dgr": 3, "gr": 5, "lucir": 4, "bic": 2, "wa": 6, "replay": 20}.items():
        write(tmp_path, [576 + left], name)
    summary = summarise(tmp_path)[0]
    (line,) = (note for note in tables.main_table(summary).attrs["notes"] if "last_batch" in note)
    assert line.startswith("In 5 of 6 runs ")
    assert "bic (2 of 64), dgr (3 of 64), lucir (4 of 64), gr (5 of 64) and 1 more." in line
    others = summary[summary["strategy"] == "replay"]
    others.attrs = summary.attrs
    assert not any("last_batch" in note for note in tables.main_table(others).attrs["notes"])


def test_it_is_found_in_real_runs(tmp_path: Path) -> None:
    """The counts that a run records are those its batches had; a method with a second stage records both apart."""
    for strategy in ("replay", "eeil"):
        wanted = config(strategy, training__batch_size=21)
        folder = done(wanted, tmp_path / "runs" / wanted.run_name)
        counts = read_json(folder.stream)["train_counts"]
        held = [min(3, n) for n in counts]
        images = [sum(held[: 2 * t]) + sum(counts[2 * t : 2 * t + 2]) for t in range(3)]
        assert min(n % 21 for n in images if n % 21) == 2
        assert small_batches.find_small(all_runs(tmp_path))[wanted.run_name] == (2, 21)
