"""One run: config -> run folder. Trains a method on a stream, evaluates after every experience, leaves files behind.

The order of writing makes a run safe to kill: metrics of an experience, then its checkpoint; `result.json` last. What
was written behind the checkpoint that a run goes on from is cut off and written again.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.config.schema import RunConfig
from benchmark.datasets.arrays import images_hash
from benchmark.loading.loader import ArrayLoader
from benchmark.runs import checkpoint, cost
from benchmark.runs.environment import environment, resolve
from benchmark.runs.evaluation import all_metrics, evaluate, headline
from benchmark.runs.loggers import Loggers
from benchmark.runs.prepare import build_learner, prepare
from benchmark.runs.signals import Interrupted, StopRequest
from benchmark.storage.files import (
    DamagedFile,
    append_jsonl,
    read_bytes,
    read_json,
    read_jsonl,
    write_bytes,
    write_json,
)
from benchmark.storage.folder import FORMAT, RunFolder
from benchmark.streams import LongTailedBenchmark
from strategies.networks.incremental import IncrementalNetwork
from strategies.training.diagnostics import DiagnosticsPlugin
from strategies.training.learner import IncrementalLearner

Progress = Callable[[dict[str, Any]], None]
MOST_STAGE_STOPS = 3  # in a row in the same epochs of a stage; the first may have had other work before


def execute(
    run: RunConfig,
    folder: RunFolder,
    progress: Progress = lambda event: None,
    device: str = "auto",
    stop: StopRequest | None = None,
) -> None:
    """Carry a run out, or on: a folder with a checkpoint continues where it was taken, and ends with the same bytes.

    Raises
    ------
    UserError : the config or the data is wrong; nothing was trained.
    Interrupted : `stop` was requested; the run goes on when it is executed again.
    """
    stop = stop or StopRequest()
    recipe, benchmark, arrays = prepare(run)
    previous = _last_checkpoint(run, folder)
    resolved = resolve(run, benchmark, device)
    if previous:  # what changes numbers stays as it was; another device or thread count may carry on
        kept = {key: previous.resolved[key] for key in ("precision", "compile")}
        resolved = replace(resolved, **kept)
    write_json(folder.config, run.model_dump(mode="json"))
    found = {**environment(resolved), "dataset": {"sha256": images_hash(arrays)}}
    write_json(folder.environment, _with_earlier(found, folder) if previous else found)
    folder.note(
        ", ".join(f"{name} {value}" for part in ("versions", "resolved") for name, value in found[part].items())
    )
    write_json(folder.stream, benchmark.info.to_json())

    training = run.training
    loader = ArrayLoader(benchmark.images, arrays, training.augmentation, resolved.device, training.last_batch)
    observers = [DiagnosticsPlugin()] if run.metrics.diagnostics else []
    learner = build_learner(run, recipe, loader, resolved, observers)
    experiences = list(benchmark.train_stream)
    done = previous.experience if previous else 0
    checkpoint.remove(folder, newer_than=previous)  # unusable ones would outlive new ones
    records = _cut(folder.metrics, done)
    if observers:
        _cut(folder.diagnostics, done)
    saver = checkpoint.CheckpointPlugin(folder, run, vars(resolved), stop)
    learner.plugins.append(saver)
    learner.on_stage_step = partial(_stop_in_stage, folder, stop, saver)
    learner.on_stage_epoch = saver.after_stage_epoch
    saver.begin(done, previous.state if previous else None, previous)
    if previous:
        stage = f" and {previous.stage_steps} of its second stages" if previous.stage_steps else ""
        folder.note(f"goes on after experience {done} of {len(experiences)}, step {previous.steps} of the next{stage}")
        if previous.state:
            learner.load_state_dict(checkpoint.detached(previous.state), experiences[:done])
        if previous.progress:
            learner.resume_progress(previous.progress)

    with Loggers(run, folder.path) as loggers, stop.deferred():
        for t, experience in enumerate(experiences[done:], start=done):
            stop.check()
            learner.on_epoch = _reporter((progress, loggers.epoch), t, len(experiences), saver)
            learner.train(experience, eval_streams=[])
            trained, passed = saver.seconds, learner.model.compute.forward
            costs = cost.of_training(learner, saver.steps, trained, arrays.train_images[0].nbytes)
            record, confusion = evaluate(learner, benchmark, t)
            folder.confirm()
            if confusion:
                _write_confusion(folder.confusion_of(t), confusion)
            if run.training.keep == "each" or (run.training.keep == "last" and t + 1 == len(experiences)):
                _write_weights(folder.weights / f"{t:02d}.pt", learner.model)
            append_jsonl(folder.metrics, record)
            records.append(record)
            for observer in observers:
                append_jsonl(folder.diagnostics, {"experience": t, **observer.record(learner)})
            folder.note(_line(benchmark.info.task_kind, record, learner, len(experiences), trained))
            loggers.experience(benchmark.info.task_kind, record)
            costs |= cost.of_evaluation(learner, saver.seconds - trained, passed)
            append_jsonl(folder.cost, {"experience": t, **costs})
            saver.end(learner.state_dict())
        folder.write_result(result(run, benchmark, records))
    folder.tidy()


class NoProgress(RuntimeError):
    """A run is stopped again and again before it can save anything."""


def _stop_in_stage(folder: RunFolder, stop: StopRequest, saver: checkpoint.CheckpointPlugin) -> None:
    """Stop if that was requested. An epoch of a stage begins again, so this must not go on for ever.

    Raises
    ------
    Interrupted : the run stopped.
    NoProgress : so many attempts before ended in this stage without a newer state of it to save.
    """
    if not stop.requested:
        return
    saver.save_stages()
    if folder.held:
        place = max((path.name for path in folder.checkpoints.glob("*.pt")), default="the beginning")
        if (stops := folder.held.stops(place)) >= MOST_STAGE_STOPS:
            raise NoProgress(
                f"its second stage takes longer than the time it is given: {stops + 1} attempts in a row were stopped "
                "in it before they had anything new to save. Give it a longer time limit, or the stage smaller epochs"
            )
        folder.held.stopped_at = place
    raise Interrupted


def _last_checkpoint(run: RunConfig, folder: RunFolder) -> checkpoint.Checkpoint | None:
    """The checkpoint to continue from; None where no line of a file that it writes can be trusted: it starts anew."""
    try:
        recorded = len(read_jsonl(folder.metrics))
        if run.metrics.diagnostics:
            read_jsonl(folder.diagnostics)
    except DamagedFile as error:
        warnings.warn(f"{error} The run starts anew.", stacklevel=2)
        recorded = 0
    return checkpoint.latest(folder, run, recorded)


def _with_earlier(found: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """The environment of a run that goes on, with a list of those that it ran in before; another version is told."""
    try:
        before = read_json(folder.environment)
        earlier = before.pop("earlier", [])
        versions = [{name: each["versions"][name] for name in ("imcil", "torch")} for each in (before, found)]
    except (OSError, DamagedFile, LookupError, TypeError, AttributeError):
        return found
    if versions[0] != versions[1]:
        old, new = (" and ".join(f"{name} {number}" for name, number in each.items()) for each in versions)
        warnings.warn(f"The run was trained with {old} so far and goes on with {new}", stacklevel=2)
    earlier = earlier if isinstance(earlier, list) else []
    if before != found and before not in earlier:
        earlier = [*earlier, before]
    return {**found, "earlier": earlier} if earlier else found


def _cut(path: Path, experiences: int) -> list[dict[str, Any]]:
    """Cut a line file back to its first experiences, in one step; returns their records."""
    records = read_jsonl(path) if experiences else []
    lines = read_bytes(path).splitlines(keepends=True) if records else []
    kept = [(line, record) for line, record in zip(lines, records, strict=False) if record["experience"] < experiences]
    content = b"".join(line for line, _ in kept)
    if path.exists() and read_bytes(path) != content:  # its time tells whether the run moved on
        write_bytes(path, content)
    return [record for _, record in kept]


def result(run: RunConfig, benchmark: LongTailedBenchmark, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that tables and curves need; no clock and no memory figure, so that a repeated run repeats it."""
    info = benchmark.info.to_json()
    kind = benchmark.info.task_kind
    return {
        "format": FORMAT,
        "run": run.run_name,
        "config_hash": run.hash,
        **({} if kind == "single" else {"task_kind": kind}),
        "classifiers": all_metrics(kind, records, info, run.metrics.groups),
        "memory_held": records[-1]["memory_held"],
        "complete": True,
    }


def _reporter(
    listeners: Sequence[Progress], t: int, experiences: int, saver: checkpoint.CheckpointPlugin
) -> Callable[[int, int, float, int], None]:
    def report(epoch: int, epochs: int, loss: float, images: int) -> None:
        rate = images / saver.seconds
        place = {"experience": t, "experiences": experiences, "epoch": epoch, "epochs": epochs}
        for listener in listeners:
            listener({**place, "loss": loss, "rate": rate})

    return report


def _line(kind: str, record: dict[str, Any], learner: IncrementalLearner, experiences: int, seconds: float) -> str:
    """An experience in log.txt: what it took, and the score on all test images of seen classes."""
    images = learner.images_trained
    rate = images / max(seconds, 1e-9)
    return (
        f"experience {record['experience'] + 1}/{experiences}: {images} images in {seconds:.1f} s ({rate:.0f}/s), "
        f"memory {sum(record['memory_held'])}, {headline(kind, record)}"
    )


def _write_weights(path: Path, network: IncrementalNetwork) -> None:
    buffer = io.BytesIO()
    torch.save({name: value.cpu() for name, value in network.state_dict().items()}, buffer)
    write_bytes(path, buffer.getvalue())


def _write_confusion(path: Path, confusions: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **confusions)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())
