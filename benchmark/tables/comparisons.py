"""Tables that compare: paired differences to a baseline, average ranks, and what the results vary with.

Numbers and their meaning are `benchmark.results.statistics`; here they become a table with its notes, in percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmark.errors import UserError, did_you_mean
from benchmark.results import statistics
from benchmark.results.averages import cells, competitors
from benchmark.results.labels import label_rows, seeds_note
from benchmark.results.pairs import differences, paired_differences, paired_scores
from benchmark.tables.cells import EMPTY, lower_is_better, percent, title
from benchmark.tables.notes import about

if TYPE_CHECKING:
    import pandas as pd

INTERVAL = f"{100 * statistics.LEVEL:.0f} % interval"


def find_baseline(summary: pd.DataFrame, name: str) -> str:
    """The label of the row that `name` means: a label of the table, or a strategy with a single row that is finished.

    Raises UserError when there is none, or several.
    """
    rows = label_rows(summary)
    rows = rows[rows["status"] == "done"]
    labels = set(rows["method"])
    found = [name] if name in labels else sorted(set(rows.loc[rows["strategy"] == name, "method"]))
    if not found:
        raise UserError(f'The baseline "{name}" has no finished run.{did_you_mean(name, labels)}')
    if len(found) > 1:
        raise UserError(f'The baseline "{name}" has several rows; name one of them: {", ".join(found)}.')
    return found[0]


def differences_table(
    summary: pd.DataFrame, baseline: str, metric: str = "average_accuracy_seen"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(numbers, table) of every method against a baseline row, setting by setting: `results.pairs.differences`.

    Raises UserError on an unknown metric or baseline (`find_baseline`).
    """
    label = find_baseline(summary, baseline)
    lower = lower_is_better(summary, metric)
    numbers = differences(summary, label, metric, lower)
    shown = numbers[numbers["pairs"] > 0].assign(
        place=[list(dict.fromkeys(numbers["setting"])).index(s) for s in numbers.loc[numbers["pairs"] > 0, "setting"]],
        gain=numbers["difference"] * (1 if lower else -1),
    )
    shown = shown.sort_values(["place", "gain", "method"], kind="stable")
    table = shown[["method", "setting"]].copy()
    table["difference"] = [f"{'+' if d > 0 else ''}{percent(d)}" for d in shown["difference"]]
    table[INTERVAL] = [
        EMPTY if low != low else f"{percent(low)} to {percent(high)}"
        for low, high in zip(shown["low"], shown["high"], strict=True)
    ]
    table["pairs"] = shown["pairs"].map(str)
    for column, header in (("smallest_p", "smallest p"), ("p", "p"), ("p_holm", "p (Holm)")):
        table[header] = shown[column].map(_p)
    table["verdict"] = shown["verdict"]
    table = table.set_index("method")
    kinds = " or ".join(sorted(set(shown["interval"])))
    tests = " or ".join(sorted(set(shown["test"])))
    notes = [
        f"Difference: mean over pairs of (method - {label}), in points of percent{'; lower is better' * lower}; a pair "
        f"is two runs of equal stream and seeds ({seeds_note(label_rows(summary))}).",
        f"{INTERVAL}: {kinds}; one comparison at a time.",
        f"p: {tests} test, two-sided; smallest p: the least that so many pairs can give. The verdict is at "
        f"{statistics.ALPHA} after Holm's correction over the {len(shown)} rows; where even the smallest p, corrected, "
        "is above that, it is: too few pairs.",
    ]
    without = _without_pairs(summary, shown, label, metric)
    if without:
        notes.append(f"Without a pair so far: {', '.join(without)}.")
    table.attrs = {
        "title": f"Paired differences to {label}. {title(summary, metric)}. In points of percent.",
        "notes": [*notes, *about(summary)],
    }
    return numbers, table


def pair_table(summary: pd.DataFrame, rows: Sequence[tuple[str, str]], metrics: Sequence[str]) -> pd.DataFrame:
    """Rows against others, (method, baseline), in some metrics: mean paired difference, interval, which way pairs went.

    Raises UserError on an unknown metric or row (`find_baseline`), and without a pair.
    """
    import pandas as pd

    named = [(find_baseline(summary, method), find_baseline(summary, baseline)) for method, baseline in rows]
    lines, kinds = [], set()
    for metric in metrics:
        scores = paired_scores(summary, metric)
        lower = lower_is_better(summary, metric)
        for one, other in named:
            if not {one, other} <= set(scores.columns):
                raise UserError(f'"{one}" and "{other}" have no runs with {metric} to compare.')
            for setting in dict.fromkeys(scores.index.get_level_values("setting")):
                pairs = paired_differences(scores.loc[[setting]], one, other)
                if pairs.empty:
                    raise UserError(f'"{one}" and "{other}" have no pair of runs on {setting} yet.')
                interval = statistics.mean_interval(pairs.to_numpy(), list(pairs.index.get_level_values("order")))
                kinds.add(interval.kind)
                better = int((pairs < 0).sum() if lower else (pairs > 0).sum())
                lines.append(
                    {
                        "pair": f"{one} minus {other}",
                        "metric": metric + " (lower is better)" * lower,
                        "setting": setting,
                        "difference": f"{'+' if pairs.mean() > 0 else ''}{percent(float(pairs.mean()))}",
                        INTERVAL: EMPTY if interval.low != interval.low else
                        f"{percent(interval.low)} to {percent(interval.high)}",
                        "better": f"{better} of {len(pairs)}",
                    }
                )  # fmt: skip
    table = pd.DataFrame(lines)
    alike = {"pair": len(named) == 1, "metric": len(metrics) == 1}  # what is the same everywhere stands in the title
    subject = str(table["pair"].iloc[0]) if alike["pair"] else "Pairs of methods"
    what = f": {title(summary, metrics[0])}" if alike["metric"] else ""
    index = "pair" if alike["metric"] and not alike["pair"] else "metric"
    table = table.drop(columns=[name for name, same in alike.items() if same and name != index]).set_index(index)
    table.attrs = {
        "title": f"{subject}{what}, in points of percent",
        "notes": [
            f"Mean over pairs, runs of equal stream and seeds ({seeds_note(label_rows(summary))}); "
            f"{INTERVAL}: {' or '.join(sorted(kinds))}, one comparison at a time; better: pairs in which "
            f"{named[0][0] if alike['pair'] else 'the first of the two'} is.",
        ],
    }
    return table


def ranks_table(summary: pd.DataFrame, metric: str = "average_accuracy_seen") -> tuple[pd.DataFrame, pd.DataFrame]:
    """(numbers, table) of average ranks over runs, with the critical difference and the interquartile mean.

    Raises UserError when fewer than two methods finished the same two runs.
    """
    import pandas as pd

    summary = competitors(summary)
    found = statistics.average_ranks(paired_scores(summary, metric), lower_is_better(summary, metric))
    numbers = pd.DataFrame({"average_rank": found.rank, "interquartile_mean": found.interquartile_mean})
    numbers = numbers.rename_axis("method").reset_index()
    numbers["critical_difference"] = found.critical_difference
    numbers["blocks"] = found.blocks
    table = pd.DataFrame(
        {
            "average rank": [f"{rank:.2f}" for rank in found.rank],
            "interquartile mean": [percent(value) for value in found.interquartile_mean],
        },
        index=pd.Index(found.rank.index, name="method"),
    )
    cliques = "; ".join(" – ".join(dict.fromkeys((clique[0], clique[-1]))) for clique in found.cliques) or "none"
    notes = [
        f"Rank 1 is best; averaged over {found.blocks} blocks, one per {found.block_kind} of these results.",
        "One row a method, by the classifier that its paper reports; joint training, a bound, takes no part.",
        f"Critical difference {found.critical_difference:.2f} (Nemenyi, {statistics.ALPHA}; Friedman p "
        f"{_p(found.friedman_p)}): methods whose ranks differ by less are not told apart. Such ranges: {cliques}.",
        "Interquartile mean: mean of the middle half of the same runs, in percent.",
    ]
    if found.left_out or found.blocks_left_out:
        names = ", ".join(found.left_out) or "no method"
        notes.append(f"Left out, because runs are missing: {names}; {found.blocks_left_out} blocks.")
    table.attrs = {
        "title": f"Average ranks. {title(summary, metric)}.",
        "notes": [*notes, *about(summary)],
    }
    return numbers, table


def variance_table(summary: pd.DataFrame, metric: str = "average_accuracy_seen") -> tuple[pd.DataFrame, pd.DataFrame]:
    """(numbers, table) of the share of variation by method, class order, seed and their interplay, per setting.

    Settings in which fewer than two methods finished the same two runs are left out. Raises UserError if none is left.
    """
    import pandas as pd

    scores = paired_scores(summary, metric)
    parts = {}
    for setting in dict.fromkeys(scores.index.get_level_values("setting")):
        try:
            split = statistics.variance_split(scores.loc[[setting]])
        except UserError:
            continue
        if split["df"].drop("method").any():  # else nothing but the method varies
            parts[setting] = split
    if not parts:
        raise UserError("A split of variance needs two methods that finished the same two runs of a setting.")
    numbers = pd.concat(parts, names=["setting", "source"]).reset_index()
    text = [
        EMPTY if not df else f"{100 * share:.1f} %" + ("" if sd != sd else f" (sd {percent(sd)})")
        for df, share, sd in numbers[["df", "share", "sd"]].itertuples(index=False, name=None)
    ]
    table = numbers.assign(text=text).pivot(index="setting", columns="source", values="text")
    table = table.reindex(index=list(parts), columns=list(next(iter(parts.values())).index))
    table.columns.name = None
    table.insert(0, "over", [_over(part) for part in parts.values()])
    one_seed_each = [scores.loc[setting].index.get_level_values("order").is_unique for setting in parts]
    notes = [
        "Share of the total sum of squares; in brackets the standard deviation, in points of percent, of that source "
        "alone (method of moments). Methods and (order, seed) pairs with missing runs are left out.",
        "Seed: subset, rank and training seeds, within a class order. Rest: method x seed.",
    ]
    if any(one_seed_each):
        notes.append(
            "Every class order has one seed here: order and seed cannot be told apart, both stand under order."
        )
    table.attrs = {
        "title": f"What the results vary with. {title(summary, metric)}.",
        "notes": [*notes, *about(summary)],
    }
    return numbers, table


def _p(value: float) -> str:
    return EMPTY if value != value else "< 0.0001" if value < 0.0001 else f"{value:.4f}".rstrip("0").ljust(5, "0")


def _over(part: pd.DataFrame) -> str:
    """How many methods and (order, seed) pairs stand behind a split of variance, from its degrees of freedom."""
    df = {str(source): int(value) for source, value in part["df"].items()}
    return f"{df['method'] + 1} methods x {df['order'] + df['seed'] + 1} runs"


def _without_pairs(summary: pd.DataFrame, shown: pd.DataFrame, baseline: str, metric: str) -> list[str]:
    """Rows of the main table that have no pair: "bic (LFH-5, LFS-5)"."""
    paired = set(zip(shown["method"], shown["setting"], strict=True))
    missing: dict[str, list[str]] = {}
    found = cells(summary, metric)
    for method, setting, expected in found[["method", "setting", "expected"]].itertuples(index=False, name=None):
        if method != baseline and expected and (method, setting) not in paired:
            missing.setdefault(method, []).append(setting)
    return [f"{method} ({', '.join(settings)})" for method, settings in sorted(missing.items())]
