"""cost.jsonl of runs -> cost.csv, the cost of every method beside that of a baseline, accuracy at matched cost.

Counts are exact and the same on any machine. Seconds and peak memory belong to the machine they were measured on, and
to what else ran there: they stand in cost.csv and in no table.
`compute` adds a run's passes in units of one forward pass of one image: a backward pass counts twice (the usual
estimate), teacher passes, choosing exemplars and second stages count, evaluation does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cells import EMPTY, about, cells, percent, row_order, title
from benchmark.errors import UserError
from benchmark.grouping import label_rows, setting_order
from benchmark.markup import to_csv
from benchmark.store import DamagedFile, RunFolder, read_jsonl, write_text

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
BASELINE = "replay"
PASSES = (
    "Passes: images forward, plus twice those that went backward; teacher, choice of exemplars and second stages "
    "included, evaluation not. Exact on every machine."
)
NOT_COUNTED = "No run of these results counted its passes: they were made by an older imcil."
TOLERANCE = 0.05  # a method may cost this much more than the budget it is shown under


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


def cost_table(summary: pd.DataFrame, order: Sequence[str] = ()) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Methods x what they cost, passes relative to `BASELINE` of the same setting and seeds. Seconds: see cost.csv.

    Raises UserError when no run counted its passes, or none is of the baseline.
    """
    import pandas as pd

    rows = _with_cost(summary)
    keys = ["setting", "order_seed", "subset_seed", "rank_seed", "training_seed"]
    base = rows[rows["strategy"] == BASELINE].groupby(keys, dropna=False)["compute"].mean()
    if base.empty:
        raise UserError(f"Costs are shown relative to {BASELINE}, of which these results hold no finished run.")
    both = rows.join(base.rename("compute_base"), on=keys).dropna(subset=["compute_base"])
    both["passes"] = both["compute"] / both["compute_base"]
    both["stored"] = both[["teacher_bytes", "exemplar_bytes", "state_bytes"]].sum(axis=1) / 1e6
    names = ["passes", "teacher_share", "stage_steps", "stored", "parameters"]
    both["teacher_share"] = both["teacher_images"] / both["forward_images"]
    cells_of = both.groupby(["setting", "base"])
    found = cells_of[names].mean().assign(n=cells_of["run"].count()).reset_index().rename(columns={"base": "method"})
    place = {setting: i for i, setting in enumerate(setting_order(both))}
    found = found.sort_values("passes", kind="stable").sort_values("setting", key=lambda s: s.map(place), kind="stable")
    found = found.reset_index(drop=True)
    table = pd.DataFrame(
        {
            "setting": found["setting"].tolist(),
            "runs": [str(n) for n in found["n"]],
            "passes": [f"{value:.2f}" for value in found["passes"]],
            "teacher's share of forward passes": [f"{100 * value:.0f} %" for value in found["teacher_share"]],
            "steps of second stages": [f"{value:,.0f}" for value in found["stage_steps"]],
            "stored besides the network (MB)": [f"{value:.2f}" for value in found["stored"]],
            "parameters": [f"{value:,.0f}" for value in found["parameters"]],
        },
        index=pd.Index(found["method"], name="method"),
    )
    counted = summary[summary["run"].isin(both["run"])]
    counted.attrs = summary.attrs
    lines = [
        PASSES,
        f"A ratio to {BASELINE} with the same setting and seeds, averaged over the runs that have one.",
        "Stored: exemplars at a byte a value, the old network while it is needed, statistics.",
        *about(counted),
    ]
    table.attrs = {"title": f"What a method costs, relative to {BASELINE}.", "notes": lines, "bold": []}
    return found, table


def matched_table(
    summary: pd.DataFrame, order: Sequence[str] = (), metric: str = "average_accuracy_seen"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Methods x (setting, budget): a metric where every method may spend as much as `BASELINE` did.

    The budgets are what the baseline's runs of each length cost. A method stands there with its longest training that
    costs no more, 5 % tolerated; its epochs stand behind the figure. Raises UserError when all runs are equally long.
    """
    import pandas as pd

    lengths = sorted(set(summary.loc[summary["status"] == "done", "epochs"].dropna()))
    if len(lengths) < 2:
        raise UserError(
            "Accuracy at matched cost needs runs of several lengths: sweep training.epochs, for example [5, 10, 20]."
        )
    paid = cost_frame(summary).set_index("run").get("compute")
    if paid is None:
        raise UserError(NOT_COUNTED)
    every = []
    for length in lengths:
        part = summary[summary["epochs"] == length].assign(epochs=0)  # one setting, whatever the length
        part.attrs = dict(summary.attrs)
        rows = label_rows(part)
        means = rows["run"].map(paid).astype(float).groupby([rows["method"], rows["setting"]]).mean()
        found = cells(part, metric).join(means.rename("compute"), on=["method", "setting"])
        every.append(found[found["n"] > 0].assign(epochs=int(length)))
    found = pd.concat(every, ignore_index=True)
    chosen = []
    for setting, part in found.groupby("setting", sort=False):
        budgets = part[part["strategy"] == BASELINE].drop_duplicates("epochs")
        for length, budget in budgets[["epochs", "compute"]].itertuples(index=False, name=None):
            within = part[part["compute"] <= (1 + TOLERANCE) * budget].sort_values("epochs")
            column = f"{setting}: {BASELINE}, epochs {length}"
            chosen.append(within.drop_duplicates("method", keep="last").assign(budget=budget, column=column))
    if not chosen:
        raise UserError(f"The budgets are those of {BASELINE}, of which these results hold no finished run.")
    numbers = pd.concat(chosen, ignore_index=True)
    numbers["text"] = [
        f"{percent(mean)}{f' ± {percent(sd)}' if n > 1 else ''} @{epochs}"
        for mean, sd, n, epochs in numbers[["mean", "sd", "n", "epochs"]].itertuples(index=False, name=None)
    ]
    table = numbers.pivot(index="method", columns="column", values="text").fillna(EMPTY)
    table = table.reindex(
        index=row_order(numbers, order, False, "column"), columns=list(dict.fromkeys(numbers["column"]))
    )
    table.columns.name = None
    lines = [
        f"Every column allows as many passes as {BASELINE} with that many epochs needs ({100 * TOLERANCE:.0f} % "
        "tolerated); @n: the method's longest training, in epochs, that fits. A dash: none does.",
        PASSES,
        *about(summary),
    ]
    table.attrs = {"title": f"At matched cost: {title(summary, metric)}. In percent.", "notes": lines, "bold": []}
    return numbers.drop(columns=["text", "done", "expected", "failed"]), table


def _with_cost(summary: pd.DataFrame) -> pd.DataFrame:
    """Labelled finished runs, one row each, with their cost; raises UserError when no run counted its passes."""
    costs = cost_frame(summary)
    if "compute" not in costs:
        raise UserError(NOT_COUNTED)
    known = costs.dropna(subset=["compute"]).set_index("run")
    rows = label_rows(summary)
    rows = rows[rows["status"] == "done"].drop_duplicates("run")
    return rows.join(known[[c for c in known.columns if c not in rows.columns]].astype(float), on="run", how="inner")
