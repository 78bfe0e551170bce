"""Runs in which an experience ends every epoch on a few images, found from what they recorded: a note under tables.

A few images with a step to themselves, normalised by their own values, give a longer and noisier gradient than a full
batch: one such step an epoch costs up to nine points of average accuracy (results/README.md). It harms the weights; the
running statistics of batch norm, computed anew from full batches, change nothing. Which method is hit, and at which
experience, follows from the counts of images, hold-out and memory, not from its merit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark.storage.files import DamagedFile, mapping, read_jsonl
from benchmark.storage.folder import RunFolder
from benchmark.storage.records import RunRecord

if TYPE_CHECKING:
    import pandas as pd

SMALL = 1 / 8  # of a batch
NAMED = 4  # methods at most, in a note


def find_small(records: Sequence[RunRecord]) -> dict[str, tuple[int, int]]:
    """Run name -> (images in the smallest last batch, batch size), of finished runs where that is below `SMALL`.

    From the counts of cost.jsonl: an epoch of n images leaves n modulo the batch size. Experiences of another number of
    steps than that gives (a method that composes its own batches, an older imcil) are left out.
    """
    found = {}
    for record in records:
        training = mapping(record.config.get("training")) if record.result and record.config else {}
        size, epochs = training.get("batch_size"), training.get("epochs")
        if not size or not epochs or training.get("last_batch", "keep") != "keep":
            continue
        try:
            left = [_left(line, size, epochs) for line in read_jsonl(RunFolder(record.path).cost)]
        except (OSError, DamagedFile, KeyError, TypeError, ValueError):
            continue
        if small := [images for images in left if 0 < images < SMALL * size]:
            found[record.name] = (min(small), size)
    return found


def _left(line: dict[str, Any], size: int, epochs: int) -> int:
    """Images in the last batch of an experience's epochs; 0 where all batches are full, or it cannot be told."""
    images, rest = divmod(line["images_trained"], epochs)
    full, left = divmod(images, size)
    if rest or not full or left <= 1 or line["steps"] != epochs * (full + 1):
        return 0
    return left


def note(summary: pd.DataFrame) -> list[str]:
    """One line on the runs of `summary` with a small last batch, [] where there is none."""
    small: dict[str, tuple[int, int]] = summary.attrs.get("small_batches", {})
    runs = summary.drop_duplicates("run")
    strategies = {run: name for run, name in zip(runs["run"], runs["strategy"], strict=True) if run in small}
    if not strategies:
        return []
    worst: dict[str, tuple[int, int]] = {}
    for run, strategy in strategies.items():
        worst[strategy] = min(small[run], worst.get(strategy, small[run]))
    named = sorted(worst, key=lambda strategy: (worst[strategy], strategy))
    told = ", ".join(f"{strategy} ({worst[strategy][0]} of {worst[strategy][1]})" for strategy in named[:NAMED])
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return [
        f"In {len(strategies)} of {len(runs)} runs an experience ends every epoch on a batch of few images, "
        f"which may lower its accuracy: {told}{more}. training.last_batch=even avoids it."
    ]
