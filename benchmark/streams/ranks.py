"""Which class gets which count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.errors import UserError, did_you_mean
from benchmark.streams.profile import PROFILES, class_counts

RANKS = ("by_label", "by_order", "random")


def ranked_classes(arrival: Sequence[int], ranks: str, seed: int = 0) -> list[int]:
    """The labels in order of rank, head first.

    ``by_label``: the k-th smallest label has rank k (CIFAR's convention); ``by_order``: the k-th class that arrives;
    ``random``: at random, by `seed`.
    """
    if ranks not in RANKS:
        raise UserError(f'ranks cannot be "{ranks}".{did_you_mean(str(ranks), RANKS)}')
    if ranks == "by_order":
        return list(arrival)
    labels = sorted(arrival)
    if ranks == "random":
        return [labels[place] for place in np.random.default_rng(seed).permutation(len(labels))]
    return labels


def counts_by_class(
    own: Mapping[int, int],
    names: Sequence[str],
    profile: str | Sequence[int],
    rho: float = 100.0,
    max_count: int | None = None,
    ranks: str = "by_label",
    seed: int = 0,
) -> dict[int, int]:
    """How many training images each class keeps: label -> count.

    Parameters
    ----------
    own : label -> images the class has, in order of arrival.
    names : the class names, in the same order, for messages.
    profile : one of :func:`class_counts`; ``natural``: the class's own images, at most `max_count`; or a list of
        counts, head first.
    max_count : None is the largest class's own count.

    Raises UserError (a ValueError) where a class has fewer images than its count, or a list does not fit the classes.
    """
    ranked = ranked_classes(list(own), ranks, seed)
    largest = max(own.values()) if max_count is None else max_count
    if isinstance(profile, str):
        if profile == "natural":
            if largest < 1:
                raise UserError(f"max_count must be at least 1, got {largest}.")
            return {label: min(count, largest) for label, count in own.items()}
        if profile not in PROFILES:
            raise UserError(f'There is no profile "{profile}".{did_you_mean(profile, (*PROFILES, "natural"))}')
        counts = class_counts(len(own), largest, rho, profile)
    else:
        counts = [int(count) for count in profile]
        if len(counts) != len(own):
            raise UserError(f"profile lists {len(counts)} counts for {len(own)} classes.")
        if min(counts) < 1:
            raise UserError(f"profile gives the class of rank {counts.index(min(counts))} {min(counts)} images.")
    by_class = dict(zip(ranked, counts, strict=True))
    for (label, available), name in zip(own.items(), names, strict=True):
        if available < by_class[label]:
            raise UserError(
                f"Class {label} ({name}) has {available} training images, fewer than the {by_class[label]} that the "
                f"profile gives it: lower max_count (or the list's count), or use the profile natural."
            )
    return {label: by_class[label] for label in own}
