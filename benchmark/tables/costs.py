"""cost.jsonl of runs -> cost.csv, the cost of every method beside that of a baseline, accuracy at matched cost.

Counts are exact and the same on any machine. Seconds and peak memory belong to the machine they were measured on, and
to what else ran there: they stand in cost.csv and in no table.
`compute` adds a run's passes in units of one forward pass of one image: a backward pass counts twice (the usual
estimate), teacher passes, choosing exemplars and second stages count, evaluation does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmark.errors import UserError
from benchmark.results.averages import cells
from benchmark.results.costs import cost_frame
from benchmark.results.labels import label_rows, setting_order
from benchmark.tables.cells import EMPTY, percent, row_order, title
from benchmark.tables.notes import about

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "replay"
PASSES = (
    "Passes: images forward, plus twice those that went backward; teacher, choice of exemplars and second stages "
    "included, evaluation not. Exact on every machine."
)
NOT_COUNTED = "No run of these results counted its passes: they were made by an older imcil."
TOLERANCE = 0.05  # a method may cost this much more than the budget it is shown under


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
