"""Which runs of a results folder: `key=value` as in a config, where a list of values means any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.config.overrides import parse_override
from benchmark.config.schema import RunConfig, dotted_keys
from benchmark.errors import UserError, did_you_mean
from benchmark.results.summary import text
from benchmark.storage.records import RunRecord


def select(records: Sequence[RunRecord], where: Sequence[str], what: str = "run") -> list[RunRecord]:
    """The runs whose config agrees with every condition; `what` names them in errors.

    Raises
    ------
    UserError : a condition is no key=value or names a key that no config has; or there are runs, and one of the values
        is that of none, or no run agrees with all conditions.
    """
    conditions = [(_field(key), value) for key, value in map(parse_override, where)]
    for key, value in conditions:
        _check_known(records, key, value, what)
    kept = [record for record in records if all(_agrees(record, *condition) for condition in conditions)]
    if records and not kept:
        raise UserError(f"No {what} has {' and '.join(f'{key}={text(value)}' for key, value in conditions)}.")
    return kept


def _field(key: str) -> str:
    """The dotted key of a condition. Raises UserError where no config has it; a strategy may have any option."""
    key = f"{key}.name" if key in ("strategy", "dataset") else key
    known = dotted_keys()
    if key not in known and not (key.startswith("strategy.") and len(key) > len("strategy.")):
        same = [name for name in known if name.startswith(f"{key.partition('.')[0]}.") or name.endswith(f".{key}")]
        raise UserError(f'"{key}" selects no runs.{did_you_mean(key, same or list(RunConfig.model_fields))}')
    return key


def _value(record: RunRecord, key: str) -> Any:
    section, _, field = key.partition(".")
    content = record.config.get(section)
    return content.get(field) if isinstance(content, Mapping) else None


def _check_known(records: Sequence[RunRecord], key: str, value: Any, what: str) -> None:
    """Raise UserError, with the values that runs have, unless some run has the value, or each of several."""
    whole = any(_value(record, key) == value for record in records)
    for one in value if isinstance(value, list) and not whole else [value]:
        if records and not any(_agrees(record, key, one) for record in records):
            there = {text(_value(record, key)) for record in records}
            raise UserError(f"No {what} has {key}={text(one)}.{did_you_mean(text(one), there)}")


def _agrees(record: RunRecord, key: str, value: Any) -> bool:
    found = _value(record, key)
    return found in value if isinstance(value, list) and not isinstance(found, list) else found == value
