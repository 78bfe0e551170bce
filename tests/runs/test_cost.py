"""What a run counts as its cost: passes through the network and its teacher, steps, bytes; exact, also over kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_run import EPOCHS, Killed, chop, config, done

from benchmark.results.costs import run_cost
from benchmark.runs import execute
from benchmark.runs.checkpoint import CheckpointPlugin
from benchmark.storage.files import read_json, read_jsonl
from benchmark.storage.folder import RunFolder

BATCH, HELD = 16, (0, 6, 12)  # 3 exemplars of each old class
PIXELS = 8 * 8 * 3


def new_images(folder: RunFolder) -> list[int]:
    counts = read_json(folder.stream)["train_counts"]
    return [sum(counts[:2]), sum(counts[2:4]), sum(counts[4:])]


def column(folder: RunFolder, name: str) -> list[Any]:
    return [line[name] for line in read_jsonl(folder.cost)]


def test_replay_trains_on_new_and_stored_images_and_passes_new_ones_again_to_choose_exemplars(tmp_path: Path) -> None:
    folder = done(config("replay"), tmp_path / "run")
    new = new_images(folder)
    trained = [EPOCHS * (n + held) for n, held in zip(new, HELD, strict=True)]
    assert column(folder, "backward_images") == trained == column(folder, "images_trained")
    assert column(folder, "forward_images") == [t + n for t, n in zip(trained, new, strict=True)]
    assert column(folder, "teacher_images") == column(folder, "teacher_bytes") == [0, 0, 0]
    assert column(folder, "steps") == [EPOCHS * -(-(n + held) // BATCH) for n, held in zip(new, HELD, strict=True)]
    assert column(folder, "exemplar_bytes") == [3 * classes * PIXELS for classes in (2, 4, 6)]
    tests = read_json(folder.stream)["test_counts"]
    assert column(folder, "eval_images") == [sum(tests[:classes]) for classes in (2, 4, 6)]


def test_a_teacher_passes_every_image_of_training_and_is_stored(tmp_path: Path) -> None:
    folder = done(config("lucir"), tmp_path / "run")
    trained, teacher, model = (column(folder, c) for c in ("backward_images", "teacher_images", "model_bytes"))
    assert teacher == [0, *trained[1:]]
    held = column(folder, "teacher_bytes")
    assert held[0] == 0 and all(0.9 * m < t <= m for m, t in zip(model[1:], held[1:], strict=True))


def test_second_stages_count_their_steps_and_their_passes(tmp_path: Path) -> None:
    folder = done(config("bic"), tmp_path / "run")
    stage = column(folder, "stage_steps")
    assert stage[0] == 0 and min(stage[1:]) > 0
    main = [EPOCHS * -(-n // (BATCH * EPOCHS)) for n in column(folder, "images_trained")]
    assert [steps - s for steps, s in zip(column(folder, "steps"), stage, strict=True)] == main
    passes = zip(*(column(folder, f"{kind}_images") for kind in ("forward", "backward", "teacher")), strict=True)
    assert all(forward > backward + teacher for forward, backward, teacher in passes)


@pytest.mark.parametrize("strategy", ["bic", "lucir"])
def test_interruptions_change_no_count(strategy: str, tmp_path: Path) -> None:
    killed, straight = RunFolder(tmp_path / "killed"), done(config(strategy), tmp_path / "straight")
    assert chop(config(strategy), killed, (3, 5, 9)) == 3
    counts = [name for name in read_jsonl(straight.cost)[0] if "seconds" not in name and "peak" not in name]
    assert len(counts) > 10
    for name in counts:
        assert column(killed, name) == column(straight, name), name


def test_a_kill_between_a_line_and_its_checkpoint_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The experience is trained again and has two lines; its counts are taken once, its seconds add up."""

    def killed(saver: CheckpointPlugin, state: dict[str, Any]) -> None:
        raise Killed

    folder, straight = RunFolder(tmp_path / "killed"), done(config("replay"), tmp_path / "straight")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(CheckpointPlugin, "end", killed)
        execute.execute(config("replay"), folder)
    execute.execute(config("replay"), folder)
    assert column(folder, "experience") == [0, 0, 1, 2]
    found, right = (run_cost(read_jsonl(each.cost)) for each in (folder, straight))
    assert found["train_seconds"] == pytest.approx(sum(column(folder, "train_seconds")))
    for name in right:
        if "seconds" not in name and "peak" not in name:
            assert found[name] == right[name], name
