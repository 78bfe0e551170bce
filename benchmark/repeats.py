"""Repeats of a run: finished runs of the same folder that differ from it in seeds only, and will share its cell.

What `training.precision: auto` becomes depends on the processor, and tables refuse to average two precisions: a sweep
that goes on on another machine is told before hours are spent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from benchmark.config import RunConfig, validated
from benchmark.errors import UserError
from benchmark.overrides import override
from benchmark.store import RunFolder

UNSEEDED = {"stream.order_seed": 0, "stream.subset_seed": 0, "stream.rank_seed": 0, "training.seed": 0}


class Repeats:
    """The finished ones of some runs, (folder, config, environment), whose precision was left to the machine."""

    def __init__(self, begun: Iterable[tuple[RunFolder, Any, Any]]) -> None:
        self._found: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}  # method -> (precision, name, config)
        for folder, config, environment in begun:
            with suppress(LookupError, TypeError, AttributeError):  # damaged: such a run tells nothing
                if folder.result.exists() and config["training"]["precision"] == "auto":
                    row = environment["resolved"]["precision"], folder.name, config
                    self._found.setdefault(config["strategy"]["name"], []).append(row)

    def check(self, run: RunConfig, precision: str) -> None:
        """Raise UserError when a repeat of `run`, which would train in `precision` here, was made in another."""
        if run.training.precision != "auto":
            return
        wanted = _identity_but_for_seeds(run.model_dump(mode="json"))
        for other, name, config in self._found.get(run.strategy.name, ()):
            if other != precision and _identity_but_for_seeds(config) == wanted:
                raise UserError(
                    f"training.precision=auto is {precision} on this machine, and {name}, which differs in seeds only, "
                    f"was made in {other}: they must not be averaged, so go on where that was made, or give another "
                    "--out."
                )


def _identity_but_for_seeds(config: Mapping[str, Any]) -> str | None:
    """The hash of a run but for its seeds; None of a config that this imcil does not know."""
    try:
        return validated(override(config, UNSEEDED)).hash
    except UserError:
        return None
