"""What a run and a sweep are: typed sections, overrides, reading a YAML file, and checks."""

from benchmark.config.loading import describe, load, names
from benchmark.config.schema import RunConfig, SweepConfig

__all__ = ["RunConfig", "SweepConfig", "describe", "load", "names"]
