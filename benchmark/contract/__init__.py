"""What every method must keep: the checks of `imcil check`, run on small networks and streams."""

from benchmark.contract.checks import check_strategy

__all__ = ["check_strategy"]
