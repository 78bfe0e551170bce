"""per_class.csv: how many test images of every class each classifier got right, after every experience."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.results.user_metrics import NotKept, RunData, run_data
from benchmark.storage.files import write_text
from benchmark.storage.text import printable, to_csv


def write_per_class(directory: Path) -> Path:
    """Write DIR/per_class.csv and return its path: one row per finished run, classifier, experience and seen class.

    `class` is the class's name, `label` its label in the dataset, `arrival` its place in the order of arrival,
    `arrives` the experience that brings it, `images` its training images before a hold-out. Runs on images with
    several labels have no such counts and are left out.

    Raises
    ------
    UserError : no run of DIR has finished, none keeps counts per class, or a stream.json does not fit to them.
    """
    import pandas as pd

    rows = [row for run in run_data(directory / "runs") for row in _rows(run)]
    if not rows:
        raise UserError(f"No finished run in {directory} keeps counts per class.")
    path = directory / "per_class.csv"
    write_text(path, to_csv(pd.DataFrame(rows)))
    return path


def _rows(run: RunData) -> list[dict[str, Any]]:
    try:
        records = run.records
    except NotKept:
        return []
    try:
        return _classes(run, records)
    except (LookupError, TypeError) as error:
        raise UserError(f"{run.path / 'stream.json'} does not describe the classes of metrics.jsonl.") from error


def _classes(run: RunData, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    stream = run.stream
    arrives = [t for t, size in enumerate(stream["sizes"]) for _ in range(size)]
    return [
        {
            "run": run.name,
            "classifier": run.classifier,
            "experience": t,
            "class": printable(stream["class_names"][c]),
            "label": stream["class_order"][c],
            "arrival": c,
            "arrives": arrives[c],
            "images": stream["profile_counts"][c],
            "correct": int(correct),
            "total": int(total),
        }
        for t, record in enumerate(records)
        for c, (correct, total) in enumerate(zip(record["correct"], record["total"], strict=True))
    ]
