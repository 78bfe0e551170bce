"""The `search:` section of a config, and the trials it stands for; `benchmark.tuning.tune` carries them out.

    search:
      stream: same              # as the config's; or first: its first `experiences`; or other: what `other` makes of it
      holdout: 0.2              # share of each class's training images that trials are evaluated on
      trials: 8                 # for every method, its own values first
      method: grid              # or random
      seeds: [0]                # training seeds of a trial
      space:
        all: {training.lr: [0.03, 0.1]}
        lwf: {strategy.weight: {low: 0.1, high: 10, log: true}}

A trial is a run whose test set is what is held out of training (`stream.evaluate: holdout`): the dataset's test images
are dropped before its stream is made, so nothing that a search writes depends on them. Cha & Cho, TMLR 2025 (`other`:
two-phase); Lee et al., arXiv 2404.06466 (`first`). Deviation: phase two of `other` is the config itself.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from benchmark import datasets
from benchmark.config.overrides import NAME_KEYS, override
from benchmark.config.schema import RunConfig, SweepConfig, validated
from benchmark.config.sections import Section
from benchmark.errors import UserError, did_you_mean
from benchmark.metrics.single_label import SUMMARY

METRICS = (*SUMMARY, "average_map", "last_map")
# Fields of training that may be searched. The others make another experiment, or a longer one.
TRAINING = ("lr", "momentum", "weight_decay", "batch_size", "schedule", "milestones", "gamma", "warmup_epochs")
EVERYBODY = "all"


class Range(Section):
    """Numbers from `low` to `high`, evenly or, with `log`, evenly in their logarithm; for a random search."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 with log")
        return self

    def draw(self, generator: random.Random) -> float:
        """One number, with four significant digits."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        drawn = generator.uniform(low, high)
        return float(f"{math.exp(drawn) if self.log else drawn:.4g}")


class SearchConfig(Section):
    """What is tried, how often and on what; see the top of this file."""

    stream: Literal["same", "first", "other"] = "same"
    holdout: float = Field(default=0.2, gt=0, lt=1)
    experiences: int | None = Field(default=None, ge=1)
    other: dict[str, Any] = {}
    method: Literal["grid", "random"] = "grid"
    trials: int = Field(default=8, ge=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    seed: int = 0
    metric: Literal[METRICS] = "average_accuracy_class_mean"  # type: ignore[valid-type]
    space: dict[str, dict[str, list[Any] | Range]] = Field(min_length=1)

    @field_validator("space")
    @classmethod
    def _no_empty_choice(
        cls, value: dict[str, dict[str, list[Any] | Range]]
    ) -> dict[str, dict[str, list[Any] | Range]]:
        for options in value.values():
            for key, choices in options.items():
                if choices == []:
                    raise ValueError(f'"{key}" must list at least one value')
        return value


@dataclass(frozen=True)
class Trial:
    """Values tried, dotted key -> value ({}: the config's own), and their runs, one for each training seed."""

    values: dict[str, Any]
    runs: tuple[RunConfig, ...]


@dataclass(frozen=True)
class Method:
    """One method of a sweep: the grid's point it comes from, its first run there, and the trials it gets."""

    point: dict[str, Any]
    run: RunConfig
    trials: tuple[Trial, ...]

    @property
    def label(self) -> str:
        """ "joint_bsce (mode=continue)"."""
        strategy = self.run.strategy
        options = ", ".join(f"{key}={value}" for key, value in strategy.options.items())
        return strategy.name + (f" ({options})" if options else "")


def read(sweep: SweepConfig) -> SearchConfig:
    """The search section of a sweep, checked. Raises UserError."""
    if not sweep.search:
        raise UserError(f"{sweep.name} has no section search, which says what imcil tune is to try.")
    try:
        search = SearchConfig.model_validate(sweep.search)
    except ValidationError as error:
        problems = error.errors()  # of a space also that it is neither a list nor a range
        first = next((problem for problem in problems if problem["type"] == "value_error"), problems[0])
        key = ".".join(map(str, first["loc"][:3]))
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            raise UserError(
                f'Unknown config key "search.{key}".{did_you_mean(key, SearchConfig.model_fields)}'
            ) from error
        if len(first["loc"]) > 2 and first["type"] != "value_error":
            raise UserError(f"search.{key} must be a list of values, or low and high, with log or without.") from error
        reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be").rstrip(".")
        raise UserError(f"search.{key}: {reason[0].lower() + reason[1:]}.") from error
    for field, value, stream in (("experiences", search.experiences, "first"), ("other", search.other, "other")):
        if value and search.stream != stream:
            raise UserError(f"search.{field} is for search.stream={stream}, and search.stream is {search.stream}.")
    return search


def methods(sweep: SweepConfig, search: SearchConfig) -> list[Method]:
    """The methods of a sweep with their trials, on the stream of the first point of its other grid axes.

    Raises
    ------
    UserError : a key that cannot be searched or that the grid varies, a method without a space, more points than
        trials, or, with stream=other, a stream that the sweep is going to be evaluated on.
    """
    axes = {key: values for key, values in sweep.grid.items() if not _is_of_methods(key)}
    first = {field: value for key, values in axes.items() for field, value in _point(key, values[0]).items()}
    _check_space(sweep, search, axes)
    found = []
    for point in points(sweep.grid):
        run = validated(override(sweep.base.model_dump(mode="json", exclude_defaults=True), {**first, **point}))
        stream = _tuning_run(run, search)
        trials: list[Trial] = []
        for values in _tried(run, search):
            tried = override(stream.model_dump(mode="json", exclude_defaults=True), values)
            runs = tuple(validated(override(tried, {"training.seed": seed})) for seed in search.seeds)
            if runs not in [trial.runs for trial in trials]:  # the config's own values may stand in the space, too
                trials.append(Trial(values, runs))
        if len(trials) > search.trials:
            raise UserError(
                f"The search space of {run.strategy.name} has {len(trials)} points, its own values included, and "
                f"search.trials is {search.trials}: raise it, leave points out, or take search.method=random."
            )
        found.append(Method(point, run, tuple(trials)))
    _check_split(sweep, found)
    _check_apart(sweep, search, found[0])
    return found


def points(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the grid's axes that say which method it is; [{}] where there is none."""
    of_methods = [[_point(key, value) for value in values] for key, values in grid.items() if _is_of_methods(key)]
    return [{k: v for part in combination for k, v in part.items()} for combination in itertools.product(*of_methods)]


def tuned(sweep: SweepConfig, chosen: Sequence[tuple[Method, Mapping[str, Any]]]) -> dict[str, Any]:
    """The config of `sweep` with the values chosen for each of its methods, to be written as YAML."""
    base = sweep.base.model_dump(mode="json", exclude_defaults=True)
    axes = {key: values for key, values in sweep.grid.items() if not _is_of_methods(key)}
    if len(chosen) == 1:
        method, values = chosen[0]
        return {**override(base, {**method.point, **values}), **({"grid": axes} if axes else {})}
    others = [key for method, _ in chosen for key in method.point if not _is_of_strategy(key)]
    searched = [key for _, values in chosen for key in values if not _is_of_strategy(key)]
    fields = list(dict.fromkeys([*others, *searched]))
    rows = []
    for method, values in chosen:
        run = override(method.run.model_dump(mode="json"), values)
        rows.append([run["strategy"], *(_lookup(run, field) for field in fields)])
    axis = {",".join(["strategy", *fields]): rows if fields else [row[0] for row in rows]}
    return {**base, "grid": {**axis, **axes}}


# --- parts ------------------------------------------------------------------------------------------------------------


def _is_of_strategy(field: str) -> bool:
    return field.partition(".")[0] == "strategy"


def _is_of_methods(key: str) -> bool:
    """Whether a grid axis says which method it is."""
    return any(_is_of_strategy(field) for field in key.split(","))


def _point(key: str, value: Any) -> dict[str, Any]:
    fields = key.split(",")
    return dict(zip(fields, value if len(fields) > 1 else [value], strict=True))


def _lookup(run: Mapping[str, Any], field: str) -> Any:
    section, _, key = field.partition(".")
    return run[section][key] if key else run[section]


def _tuning_run(run: RunConfig, search: SearchConfig) -> RunConfig:
    """`run` on the stream of the trials."""
    content = run.model_dump(mode="json", exclude_defaults=True)
    changes: dict[str, Any] = {"stream.evaluate": "holdout", "stream.holdout": search.holdout}
    if search.stream == "first":
        changes["stream.experiences"] = search.experiences or 2  # one tells nothing of what a method does after it
    elif search.stream == "other":
        if "dataset.name" in search.other:  # what holds for one dataset means nothing to another
            content.pop("dataset", None)
        changes = {**search.other, **changes}
    return validated(override(content, changes))


def _tried(run: RunConfig, search: SearchConfig) -> list[dict[str, Any]]:
    """The values of each trial of a method; the first, {}, are its own."""
    space = _space(run, search)
    choices = {key: values for key, values in space.items() if isinstance(values, list)}
    if search.method == "grid":
        combinations = itertools.product(*choices.values()) if choices else ()
        return [{}, *(dict(zip(choices, values, strict=True)) for values in combinations)]
    generator = random.Random(f"{search.seed} {run.strategy.name}")
    tried: list[dict[str, Any]] = [{}]
    for _ in range(100 * search.trials):  # a small space runs out of new points
        if len(tried) == search.trials or not space:
            break
        drawn = {
            key: generator.choice(values) if isinstance(values, list) else values.draw(generator)
            for key, values in space.items()
        }
        if drawn not in tried and not _is_own(run, drawn):
            tried.append(drawn)
    return tried


def _is_own(run: RunConfig, values: Mapping[str, Any]) -> bool:
    """Whether these values are those of the run anyway."""
    return validated(override(run.model_dump(mode="json", exclude_defaults=True), values)).hash == run.hash


def _space(run: RunConfig, search: SearchConfig) -> dict[str, list[Any] | Range]:
    name = run.strategy.name
    if name not in search.space and EVERYBODY not in search.space:
        raise UserError(
            f"search.space has nothing for {name}: add {name}, {{}} for a method without hyper-parameters, "
            f"or {EVERYBODY}."
        )
    return {**search.space.get(EVERYBODY, {}), **search.space.get(name, {})}


def _check_space(sweep: SweepConfig, search: SearchConfig, axes: Mapping[str, Any]) -> None:
    """What can be said without the methods: keys that exist, that may be searched, and that the grid leaves alone."""
    varied = {field for key in sweep.grid for field in key.split(",")}
    used = {run.strategy.name for run in sweep.runs()}
    for name, options in search.space.items():
        if name != EVERYBODY and name not in used:
            raise UserError(f'search.space names "{name}", which this sweep does not run.{did_you_mean(name, used)}')
        for key, values in options.items():
            section, _, field = key.partition(".")
            allowed = [f"training.{field}" for field in TRAINING]
            if not (section == "strategy" and field and key not in NAME_KEYS) and key not in allowed:
                raise UserError(
                    f'search.space.{name} cannot vary "{key}": options of the method (strategy.…) and '
                    f"{', '.join(allowed)} can be searched."
                )
            if key in varied:
                raise UserError(f'"{key}" is searched for {name} and varied by the grid: take it out of one of them.')
            if isinstance(values, Range) and search.method == "grid":
                raise UserError(f"search.space.{name}: {key} is a range, which needs search.method=random.")
    if search.stream == "other":
        keys = [key for key in search.other if key.partition(".")[0] not in ("dataset", "stream") or "." not in key]
        if keys or not search.other:
            named = f', not "{keys[0]}"' if keys else ""
            raise UserError(f"search.other must change keys of dataset and stream, such as stream.order_seed{named}.")


def _check_split(sweep: SweepConfig, found: Sequence[Method]) -> None:
    """No test image of the sweep may lie among the training images that trials see."""

    def split(run: RunConfig) -> tuple[Any, ...]:
        return run.dataset.seed, run.dataset.test_fraction

    runs = sweep.runs()
    for trial in (method.trials[0].runs[0] for method in found):
        name = trial.dataset.name
        if datasets.splits_itself(name) and any(split(run) != split(trial) for run in runs if run.dataset.name == name):
            raise UserError(
                f"Trials would train on test images of the sweep: keep dataset.seed and dataset.test_fraction of "
                f"{name} the same in all of its runs and in search.other."
            )


def _check_apart(sweep: SweepConfig, search: SearchConfig, method: Method) -> None:
    """With stream=other, no run of the sweep may have the dataset and class order of the trials."""

    def arrangement(run: RunConfig) -> tuple[Any, ...]:
        stream, dataset = run.stream, run.dataset.model_dump(exclude={"root"})
        listed = None if isinstance(stream.protocol, str) else str(stream.protocol)
        order = (str(stream.order), stream.order_seed if stream.order == "shuffled" else None, listed)
        return (*dataset.items(), *order)

    if search.stream == "other":
        there = arrangement(method.trials[0].runs[0])
        if any(arrangement(run) == there for run in sweep.runs()):
            raise UserError(
                "search.stream is other, but search.other leaves a dataset and class order that the sweep itself has."
            )
