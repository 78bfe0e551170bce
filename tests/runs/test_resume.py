"""Runs that are killed, stopped, or left with damaged files end with the bytes of a run that was not.

`small_run.KilledAt` ends a run in this process after a given step; `forks` are real processes for real signals.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from small_run import TINY, AskedAfter, Killed, KilledAt, chop, config, done, interrupt, repeatable, short, states

from benchmark.config.schema import RunConfig
from benchmark.errors import UserError
from benchmark.runs import checkpoint, environment, execute
from benchmark.runs.signals import Interrupted, StopRequest
from benchmark.storage.files import append_jsonl, read_json, read_jsonl
from benchmark.storage.folder import RunFolder
from benchmark.sweeps.engines.worker import carry_out
from strategies import registry
from strategies.replay import Replay

LOOKS = (3, 6, 5, 9, 4, 7)  # steps between kills: all of the small run's epochs, batches and boundaries see some
SCENES: dict[str, Any] = {
    "dataset__name": "glyph_scenes", "dataset__classes": 12, "dataset__train_images": 60, "dataset__test_images": 40,
    "dataset__rho": 5, "dataset__resolution": 16, "stream__protocol": "B0-C4", "stream__profile": "natural",
    "stream__rho": 100, "stream__max_count": None,
}  # fmt: skip
FEWER_KILLS = {"gdumb": 5, "ncm": 3}  # methods of fewer steps


def every_step(strategy: str = "replay", **changes: Any) -> RunConfig:
    """The small run with a checkpoint after every step, and diagnostics."""
    return config(short(strategy), training__checkpoint_minutes=0, metrics__diagnostics=True, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of icarl, which has two classifiers."""
    return done(config("icarl"), tmp_path_factory.mktemp("runs") / "icarl")


# --- kills at any step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", registry.NAMES)
def test_killed_runs_end_as_if_they_had_not_been(strategy: str, tmp_path: Path) -> None:
    """Six kills: inside epochs and between them, inside stages, and between experiences."""
    wanted = every_step(strategy, **(SCENES if registry.get(strategy).task_kind == "multi" else {}))
    folder = RunFolder(tmp_path / "killed")
    assert chop(wanted, folder, LOOKS) == FEWER_KILLS.get(strategy, len(LOOKS))
    assert repeatable(folder) == repeatable(done(wanted, tmp_path / "straight"))
    assert [cost["experience"] for cost in read_jsonl(folder.cost)] == [0, 1, 2]
    assert not folder.checkpoints.exists()


@pytest.mark.parametrize("changes", [
    {"memory__mode": "total", "memory__budget": 7},
    {"memory__selection": "random"},
    {"training__augmentation": "crop_jitter", "training__schedule": "cosine", "training__last_batch": "even"},
    {"training__precision": "bf16"},
    {"stream__protocol": "lfh", "stream__holdout": 0.2},
    {"training__backbone": "resnet20", "training__epochs": 1},
])  # fmt: skip
def test_resuming_is_exact_under_other_settings(changes: dict[str, Any], tmp_path: Path) -> None:
    wanted = every_step("icarl", **changes)
    folder = RunFolder(tmp_path / "killed")
    assert chop(wanted, folder, LOOKS[:4]) == 4
    assert repeatable(folder) == repeatable(done(wanted, tmp_path / "straight"))


class Dropout(SupervisedPlugin):
    """Takes random numbers from torch, and counts steps by Avalanche's clock."""

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.loss = strategy.loss * (1 + 0.5 * torch.rand(())) + 0.0 * strategy.clock.train_iterations

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        strategy.optimizer.param_groups[0]["lr"] *= 0.9 ** (strategy.clock.train_iterations % 3)


def test_random_numbers_of_torch_and_counters_of_avalanche_go_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(registry, "_registered", {})

    @registry.register("dropout")
    class WithDropout(Replay):
        def build(self, context: Any) -> Any:
            parts = super().build(context)
            parts.plugins.append(Dropout())
            return parts

    wanted = every_step("dropout")
    folder = RunFolder(tmp_path / "killed")
    assert chop(wanted, folder, LOOKS) == len(LOOKS)
    straight = done(wanted, tmp_path / "straight")
    assert repeatable(folder) == repeatable(straight)
    assert straight.metrics.read_bytes() != done(every_step("replay"), tmp_path / "replay").metrics.read_bytes()


def test_another_version_is_told_and_both_are_kept(tmp_path: Path, monkeypatch: Any) -> None:
    """In one line, which log.txt holds too; an environment that comes back is listed once, a fresh run lists none."""
    wanted, folder = config("replay", **TINY), RunFolder(tmp_path / "run")
    installed = environment.version
    seen = []
    for number in ("1.0", "2.0", "1.0", "1.0"):
        monkeypatch.setattr(environment, "version", lambda name, n=number: n if name == "imcil" else installed(name))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with folder.noting_warnings():
                interrupt(wanted, folder, 1)
        seen.append([str(warning.message) for warning in caught if "goes on with" in str(warning.message)])
    torch_is = f"torch {installed('torch')}"
    there = f"The run was trained with imcil 1.0 and {torch_is} so far and goes on with imcil 2.0 and {torch_is}"
    back = f"The run was trained with imcil 2.0 and {torch_is} so far and goes on with imcil 1.0 and {torch_is}"
    assert seen == [[], [there], [back], []]
    noted = [line.split("UserWarning: ")[1] for line in folder.log.read_text().splitlines() if "goes on with" in line]
    assert noted == [there, back]
    recorded = read_json(folder.environment)
    assert recorded["versions"]["imcil"] == "1.0"
    assert [each["versions"]["imcil"] for each in recorded["earlier"]] == ["1.0", "2.0"]
    assert "earlier" not in recorded["earlier"][1]


def test_a_kill_in_a_stage_goes_on_at_the_end_of_the_epochs(tmp_path: Path) -> None:
    """Without any checkpoint but that one: the default interval is far longer than the run."""
    wanted = config("bic")
    folder = RunFolder(tmp_path / "killed")
    trained = []
    with pytest.raises(Killed):
        execute.execute(wanted, folder, stop=KilledAt(60))  # a stage has 200 steps, an experience before it about ten
    newest = checkpoint.latest(folder, wanted, recorded=1)
    assert newest is not None and newest.progress is not None
    assert (newest.experience, newest.progress["epoch"], len(read_jsonl(folder.metrics))) == (1, 2, 1)
    execute.execute(wanted, folder, lambda event: trained.append((event["experience"], event["epoch"])))
    assert trained == [(2, 1), (2, 2)]
    assert repeatable(folder) == repeatable(done(wanted, tmp_path / "straight"))


@pytest.mark.parametrize("strategy", ["eeil_lws", "lucir_gvalign", "podnet_lws", "bic"])
def test_a_stage_goes_on_from_its_own_epochs(strategy: str, tmp_path: Path) -> None:
    """Also one that follows another stage, or trains what is not the network's own: each attempt gets on."""
    wanted = every_step(strategy)
    straight = done(wanted, tmp_path / "straight")
    looks = sum(cost["steps"] + cost["stage_steps"] for cost in read_jsonl(straight.cost))
    folder = RunFolder(tmp_path / "killed")
    reached = []
    for _ in range(looks // 8 + 2):  # attempts of 16 steps, of which an epoch may be lost
        try:
            execute.execute(wanted, folder, stop=KilledAt(16))
        except Killed:
            newest = checkpoint.latest(folder, wanted, recorded=9)
            assert newest is not None
            if newest.stage_steps:
                assert newest.progress is not None
                reached.append([state and state["epoch"] for state in newest.progress["stages"]])
        else:
            break
    assert repeatable(folder) == repeatable(straight)
    assert read_jsonl(folder.cost)[-1]["stage_steps"] == read_jsonl(straight.cost)[-1]["stage_steps"]
    assert len({tuple(each) for each in reached}) > 1, reached


def test_a_stop_inside_a_stage_loses_less_than_the_interval(tmp_path: Path, monkeypatch: Any) -> None:
    """Its newest epoch is held in memory, and written when the run is asked to stop."""
    monkeypatch.setattr(checkpoint, "STAGE_SECONDS", 0.0)
    wanted, folder = config("bic"), RunFolder(tmp_path / "stopped")
    for _ in range(5):
        with pytest.raises(Interrupted):
            execute.execute(wanted, folder, stop=AskedAfter(60))
    newest = checkpoint.latest(folder, wanted, recorded=9)
    assert newest is not None and newest.stage_steps > 0
    execute.execute(wanted, folder)
    assert repeatable(folder) == repeatable(done(wanted, tmp_path / "straight"))


def test_a_stage_that_never_has_the_time_it_takes_fails(tmp_path: Path) -> None:
    """Four attempts end in it, the last three of which had nothing else to do."""
    wanted = config("bic")
    folder = RunFolder(tmp_path / "stopped")

    def attempt(stop: StopRequest) -> str:
        return carry_out(wanted, folder, "cpu", lambda *event: None, stop)[0]

    assert [attempt(AskedAfter(60)) for _ in range(4)] == ["interrupted"] * 3 + ["failed"]
    assert len(read_jsonl(folder.metrics)) == 1 and states(folder)[-1].startswith("0001-")
    failure = folder.read_failure()
    assert (
        failure["kind"] == "error"
        and "its second stage takes longer than the time it is given: 4 attempts" in failure["exception"]
    )
    assert "Give it a longer time limit, or the stage smaller epochs" in failure["exception"]

    folder.forgive()
    assert attempt(AskedAfter(60)) == "interrupted"  # counted anew
    assert attempt(StopRequest()) == "done"
    assert repeatable(folder) == repeatable(done(wanted, tmp_path / "straight"))


def test_checkpoints_inside_an_experience_come_after_so_many_minutes(tmp_path: Path) -> None:
    never = RunFolder(tmp_path / "never")
    interrupt(config("replay"), never, 1)
    assert states(never) == ["0001-00000000.pt"]
    always = RunFolder(tmp_path / "always")
    interrupt(every_step("replay"), always, 1)
    newest = states(always)[-1]
    assert len(states(always)) == 2 and newest.startswith("0001-") and newest > "0001-00000000.pt"
    content = torch.load(always.checkpoints / newest, weights_only=True)
    assert content["progress"]["optimizer"]["state"] and content["progress"]["batch"] > 0
    assert content["steps"] == int(newest[5:-3]) and content["seconds"] > 0
    assert config("replay").hash == every_step("replay").hash


def test_a_run_that_is_asked_to_stop_saves_its_step(tmp_path: Path) -> None:
    wanted = config("dgr")
    folder = RunFolder(tmp_path / "stopped")

    class Ask(StopRequest):
        asked = 0

        @property
        def requested(self) -> bool:
            self.asked += 1
            return self.asked > 9

        @requested.setter
        def requested(self, value: bool) -> None: ...

    with pytest.raises(Interrupted) as leaving:
        execute.execute(wanted, folder, stop=Ask())
    assert leaving.value.code == 75
    assert folder.state == "interrupted"
    assert states(folder)[-1] > "0000-00000001.pt"
    execute.execute(wanted, folder)
    assert repeatable(folder) == repeatable(done(wanted, tmp_path / "straight"))


# --- what is lost or damaged ------------------------------------------------------------------------------------------


def test_a_run_killed_between_metrics_and_checkpoint_trains_that_experience_again(
    finished: RunFolder, tmp_path: Path
) -> None:
    wanted = config("icarl")
    folder = RunFolder(tmp_path / "killed")
    interrupt(wanted, folder, 2)
    append_jsonl(folder.metrics, {"experience": 2, "classifiers": {}, "memory_held": []})
    with folder.metrics.open("ab") as file:
        file.write(b'{"experience": 3, "torn')
    execute.execute(wanted, folder)
    assert repeatable(folder) == repeatable(finished)


def test_damaged_checkpoint_falls_back_to_the_one_before(finished: RunFolder, tmp_path: Path) -> None:
    wanted = config("icarl")
    folder = RunFolder(tmp_path / "killed")
    interrupt(wanted, folder, 2)
    newest = folder.checkpoints / "0002-00000000.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"0002-00000000\.pt is damaged .*; using the checkpoint before it"):
        state = checkpoint.latest(folder, wanted, recorded=2)
        assert state is not None and state.experience == 1
        execute.execute(wanted, folder)
    assert repeatable(folder) == repeatable(finished)


@pytest.mark.parametrize("loss", ["all checkpoints", "checkpoint fields", "metrics", "metrics in the middle"])
def test_a_run_that_lost_its_past_starts_anew(finished: RunFolder, tmp_path: Path, loss: str) -> None:
    wanted = config("icarl")
    folder = RunFolder(tmp_path / "killed")
    interrupt(wanted, folder, 2)
    if loss == "all checkpoints":
        for path in folder.checkpoints.iterdir():
            path.write_bytes(b"")
    elif loss == "checkpoint fields":
        for path in folder.checkpoints.iterdir():
            torch.save({"format": checkpoint.FORMAT, "experience": 1}, path)
    elif loss == "metrics":
        folder.metrics.unlink()
    else:
        folder.metrics.write_bytes(b"\x00\x00\n" + folder.metrics.read_bytes())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        interrupt(wanted, folder, 1)  # again: had it gone on from a checkpoint, it would be past this
    assert states(folder) == ["0001-00000000.pt"]
    if loss != "metrics":
        assert any("damaged" in str(warning.message) for warning in caught)
    execute.execute(wanted, folder)
    assert repeatable(folder) == repeatable(finished)


@pytest.mark.parametrize("still_recorded", [True, False])
def test_damaged_diagnostics_end_no_run(tmp_path: Path, still_recorded: bool) -> None:
    """They are recorded from the first experience on again, if they are still wanted; else they are let alone."""
    wanted = config("replay", **TINY, metrics__diagnostics=True)
    straight = done(wanted, tmp_path / "straight")
    folder = RunFolder(tmp_path / "killed")
    interrupt(wanted, folder, 1)
    folder.diagnostics.write_bytes(damaged := b"\x00\x00\n" + folder.diagnostics.read_bytes())
    trained: list[int] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        now = config("replay", **TINY, metrics__diagnostics=still_recorded)
        execute.execute(now, folder, lambda event: trained.append(event["experience"]))
    assert any("line 1 is not a JSON object. The run starts anew" in str(w.message) for w in caught) == still_recorded
    assert trained == ([0, 1] if still_recorded else [1])
    assert folder.result.read_bytes() == straight.result.read_bytes()
    assert folder.diagnostics.read_bytes() == (straight.diagnostics.read_bytes() if still_recorded else damaged)


def test_checkpoints_are_plain_state(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "killed")
    interrupt(config("bic"), folder, 1)
    content = torch.load(folder.checkpoints / "0001-00000000.pt", weights_only=True)
    assert set(content) == {"format", *vars(checkpoint.Checkpoint(1, "", {}, {}, {}))}
    assert (content["format"], content["experience"]) == (checkpoint.FORMAT, 1)


def test_a_strangers_checkpoint_cannot_run_code(finished: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "killed")
    interrupt(config("icarl"), folder, 1)
    trace = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    torch.save({"format": checkpoint.FORMAT, "state": Attack()}, folder.checkpoints / "0001-00000000.pt")
    with pytest.warns(UserWarning, match=r"0001-00000000\.pt is damaged \(UnpicklingError\)"):
        execute.execute(config("icarl"), folder)
    assert not trace.exists()
    assert repeatable(folder) == repeatable(finished)


def test_checkpoint_of_another_config_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "killed")
    interrupt(config("replay"), folder, 1)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(
        UserError, match=r"0001-00000000\.pt belongs to another config \(training\.seed is 0 there and 1 here\)"
    ):
        execute.execute(config("replay", training__seed=1), folder)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_checkpoint_of_a_newer_imcil_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "killed")
    interrupt(config("replay"), folder, 1)
    path = folder.checkpoints / "0001-00000000.pt"
    content = torch.load(path, weights_only=True)
    torch.save({**content, "format": 99, "unheard_of": 1}, path)
    with pytest.raises(UserError, match="has checkpoint format 99, this imcil reads up to 2; please update imcil"):
        execute.execute(config("replay"), folder)
    assert path.exists()


def test_diagnostics_may_be_switched_on_between_attempts(finished: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "killed")
    interrupt(config("icarl"), folder, 1)
    interrupt(config("icarl", metrics__diagnostics=True), folder, 2)
    append_jsonl(folder.diagnostics, {"experience": 2})  # written, then killed before the checkpoint
    execute.execute(config("icarl", metrics__diagnostics=True), folder)
    assert [record["experience"] for record in read_jsonl(folder.diagnostics)] == [1, 2]
    assert folder.result.read_bytes() == finished.result.read_bytes()


def test_to_go_on_is_no_progress(tmp_path: Path) -> None:
    """What is whole is not written again: workers that die one after the other would seem to move the run on."""
    path = tmp_path / "metrics.jsonl"
    for experience in (0, 1):
        append_jsonl(path, {"experience": experience})
    os.utime(path, (1, 1))
    assert len(execute._cut(path, 2)) == 2 and path.stat().st_mtime == 1
    assert len(execute._cut(path, 1)) == 1 and path.stat().st_mtime > 1
