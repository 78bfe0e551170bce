"""What an engine is to a sweep, whatever it starts workers with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from benchmark.config.schema import RunConfig

NAMES = ("local", "slurm", "ray")


class Engine(Protocol):
    """Has runs carried out by workers, wherever they are."""

    def run(self, runs: Sequence[RunConfig], fail_fast: bool = False) -> None:
        """Check all runs, tell the listener `checked`, and return when each is done or failed, or no worker is left.

        Raises
        ------
        InvalidRuns : a run's config does not fit its data; nothing was started.
        Interrupted : this process was asked to stop; the workers have saved their runs.
        Detached : the workers go on without this process.
        """


class InvalidRuns(Exception):
    """Some runs cannot work; nothing was started. Maps run names to sentences."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(problems.values()))
        self.problems = problems


class Detached(Exception):
    """The sweep goes on without this process."""
