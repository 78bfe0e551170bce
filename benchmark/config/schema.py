"""One run and one sweep as typed values, and the hash that identifies a run."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.config.overrides import override
from benchmark.config.sections import (
    DatasetConfig,
    MemoryConfig,
    MetricsConfig,
    Section,
    StrategyConfig,
    StreamConfig,
    TrainingConfig,
)
from benchmark.errors import UserError, did_you_mean
from benchmark.storage.files import config_hash
from benchmark.streams.split import fixes_tasks

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
    """A base run and a grid over its fields; `search` is for `benchmark.tuning.search` to read."""

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
        sentence = f"{key} {reason_of(first)}"
    return sentence if len(problems) == 1 else f"{sentence} ({len(problems) - 1} more mistakes.)"


def reason_of(problem: Any) -> str:
    """'must be a valid integer, got 'two'.'"""
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = re.sub(r", (got a number|unable to parse).*", "", message)
    return f"{message[0].lower() + message[1:]}, got {problem['input']!r}."
