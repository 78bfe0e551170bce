"""`imcil tune CONFIG`: hyper-parameters from trials on images held out of training, the same number for every method.

DIR holds runs/ (the trials: runs like any other, so they resume, retry and go to any engine), tuning.json (what was
tried on what, the budget and what it cost), trials.csv and, when every trial has ended, tuned.yaml for `imcil sweep`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmark.config.schema import SweepConfig
from benchmark.errors import UserError
from benchmark.metrics.catalogue import LOWER_IS_BETTER
from benchmark.storage.files import DamagedFile, read_json, read_jsonl, write_json, write_text
from benchmark.storage.folder import RunFolder
from benchmark.storage.text import to_csv
from benchmark.tables.cells import EMPTY, percent
from benchmark.tables.render import print_table
from benchmark.tuning.search import Method, SearchConfig, Trial, methods, read, tuned

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.sweeps.engines.base import Engine
    from benchmark.sweeps.engines.worker import Listener


def tune(
    sweep: SweepConfig, directory: Path, engine: Callable[[Path, Listener], Engine], *, fail_fast: bool = False
) -> int:
    """Carry out the trials that have no result yet, then choose; returns the exit status of `sweep.run_sweep`.

    Raises
    ------
    UserError : the search section, a trial or the folder is wrong; nothing was started.
    """
    from benchmark.sweeps.sweep import run_sweep

    search = read(sweep)
    found = methods(sweep, search)
    runs = list({run.run_name: run for method in found for trial in method.trials for run in trial.runs}.values())
    _check_folder(directory, {run.run_name for run in runs})
    trials = sum(len(method.trials) for method in found)
    print(f"{trials} trials of {len(found)} methods, at most {search.trials} each: {len(runs)} runs.")
    return run_sweep(
        runs, directory, engine, fail_fast=fail_fast, finish=lambda place: conclude(sweep, search, found, place)
    )


def conclude(sweep: SweepConfig, search: SearchConfig, found: Sequence[Method], directory: Path) -> None:
    """Write what the finished trials of DIR say; tuned.yaml once each has ended and every method has a result."""
    outcomes = [_outcome(method, search, directory) for method in found]
    settled = all(trial["status"] in ("done", "failed") for outcome in outcomes for trial in outcome["trials"])
    chosen = [(method, outcome["chosen"]) for method, outcome in zip(found, outcomes, strict=True)]
    without = [method.label for method, values in chosen if values is None]
    tuning_run = found[0].trials[0].runs[0]
    record = {
        "format": 1,
        "config": sweep.name,
        "search": search.model_dump(mode="json"),
        "evaluated_on": f"a share of {search.holdout:g} of each class's training images, held out; never the test set",
        "dataset": tuning_run.dataset.model_dump(mode="json", exclude={"root"}),
        "stream": tuning_run.stream.model_dump(mode="json"),
        "methods": outcomes,
    }
    write_json(directory / "tuning.json", record)
    table = _trials_table(outcomes)
    write_text(directory / "trials.csv", to_csv(table))
    path = directory / "tuned.yaml"
    if settled and not without:
        write_text(path, _as_yaml(tuned(sweep, chosen), sweep, search, outcomes))
    else:
        path.unlink(missing_ok=True)
    print_table(_chosen_table(outcomes, search))
    if not settled:
        print("Some trials have not ended: the same command goes on.")
    elif without:
        print(f"Every trial of {', '.join(without)} failed, so there is no tuned.yaml.")
    else:
        print(f"Chosen values: {path}. `imcil sweep {path}` runs them; all trials: {directory / 'trials.csv'}.")


# --- outcomes ---------------------------------------------------------------------------------------------------------


def _outcome(method: Method, search: SearchConfig, directory: Path) -> dict[str, Any]:
    """The trials of a method, what they cost, and the best: the first of equals, so its own values win a tie."""
    trials = [_trial(trial, search, directory) for trial in method.trials]
    scored = [trial for trial in trials if trial["score"] is not None]
    sign = 1 if search.metric in LOWER_IS_BETTER else -1
    best = min(scored, key=lambda trial: sign * trial["score"]) if scored else None
    return {
        "method": method.label,
        "strategy": method.run.strategy.model_dump(mode="json"),
        "budget": {
            "trials_allowed": search.trials,
            "trials": len(trials),
            "runs": sum(len(trial["runs"]) for trial in trials),
            "images_trained": sum(trial["images_trained"] for trial in trials),
            "train_seconds": round(sum(trial["train_seconds"] for trial in trials), 1),
        },
        "chosen": best["values"] if best else None,
        "score": best["score"] if best else None,
        "own_score": trials[0]["score"],
        "trials": trials,
    }


def _trial(trial: Trial, search: SearchConfig, directory: Path) -> dict[str, Any]:
    """Status, cost and score of one trial: the mean over its seeds, of the classifier that has the best mean."""
    folders = [RunFolder(directory / "runs" / run.run_name) for run in trial.runs]
    states = [folder.state for folder in folders]
    done = set(states) == {"done"}
    per_classifier: dict[str, list[float]] = {}
    for folder in folders if done else ():
        for name, content in (folder.read_result() or {})["classifiers"].items():
            value = content["summary"].get(search.metric)
            if value is not None and value == value:
                per_classifier.setdefault(name, []).append(float(value))
    means = {name: sum(v) / len(v) for name, v in per_classifier.items() if len(v) == len(folders)}
    sign = -1 if search.metric in LOWER_IS_BETTER else 1
    classifier = max(means, key=lambda name: sign * means[name]) if means else None
    costs = [record for folder in folders for record in _costs(folder)]
    return {
        "values": trial.values,
        "status": "done" if done else "failed" if set(states) <= {"done", "failed"} else "unfinished",
        "runs": [folder.name for folder in folders],
        "classifier": classifier,
        "score": means[classifier] if classifier else None,
        "scores": per_classifier.get(classifier, []) if classifier else [],
        "images_trained": sum(int(record.get("images_trained", 0)) for record in costs),
        "train_seconds": sum(float(record.get("train_seconds", 0)) for record in costs),
    }


def _costs(folder: RunFolder) -> list[dict[str, Any]]:
    try:
        return read_jsonl(folder.cost)
    except (OSError, DamagedFile):
        return []


def _trials_table(outcomes: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per trial, a column for every value searched."""
    import pandas as pd

    rows = [
        {
            "method": outcome["method"],
            "trial": number,
            "status": trial["status"],
            "score": trial["score"],
            "classifier": trial["classifier"],
            "seeds": len(trial["runs"]),
            "chosen": trial["values"] == outcome["chosen"],
            **trial["values"],
        }
        for outcome in outcomes
        for number, trial in enumerate(outcome["trials"], start=1)
    ]
    return pd.DataFrame(rows)


def _chosen_table(outcomes: Sequence[Mapping[str, Any]], search: SearchConfig) -> pd.DataFrame:
    import pandas as pd

    def shown(score: float | None) -> str:
        return EMPTY if score is None else percent(score)

    table = pd.DataFrame(
        [
            {
                "trials": f"{sum(t['status'] == 'done' for t in outcome['trials'])}/{len(outcome['trials'])}",
                "own values": shown(outcome["own_score"]),
                "best": shown(outcome["score"]),
                "chosen": _words(outcome["chosen"]),
            }
            for outcome in outcomes
        ],
        index=pd.Index([outcome["method"] for outcome in outcomes], name="method"),
    )
    notes = [
        f"Of images held out of training, {search.holdout:g} of each class: no number here is of a test set.",
        f"At most {search.trials} trials a method, the config's own values first; mean of {_seeds(search)}.",
    ]
    table.attrs = {"title": f"Trials: {search.metric} on held-out images. In percent.", "notes": notes, "bold": []}
    return table


def _words(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return EMPTY
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "its own values"


# --- files ------------------------------------------------------------------------------------------------------------


def _as_yaml(
    config: Mapping[str, Any], sweep: SweepConfig, search: SearchConfig, outcomes: Sequence[Mapping[str, Any]]
) -> str:
    """tuned.yaml: how the values were chosen, as comments, and a config that `imcil sweep` takes."""
    stream = {
        "same": "its own stream",
        "first": f"the first {search.experiences or 2} experiences of its stream",
        "other": f"another stream ({_words(search.other)})",
    }[search.stream]
    lines = [
        f"{sweep.name}, tuned: {search.metric} of held-out images ({search.holdout:g} of each class) on {stream},",
        f"at most {search.trials} trials a method ({search.method}), {_seeds(search)} each.",
        *(
            f"{outcome['method']}: {outcome['budget']['trials']} trials, {_words(outcome['chosen'])}"
            for outcome in outcomes
        ),
    ]
    text = io.StringIO()
    text.write("".join(f"# {line}\n" for line in lines))
    for section, values in config.items():
        if section != "grid":
            text.write(yaml.safe_dump({section: values}, default_flow_style=None, sort_keys=False, width=1000))
    if "grid" in config:
        text.write("grid:\n")
        for key, values in config["grid"].items():
            text.write(f'  "{key}":\n')
            text.writelines(f"    - {_flow(value)}\n" for value in values)
    return text.getvalue()


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).removesuffix("\n...\n").strip()


def _check_folder(directory: Path, names: set[str]) -> None:
    """Raise UserError if DIR holds runs that are no trial of this search: its budget would not be what was spent."""
    planned: set[str] = set()
    try:
        planned = set(read_json(directory / "sweep.json")["runs"])
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (DamagedFile, KeyError, TypeError) as error:
        raise UserError(f"{directory / 'sweep.json'} is damaged: {error}.") from error
    strangers = sorted(planned - names)
    if strangers:
        raise UserError(
            f"{directory} holds {len(strangers)} runs that are no trial of this search, such as {strangers[0]}: "
            "trials count, so give another search another --out."
        )


def _seeds(search: SearchConfig) -> str:
    return f"{len(search.seeds)} seed{'s' * (len(search.seeds) != 1)}"
