"""What runs cost: clocks, passes and memory of every experience, summed per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.storage.files import DamagedFile, read_jsonl, write_text
from benchmark.storage.folder import RunFolder
from benchmark.storage.text import to_csv

if TYPE_CHECKING:
    import pandas as pd

SUMMED = (
    "images_trained", "forward_images", "backward_images", "teacher_images", "eval_images", "steps", "stage_steps",
)  # fmt: skip
SECONDS = ("train_seconds", "eval_seconds")
LARGEST = (
    "parameters", "model_bytes", "teacher_bytes", "exemplar_bytes", "state_bytes", "peak_rss_bytes",
    "peak_device_bytes",
)  # fmt: skip


def run_cost(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Cost of a run from the lines of its cost.jsonl; a value that an older imcil did not count is missing.

    An experience that was trained again after a kill has two lines: its counts are taken once, its seconds add up.
    """
    last = {line["experience"]: line for line in lines}
    found: dict[str, float] = {}
    for names, rows, combine in ((SUMMED, last.values(), sum), (SECONDS, lines, sum), (LARGEST, last.values(), max)):
        for name in names:
            values = [row[name] for row in rows if name in row]
            if values and len(values) == len(rows):
                found[name] = combine(values)
    if "forward_images" in found and "backward_images" in found:
        found["compute"] = found["forward_images"] + 2 * found["backward_images"]
    return found


def cost_frame(summary: pd.DataFrame) -> pd.DataFrame:
    """One row per finished run of a summary: run, strategy, its protocol columns, then what it cost."""
    import pandas as pd

    runs = summary[summary["status"] == "done"].drop_duplicates("run")
    first = ["run", "strategy", "dataset", "protocol", "tasks", "memory_mode", "memory_budget", "backbone", "epochs"]
    costs = []
    for run in runs["run"]:
        try:
            costs.append(run_cost(read_jsonl(RunFolder(Path(summary.attrs["runs"]) / run).cost)))
        except (OSError, DamagedFile, KeyError, TypeError, ValueError):
            costs.append({})
    names = ["compute", *SUMMED, *SECONDS, *LARGEST]
    values = pd.DataFrame(costs, columns=names, index=runs.index, dtype=float)
    for name in (name for name in names if name not in SECONDS):
        values[name] = values[name].astype("Int64")
    return pd.concat([runs[first], values.dropna(axis=1, how="all")], axis=1).reset_index(drop=True)


def write_costs(directory: str | Path, summary: pd.DataFrame) -> None:
    """Write DIR/cost.csv: one row per finished run."""
    write_text(Path(directory) / "cost.csv", to_csv(cost_frame(summary)))
