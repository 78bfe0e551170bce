"""Reading a config: a YAML file or a preset, with `key=value` overrides. Every mistake is one `UserError` sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.config.checks import check_names
from benchmark.config.overrides import checked_grid, override, parse_override, pin, read, with_grid_options
from benchmark.config.schema import SweepConfig, validated
from benchmark.errors import UserError, did_you_mean

CONFIGS = Path(__file__).parent / "presets"


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
