"""Streams: long-tail profile, class order and class split -> Avalanche benchmark.

Names are imported on first use: profiles, splits and StreamInfo need neither torch nor Avalanche.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.streams.build import long_tailed_benchmark
    from benchmark.streams.images import ImageStore
    from benchmark.streams.info import StreamInfo, stream_table
    from benchmark.streams.order import named_order
    from benchmark.streams.profile import class_counts
    from benchmark.streams.scenario import LongTailedBenchmark, StreamExperience
    from benchmark.streams.split import class_split

_HOME = {
    "ImageStore": "images",
    "LongTailedBenchmark": "scenario",
    "StreamExperience": "scenario",
    "StreamInfo": "info",
    "class_counts": "profile",
    "class_split": "split",
    "long_tailed_benchmark": "build",
    "named_order": "order",
    "stream_table": "info",
}

__all__ = [
    "ImageStore",
    "LongTailedBenchmark",
    "StreamExperience",
    "StreamInfo",
    "class_counts",
    "class_split",
    "long_tailed_benchmark",
    "named_order",
    "stream_table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
