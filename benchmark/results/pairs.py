"""Results as pairs: which methods differ, setting by setting, and which differences the number of runs can carry.

Every method of a sweep sees the same streams, so methods are compared run by run: a pair is two runs of one setting
with equal class order and equal seeds. Fractions in, fractions out; the numbers themselves are `results.statistics`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import UserError
from benchmark.results import labels
from benchmark.results.statistics import ALPHA, holm, mean_interval, paired_test, standard_deviation, standard_error
from benchmark.results.summary import text

if TYPE_CHECKING:
    import pandas as pd

PAIRS_FOR_BOLD = 5
TOO_FEW = "too few pairs"


def paired_scores(summary: pd.DataFrame, metric: str = "average_accuracy_seen") -> pd.DataFrame:
    """Finished runs as a matrix: index (setting, order, seed), one column per method, nan where a run is missing.

    A named order ("order_a") is one order whatever its seed. Raises UserError when runs of one cell are no repeats
    (`grouping.check_comparable`) or there is no such metric.
    """
    if metric not in summary.columns:
        raise UserError(f'There is no metric "{metric}" in these results.')
    rows = labels.label_rows(summary)
    rows.attrs = {}  # pandas copies them with every operation
    rows = rows[(rows["status"] == "done") & rows[metric].notna()]
    for (method, setting), runs in rows.groupby(["method", "setting"]):
        labels.check_comparable(runs, str(method), str(setting))
    shuffled = rows["order"].map(text) == "shuffled"
    order_seed = rows["order_seed"].map(text)
    rows["order"] = rows["order"].map(text).where(~shuffled, order_seed.map("shuffled {}".format))
    rest = [rows[name].map(text) for name in ("subset_seed", "rank_seed", "training_seed")]
    rows["seed"] = [" ".join(parts) for parts in zip(order_seed.where(~shuffled, ""), *rest, strict=True)]
    matrix = rows.pivot_table(index=["setting", "order", "seed"], columns="method", values=metric, aggfunc="first")
    settings = labels.setting_order(rows)
    matrix = matrix.reindex(settings, level="setting") if len(matrix) else matrix
    matrix.columns.name = None
    return matrix.astype(float)


def paired_differences(scores: pd.DataFrame, method: str, baseline: str) -> pd.Series:
    """`method` minus `baseline` of every (setting, order, seed) that has both."""
    differences: pd.Series = (scores[method] - scores[baseline]).dropna()
    return differences


def differences(
    summary: pd.DataFrame, baseline: str, metric: str = "average_accuracy_seen", lower_is_better: bool = False
) -> pd.DataFrame:
    """Every method against `baseline` (a method's label), one row per setting and method: `score_differences`.

    Raises
    ------
    UserError : no such metric or baseline.
    """
    scores = paired_scores(summary, metric)
    if baseline not in scores.columns:
        raise UserError(f'"{baseline}" has no finished run to compare with.')
    return score_differences(scores, baseline, lower_is_better)


def score_differences(scores: pd.DataFrame, baseline: str, lower_is_better: bool = False) -> pd.DataFrame:
    """Every column of `paired_scores` against `baseline`, one row per setting and method.

    Columns: setting, method, pairs, orders, difference (mean of method - baseline), sd, se, low, high, interval, test,
    p, smallest_p, wins, ties, losses, p_holm, smallest_p_holm, verdict. Holm's family is all rows that have a pair.
    `verdict` is "better", "worse", "undecided", or "too few pairs" when even the smallest attainable p, corrected, is
    above 0.05; "" without a pair.
    """
    import pandas as pd

    found: list[dict[str, Any]] = []
    for setting in dict.fromkeys(scores.index.get_level_values("setting")):
        part = scores.loc[[setting]]
        for method in (name for name in scores.columns if name != baseline):
            pairs = paired_differences(part, method, baseline)
            d, orders = pairs.to_numpy(), list(pairs.index.get_level_values("order"))
            interval, test = mean_interval(d, orders), paired_test(d)
            better = -d if lower_is_better else d
            found.append(
                {
                    "setting": setting,
                    "method": method,
                    "pairs": len(d),
                    "orders": len(set(orders)),
                    "difference": float(d.mean()) if len(d) else float("nan"),
                    "sd": standard_deviation(d),
                    "se": standard_error(d) if len(d) else float("nan"),
                    "low": interval.low,
                    "high": interval.high,
                    "interval": interval.kind,
                    "test": test.kind,
                    "p": test.p if len(d) else float("nan"),
                    "smallest_p": test.smallest_p if len(d) else float("nan"),
                    "wins": int((better > 0).sum()),
                    "ties": int((better == 0).sum()),
                    "losses": int((better < 0).sum()),
                }
            )
    columns = ["setting", "method", "pairs", "orders", "difference", "sd", "se", "low", "high", "interval", "test", "p"]
    frame = pd.DataFrame(found, columns=[*columns, "smallest_p", "wins", "ties", "losses"])
    compared = frame["pairs"] > 0
    for name in ("p", "smallest_p"):
        frame[f"{name}_holm"] = np.nan
        frame.loc[compared, f"{name}_holm"] = holm(frame.loc[compared, name])
    frame["verdict"] = [
        _verdict(pairs, difference if not lower_is_better else -difference, p, smallest)
        for pairs, difference, p, smallest in frame[["pairs", "difference", "p_holm", "smallest_p_holm"]].itertuples(
            index=False, name=None
        )
    ]
    return frame


def is_told_apart(scores: pd.DataFrame, method: str, runner_up: str, lower_is_better: bool = False) -> bool:
    """True when a method may be printed in bold: at least 5 pairs, and an interval of their gains above zero.

    Means do not tell that: one method may have finished easier runs than the other.
    """
    pairs = paired_differences(scores, method, runner_up)
    if len(pairs) < PAIRS_FOR_BOLD:
        return False
    gains = (-pairs if lower_is_better else pairs).to_numpy()
    interval = mean_interval(gains, list(pairs.index.get_level_values("order")))
    return interval.excludes_zero and bool(gains.mean() > 0)


def _verdict(pairs: int, gain: float, p: float, smallest_p: float) -> str:
    if pairs == 0:
        return ""
    if smallest_p > ALPHA:
        return TOO_FEW
    if p > ALPHA:
        return "undecided"
    return "better" if gain > 0 else "worse"
