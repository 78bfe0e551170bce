"""Config files, `key=value` overrides and grids as plain nested dicts; what the keys mean is for `config.loading`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmark.errors import UserError

NAME_KEYS = ("strategy", "strategy.name")  # two spellings of one key
Grid = dict[str, list[Any]]  # dotted key, or several with commas between them -> values


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as text; people mean a number. A key that stands twice in a section is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for place, (key, _) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value != "<<" and key.value in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f'"{key.value}" stands there twice', key.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read(path: Path) -> dict[str, Any]:
    """Sections of a YAML file. Raises UserError."""
    if not path.is_file():
        raise UserError(f"The config file {path} does not exist.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The config file {path} cannot be read as text: {error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML{where}: {problem}.") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} must hold sections such as dataset, stream and strategy, not {type(content).__name__}."
        )
    return {str(section): values for section, values in content.items()}


def checked_grid(grid: Any, path: Path) -> Grid:
    """The grid with spaces taken out of its keys; every point of a zipped key has one value for each field."""
    if not isinstance(grid, dict):
        raise UserError(f"grid in {path} must map each dotted key to a list of values.")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f'The grid key "{key}" must have a list of values, such as [1, 2], got {values!r}.')
    checked = {"".join(str(key).split()): values for key, values in grid.items()}
    for key, values in checked.items():
        size = len(key.split(","))
        if size > 1 and not all(isinstance(v, list) and len(v) == size for v in values):
            raise UserError(f'Every point of the grid key "{key}" must be a list of {size} values.')
    return checked


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value`, the value read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f'"{text}" is not an override: write key=value, for example training.epochs=2.')
    try:
        return key.strip(), yaml.load(value, _Loader)
    except yaml.YAMLError:
        return key.strip(), value


def texts(value: Any) -> Iterator[str]:
    """Every text in nested values."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from texts(item)


def override(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Set dotted keys in nested sections; "strategy" alone takes a name or a whole section.

    Another name drops the options set so far: they mean nothing to another method. So the name goes first.
    """
    result = {section: dict(values) if isinstance(values, Mapping) else values for section, values in content.items()}
    if isinstance(result.get("strategy"), str):
        result["strategy"] = {"name": result["strategy"]}
    for key, value in sorted(changes.items(), key=lambda change: change[0] not in NAME_KEYS):
        is_short_form = key == "strategy" and isinstance(value, str)
        section, _, field = ("strategy.name" if is_short_form else key).partition(".")
        if not field:
            result[section] = value
            continue
        if not isinstance(result.setdefault(section, {}), dict):
            raise UserError(f"The section {section} must hold keys and values.")
        if key in NAME_KEYS and result[section].get("name") != value:
            result[section] = {}
        result[section][field] = value
    return result


def with_grid_options(grid: Grid, changes: dict[str, Any]) -> dict[str, Any]:
    """`strategy=NAME` means the grid's point of that name, with the options it has there, where there is one such."""
    name = changes.get("strategy", changes.get("strategy.name"))
    for key, values in grid.items():
        fields = key.split(",")
        if isinstance(name, str) and "strategy" in fields:
            points = values if len(fields) == 1 else [v[fields.index("strategy")] for v in values]
            same = [point for point in points if isinstance(point, dict) and point.get("name") == name]
            if same and all(point == same[0] for point in same):
                return {"strategy": same[0], **{k: v for k, v in changes.items() if k not in NAME_KEYS}}
    return changes


def pin(grid: Grid, changes: Mapping[str, Any]) -> Grid:
    """The grid without the keys that `changes` sets: of zipped keys the points that match stay, or all if none does."""
    pinned: Grid = {}
    for key, values in grid.items():
        fields = key.split(",")
        for field in [f for f in fields if _same_key(f, changes)]:
            i = fields.index(field)
            wanted = next(v for k, v in changes.items() if _same_key(field, {k: v}))
            if len(fields) == 1:
                fields, values = [], []
                break
            matching = [v for v in values if v[i] == wanted]
            values = [[*v[:i], *v[i + 1 :]] for v in matching or values]
            fields = [f for f in fields if f != field]
            if len(fields) == 1:
                values = [v[0] for v in values]
        if fields:
            unique = [v for n, v in enumerate(values) if v not in values[:n]]
            pinned[",".join(fields)] = unique
    return pinned


def _same_key(field: str, changes: Mapping[str, Any]) -> bool:
    return any(field == key or {field, key} == set(NAME_KEYS) for key in changes)
