"""Configuration: what one run is, what a sweep is, and the hash that identifies a run; its sections are in `sections`.

Reading and checking a config imports neither torch nor Avalanche. Every mistake becomes one `UserError` sentence.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.errors import UserError, did_you_mean, place
from benchmark.overrides import checked_grid, override, parse_override, pin, read, with_grid_options
from benchmark.sections import (
    DatasetConfig,
    MemoryConfig,
    MetricsConfig,
    Section,
    StrategyConfig,
    StreamConfig,
    TrainingConfig,
)
from benchmark.store import config_hash
from benchmark.streams.split import fixes_tasks

CONFIGS = Path(__file__).parent / "configs"
# Changing these cannot change a result, so a run keeps its identity when they change.
NOT_SCIENCE = (
    "dataset.root", "metrics.diagnostics", "training.checkpoint_minutes", "training.keep", "training.loggers",
)  # fmt: skip

MAIN_KEYS = {"dataset": "name", "stream": "protocol", "memory": "budget"}  # what a value for the whole section means


class RunConfig(Section):
    """One complete run."""

    dataset: DatasetConfig = DatasetConfig()
    stream: StreamConfig = StreamConfig()
    strategy: StrategyConfig = StrategyConfig()
    memory: MemoryConfig = MemoryConfig()
    training: TrainingConfig = TrainingConfig()
    metrics: MetricsConfig = MetricsConfig()

    @property
    def hash(self) -> str:
        """Identity of the run: a hash of what changes the science.

        Values left at their default are not part of it, so a later version may add an option without orphaning
        finished runs. The content of a strategy or backbone file is part of it, the file's place is not.
        """
        return config_hash(self._science(exclude_defaults=True))

    @property
    def science(self) -> dict[str, Any]:
        """What changes the science, values at their default included."""
        return self._science(exclude_defaults=False)

    def _science(self, exclude_defaults: bool) -> dict[str, Any]:
        science = self.model_dump(mode="json", exclude_defaults=exclude_defaults)
        for path in NOT_SCIENCE:
            section, key = path.split(".")
            science.get(section, {}).pop(key, None)
        for section, key in (("strategy", "name"), ("training", "backbone")):
            value = science.get(section, {}).get(key, "")
            if ".py:" in value:
                file, _, attribute = value.rpartition(":")
                try:
                    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
                except OSError as error:
                    raise UserError(
                        f'The file "{file}" of {section}.{key} cannot be read: {error.strerror}.'
                    ) from error
                science[section][key] = f"{digest}:{attribute}"
        return {section: values for section, values in science.items() if values}

    @property
    def code_files(self) -> list[str]:
        """Names of the form path/to/file.py:attribute: code from outside imcil and installed packages."""
        return [name for name in (self.strategy.name, self.training.backbone) if ".py:" in name]

    @property
    def run_name(self) -> str:
        """Folder name: readable parts and the first ten characters of the hash."""
        protocol = self.stream.protocol if isinstance(self.stream.protocol, str) else "custom"
        method = self.strategy.name.rpartition(":")[2].lower()
        tasks = "" if fixes_tasks(protocol) else self.stream.tasks
        return f"{self.dataset.name}-{protocol}{tasks}-{method}-s{self.training.seed}-{self.hash[:10]}"


class SweepConfig(Section):
    """A base run and a grid over its fields; `search` is for `benchmark.search` to read."""

    name: str
    base: RunConfig
    grid: dict[str, list[Any]] = {}
    search: dict[str, Any] = {}

    def runs(self) -> list[RunConfig]:
        """Every combination of the grid, the last key varying fastest, without duplicates.

        A key may name several fields, `a.b,c.d`, with a list of values for each point: they vary together.
        """
        points = []
        for key, values in self.grid.items():
            fields = key.split(",")
            points.append([dict(zip(fields, v if len(fields) > 1 else [v], strict=True)) for v in values])
        runs: dict[str, RunConfig] = {}
        for combination in itertools.product(*points):
            changes = {field: value for point in combination for field, value in point.items()}
            run = validated(override(self.base.model_dump(mode="json", exclude_defaults=True), changes))
            runs.setdefault(run.run_name, run)
        return list(runs.values())


def file_of(name: str) -> str:
    """The file of path/to/file.py:attribute."""
    return name.rpartition(":")[0]


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What two `RunConfig.science` differ in: "training.seed is 0 there and 1 here"."""
    there, here = (
        {f"{section}.{key}": value for section, values in science.items() for key, value in values.items()}
        for science in (one, other)
    )
    return ", ".join(
        f"{key} is {there.get(key, 'its default')} there and {here.get(key, 'its default')} here"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    )


# --- reading ----------------------------------------------------------------------------------------------------------


def names() -> tuple[str, ...]:
    """Configs that ship with imcil, by name."""
    return tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))


def describe(name: str) -> str:
    """The first comment line of a config."""
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), "")


def load(config: str, overrides: Sequence[str] = ()) -> SweepConfig:
    """Read a config (a path, or a name of `names()`) and apply `key=value` overrides.

    An override of a grid key pins it: the grid keeps the points that match, or drops the key. `grid={…}` is another
    grid, `grid.KEY=[…]` other values of one key.

    Raises
    ------
    UserError : the file, a key, a value or a combination is wrong.
    """
    path = Path(config)
    if not path.suffix:
        path = CONFIGS / f"{config}.yaml"
        if not path.is_file():
            raise UserError(
                f'There is no config "{config}".{did_you_mean(config, names())} Or give a path to a YAML file.'
            )
    elif not path.exists() and path.stem in names():
        raise UserError(f"The config file {path} does not exist; the one that ships with imcil is named {path.stem}.")
    content = read(path)
    changes = dict(parse_override(text) for text in overrides)
    axes = {key.removeprefix("grid."): changes.pop(key) for key in list(changes) if key.startswith("grid.")}
    grid = checked_grid(changes.pop("grid", content.pop("grid", None)) or {}, path)
    grid = pin(grid, axes) | checked_grid(axes, path)
    searching = {key: changes.pop(key) for key in list(changes) if key.partition(".")[0] == "search"}
    search = override({"search": content.pop("search", None) or {}}, searching)["search"]
    if not isinstance(search, dict):
        raise UserError(f"The section search must hold keys and values, got {search!r}.")
    changes = with_grid_options(grid, changes)
    grid = pin(grid, changes)
    option = next((key for key in changes if key.startswith("strategy.") and key != "strategy.name"), None)
    if option and any("strategy" in key.split(",") for key in grid):
        raise UserError(
            f'"{option}" is an option of one method, and the grid of {path} names several: add strategy=NAME.'
        )
    sweep = SweepConfig(name=path.stem, base=validated(override(content, changes)), grid=grid, search=search)
    runs = [sweep.base, *sweep.runs()]  # every grid value is checked before anything starts
    for run in {(run.dataset.name, run.training.backbone, run.strategy.name): run for run in runs}.values():
        check_names(run)
    return sweep


def dotted_keys() -> list[str]:
    """Every key of a run, section.field; a strategy has its recipe's options besides."""
    return [
        f"{section}.{field}"
        for section, info in RunConfig.model_fields.items()
        for field in info.annotation.model_fields  # type: ignore[union-attr]
    ]


def _unknown(key: str) -> str:
    """A sentence with the keys of the section that was meant, else the sections."""
    known = dotted_keys()
    meant = difflib.get_close_matches(key.partition(".")[0], RunConfig.model_fields, n=1)
    if "." in key and meant:
        choices = [name for name in known if name.startswith(f"{meant[0]}.")]
    else:
        choices = [name for name in known if name.endswith(f".{key}")] or [*RunConfig.model_fields, "grid", "search"]
    return f'Unknown config key "{key}".{did_you_mean(key, choices)}'


def validated(content: Mapping[str, Any]) -> RunConfig:
    """The run that nested sections describe. Raises UserError."""
    try:
        return RunConfig.model_validate(override(content, {}))
    except ValidationError as error:
        raise UserError(_sentence(error)) from error


def _sentence(error: ValidationError) -> str:
    """The first problem as one sentence, and how many more there are."""
    problems = {".".join(map(str, problem["loc"][:2])): problem for problem in reversed(error.errors())}
    key, first = list(problems.items())[-1]
    if first["type"] == "extra_forbidden":
        sentence = _unknown(key)
    elif key in RunConfig.model_fields:
        given = first["input"]
        single = key in MAIN_KEYS and isinstance(given, str | int | float)
        hint = f": write {key}.{MAIN_KEYS[key]}={given}" if single else ""
        sentence = f"The section {key} must hold keys and values, got {given!r}{hint}."
    else:
        sentence = f"{key} {_reason(first)}"
    return sentence if len(problems) == 1 else f"{sentence} ({len(problems) - 1} more mistakes.)"


def _reason(problem: Any) -> str:
    """'must be a valid integer, got 'two'.'"""
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = re.sub(r", (got a number|unable to parse).*", "", message)
    return f"{message[0].lower() + message[1:]}, got {problem['input']!r}."


# --- checks that need the method ------------------------------------------------------------------------------------


def _recipe_class(name: str) -> Any:
    from strategies import registry

    try:
        return registry.get(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    except Exception as error:  # whatever a strategy file or an installed package raises while it is imported
        reason = f"{type(error).__name__}: {error}{place(error, [file_of(name)])}"
        raise UserError(f'Strategy "{name}" cannot be imported: {reason}.') from error


def build_recipe(strategy: StrategyConfig) -> Any:
    """The recipe of a strategy section, with its options checked by name and type (imports the method)."""
    import dataclasses

    from pydantic import TypeAdapter

    recipe = _recipe_class(strategy.name)
    known = [field.name for field in dataclasses.fields(recipe)]
    for option in strategy.options:
        if option not in known:
            choices = did_you_mean(option, known) if known else " It takes no options."
            raise UserError(f'Strategy "{strategy.name}" has no option "{option}".{choices}')
    try:
        return TypeAdapter(recipe).validate_python(strategy.options)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "missing":
            missing = f'"{first["loc"][0]}", which has no default'
            raise UserError(f'Strategy "{strategy.name}" needs a value for {missing}.') from error
        if first["loc"]:
            raise UserError(f"strategy.{first['loc'][0]} {_reason(first)}") from error
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")  # of the recipe's own check
        raise UserError(f'Strategy "{strategy.name}" refuses its options: {reason}.') from error


def check_names(run: RunConfig) -> None:
    """Raise UserError for a dataset, backbone or strategy that does not exist; imports none of them."""
    from benchmark import datasets, models
    from strategies import registry

    if run.dataset.name not in datasets.names():
        suggestion = did_you_mean(run.dataset.name, datasets.names())
        raise UserError(f'dataset.name "{run.dataset.name}" is unknown.{suggestion}')
    models.check(run.training.backbone)
    if run.strategy.name not in registry.names() and run.strategy.name not in run.code_files:
        _recipe_class(run.strategy.name)


def check(run: RunConfig) -> Any:
    """Checks of one run that need no data; returns its recipe. Raises UserError."""
    check_names(run)
    from benchmark import datasets

    recipe = build_recipe(run.strategy)
    kind = datasets.task_kind(run.dataset.name)
    if recipe.task_kind != kind:
        wanted = {"single": "one label", "multi": "several labels"}
        raise UserError(
            f'Strategy "{run.strategy.name}" learns from images with {wanted[recipe.task_kind]} each, dataset '
            f'"{run.dataset.name}" has {wanted[kind]} each: choose a dataset or a strategy of the other kind.'
        )
    if recipe.requires_memory and run.memory.budget == 0:
        raise UserError(f'Strategy "{run.strategy.name}" needs exemplars: memory.budget is 0, it must be 1 or more.')
    return recipe
