"""How many images each batch of an epoch holds, the last ones above all."""

from __future__ import annotations

from typing import Any


def batch_sizes(n: int, batch_size: int, last_batch: str) -> list[int]:
    """Sizes of the batches of n images.

    keep : full batches, then what is left, as the papers' loaders have it. A few images left are a step like any
        other, and accuracy suffers from it (results/README.md, "A small last batch").
    even : the last two batches share their images evenly: as many steps, none of fewer images than half a batch.

    A last batch of one image joins the one before: batch norm cannot use a single value.
    """
    full, left = divmod(n, batch_size)
    sizes = [batch_size] * full + [left] * (left > 0)
    if full and left and last_batch == "even":
        last_two = batch_size + left
        sizes[-2:] = [last_two - last_two // 2, last_two // 2]
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


def last_batch_of(strategy: Any) -> str:
    """What becomes of the last batch of the batches that a strategy trains on; a stock Avalanche one keeps it."""
    return str(getattr(getattr(strategy, "loader", None), "last_batch", "keep"))
