"""Checks of a run that need the method: its recipe, its options, the names of dataset and backbone."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from benchmark.config.schema import RunConfig, file_of, reason_of
from benchmark.config.sections import StrategyConfig
from benchmark.errors import UserError, did_you_mean, place

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
            raise UserError(f"strategy.{first['loc'][0]} {reason_of(first)}") from error
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")  # of the recipe's own check
        raise UserError(f'Strategy "{strategy.name}" refuses its options: {reason}.') from error


def check_names(run: RunConfig) -> None:
    """Raise UserError for a dataset, backbone or strategy that does not exist; imports none of them."""
    from benchmark import backbones, datasets
    from strategies import registry

    if run.dataset.name not in datasets.names():
        suggestion = did_you_mean(run.dataset.name, datasets.names())
        raise UserError(f'dataset.name "{run.dataset.name}" is unknown.{suggestion}')
    backbones.check(run.training.backbone)
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
