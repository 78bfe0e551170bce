"""Which runs belong in one cell: the same method under the same protocol, differing in seeds only.

Tables and figures share these labels. A setting is a column of a table and a panel of a figure, such as "LFS-10"; it
names each part of the protocol that varies in the results. Nothing that could move a result is averaged away: an option
that differs between runs of one method becomes part of the method's label.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError
from benchmark.results.summary import text
from benchmark.streams.split import fixes_tasks

if TYPE_CHECKING:
    import pandas as pd

TRIALS = "Trials of imcil tune: their test images are images held out of training, not the test set."
SEEDS = ("order_seed", "subset_seed", "rank_seed", "training_seed")
RESOLVED = ("precision", "compile")
BY_MEANS = ("icarl", "icarl_bsce")  # methods whose papers classify by the nearest mean
# What a setting consists of, and how its label says so.
SETTING = {
    "dataset": "{}",
    "classes": "{} classes",
    "protocol": "",  # shown as LFS-10, together with tasks
    "tasks": "",
    "profile": "{}",
    "rho": "rho={}",
    "max_count": "max_count={}",
    "ranks": "ranks {}",
    "order": "order {}",
    "holdout": "holdout={}",
    "memory_mode": "memory {}",
    "memory_budget": "memory={}",
    "backbone": "{}",
    "augmentation": "{}",
    "epochs": "{} epochs",
}


def label_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy of a summary or curves frame with columns "method", "setting" and "base" (the method without classifier).

    Rows without a strategy (damaged folders) are dropped. A part of the protocol that differs between runs of one
    strategy goes into "setting"; one that only differs between strategies (a method without memory) into "method".
    So do the options that set runs of one method apart, which `results.summary` leaves in `frame.attrs["variants"]`.
    """
    rows = frame[frame["strategy"].notna()].copy()
    shown = {column: _texts(rows[column]) for column in SETTING}
    shown["classes"] = shown["classes"].replace("-", "all")
    strategy = rows["strategy"]
    varying = [column for column in SETTING if shown[column].nunique() > 1]
    within = [c for c in varying if c in ("dataset", "rho") or shown[c].groupby(strategy).nunique().max() > 1]
    between = [c for c in varying if c not in within and SETTING[c]]

    setting = shown["protocol"].copy()
    setting[:] = [protocol_name(p, t) for p, t in zip(rows["protocol"], rows["tasks"], strict=True)]
    if "dataset" in within:
        setting = shown["dataset"] + " " + setting
    for column in within:
        if SETTING[column] and column != "dataset":
            setting = setting + ", " + shown[column].map(SETTING[column].format)
    rows["setting"] = setting

    base = strategy.astype(str)
    extras = [shown[column].map(SETTING[column].format) for column in between]
    variants = frame.attrs.get("variants", {})
    if variants:
        extras.append(rows["run"].map(lambda run: variants.get(run, "")))
    if extras:
        inside = [", ".join(filter(None, parts)) for parts in zip(*extras, strict=True)]
        base = base + [f" [{part}]" if part else "" for part in inside]
    rows["base"] = base

    classifiers: dict[str, set[str]] = {}
    for name, classifier in zip(base, rows["classifier"], strict=True):
        if text(classifier) != "-":
            classifiers.setdefault(name, set()).add(text(classifier))
    named = [name for name, found in classifiers.items() if found != {"head"}]
    rows["method"] = base.where(~base.isin(named), base + " (" + _texts(rows["classifier"]) + ")")
    return rows


def _texts(values: pd.Series) -> pd.Series:
    """`text` of each value; made once of equal ones, as most in a column of a protocol are."""
    codes, different = values.factorize(use_na_sentinel=False)
    texts = [text(value) for value in different]
    return type(values)([texts[code] for code in codes], index=values.index, dtype="str")


def own_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """A summary or curves frame with the one classifier of each method that its paper reports.

    Nearest means for iCaRL, the head for others; that of a run which has no other.
    """
    several = frame.groupby("run")["classifier"].transform("nunique") > 1
    own = (frame["classifier"] == "nme").where(frame["strategy"].isin(BY_MEANS), frame["classifier"] == "head")
    kept = frame[~several | own]
    kept.attrs = frame.attrs
    return kept


def setting_order(rows: pd.DataFrame) -> list[str]:
    """The settings of labelled rows: by dataset, protocol, then numbers by size, not as text."""
    first = rows.drop_duplicates("setting")[[*SETTING, "setting"]]
    keyed = [([_sortable(value) for value in row[:-1]], row[-1]) for row in first.itertuples(index=False, name=None)]
    return [name for _, name in sorted(keyed)]


def check_comparable(runs: pd.DataFrame, method: str, setting: str) -> None:
    """Raise UserError when the finished runs of one cell are no repeats: unlike precision or compile, equal seeds."""
    for column in RESOLVED:
        values = sorted(set(runs[column].map(text)))
        if len(values) > 1:
            raise UserError(
                f"{method} on {setting} mixes runs with {column} {' and '.join(values)}, which must not be averaged: "
                f"repeat the sweep with training.{column} set, or keep the runs of one machine."
            )
    seeds = [tuple(map(text, values)) for values in zip(*(runs[name] for name in SEEDS), strict=True)]
    twins = [run for run, values in zip(runs["run"], seeds, strict=True) if seeds.count(values) > 1]
    if twins:
        raise UserError(
            f"{method} on {setting} has several runs with the same seeds, {' and '.join(sorted(twins)[:2])}: "
            "they differ in something that is not shown, so they must not be averaged."
        )


def protocol_notes(rows: pd.DataFrame) -> list[str]:
    """What holds for every number of labelled rows, in words: one line for the stream, one for the training."""

    def value(column: str) -> str:
        found = sorted({(_sortable(v), text(v)) for v in rows[column] if text(v) != "-"})
        return " / ".join(shown for _, shown in found) or "-"

    named = zip(rows["protocol"], rows["tasks"], strict=True)
    triples = {(text(p).upper(), _sortable(t), protocol_name(p, t)) for p, t in named}
    streams = " / ".join(dict.fromkeys(shown for *_, shown in sorted(triples)))
    profile = f"{value('profile')} profile"
    if profile != "natural profile":  # which keeps the counts of the dataset
        most = f", at most {value('max_count')} images a class" if value("max_count") != "-" else ""
        profile += f", rho {value('rho')}{most}, ranks {value('ranks')}"
    dataset = value("dataset") + (f", {value('classes')} classes" if value("classes") != "-" else "")
    stream = f"Stream: {dataset}, {streams}, {profile}, order {value('order')}, hold-out {value('holdout')}."
    epochs = f"{value('epochs')} epoch{'s' * (value('epochs') != '1')}"
    training = (
        f"Training: {value('backbone')}, augmentation {value('augmentation')}, {epochs}, memory "
        f"{value('memory_budget')} {value('memory_mode')}, precision {value('precision')}, compile {value('compile')}."
    )
    return [stream, training.replace("per_class", "per class").replace(" total,", " in total,")]


def seeds_note(rows: pd.DataFrame) -> str:
    """Which seeds differ between the runs of a cell: "varied: order_seed, training_seed"."""
    varied = [column for column in SEEDS if rows[column].dropna().nunique() > 1]
    return f"varied: {', '.join(varied)}" if varied else "none varied"


def protocol_name(protocol: Any, tasks: Any) -> str:
    """LFS-10; B10-C2 alone, which says how many experiences there are."""
    shown = text(protocol)
    return shown.upper() if fixes_tasks(shown) else f"{shown.upper()}-{text(tasks)}"


def _sortable(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, Real) and value == value
    return not number, float(value) if number else 0.0, text(value)


def trials(frame: pd.DataFrame) -> list[str]:
    """What is said of a summary or curves frame with trials in it, [] of any other."""
    return [TRIALS] if frame.attrs.get("held_out") else []
