"""Class orders: which class arrives when."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from benchmark.errors import UserError, did_you_mean
from benchmark.streams.info import shorten

ORDERS = ("order_a", "lucir", "order_b", "icarl", "ordered", "reversed", "shuffled")


def named_order(name: str, num_classes: int, seed: int = 0) -> list[int]:
    """A permutation of 0 ... num_classes - 1.

    - ``order_a`` (or ``lucir``): NumPy's legacy shuffle with seed 1993, used by LUCIR, LT-CIL, GR and PyCIL;
    - ``order_b`` (or ``icarl``): the first run of the original iCaRL code, CIFAR-100 only: the same seed, after its
      loader has shuffled 100 index arrays of length 500 (PODNet's first order, FACIL's ``cifar100_icarl``);
    - ``ordered``, ``reversed``: by label; ``shuffled``: at random by `seed`.

    Raises UserError (a ValueError) on an unknown name, or ``order_b`` for another number of classes than 100.
    """
    if name not in ORDERS:
        raise UserError(f'There is no class order "{name}".{did_you_mean(name, ORDERS)}')
    order = np.arange(num_classes)
    if name in ("order_a", "lucir"):
        np.random.RandomState(1993).shuffle(order)
    elif name in ("order_b", "icarl"):
        if num_classes != 100:
            raise UserError(f"order_b exists for 100 classes only, this dataset has {num_classes}: use order_a.")
        state = np.random.RandomState(1993)
        for _ in range(100):
            state.shuffle(np.arange(500))
        state.shuffle(order)
    elif name == "reversed":
        order = order[::-1]
    elif name == "shuffled":
        order = np.random.default_rng(seed).permutation(num_classes)
    return [int(label) for label in order]


def resolve_labels(entries: Sequence[int | str], class_names: dict[int, str], key: str) -> list[int]:
    """Labels for a list of labels and class names; UserError, naming `key`, on an unknown or repeated one."""
    labels = [_resolve_label(entry, class_names, key) for entry in entries]
    repeated = sorted(label for label, times in Counter(labels).items() if times > 1)
    if repeated:
        raise UserError(f"{key} lists {_listing(repeated, class_names)} more than once.")
    return labels


def _resolve_label(entry: int | str, class_names: dict[int, str], key: str) -> int:
    if isinstance(entry, str):
        matches = [label for label, name in class_names.items() if name == entry]
        if len(matches) > 1:
            raise UserError(f'{key} names "{entry}", a name that labels {matches} share: give the label.')
        if not matches:
            names = list(class_names.values())
            close = difflib.get_close_matches(entry, names, n=3)
            hint = f" Did you mean {' or '.join(close)}?" if close else f" Its classes are {shorten(names)}."
            raise UserError(f'{key} names "{entry}", which is no class of this dataset.{hint}')
        return matches[0]
    if not isinstance(entry, int | np.integer) or int(entry) not in class_names:
        valid = f"labels {min(class_names)} to {max(class_names)}"
        raise UserError(f"{key} lists {entry!r}, which is no class of this dataset ({valid}, or class names).")
    return int(entry)


def arrival_order(
    order: str | Sequence[int | str], kept: Sequence[int], class_names: dict[int, str], seed: int = 0
) -> list[int]:
    """The labels of the kept classes in order of arrival.

    A named order is made for all classes of the dataset and then reduced to the kept ones, so that a part of CIFAR-100
    arrives as in the full stream. An explicit list must be a permutation of the kept classes (UserError otherwise).
    """
    if isinstance(order, str):
        labels = sorted(class_names)
        keep = set(kept)
        return [labels[place] for place in named_order(order, len(labels), seed) if labels[place] in keep]
    return check_permutation(resolve_labels(order, class_names, "order"), kept, class_names, "order")


def check_permutation(labels: list[int], kept: Sequence[int], class_names: dict[int, str], key: str) -> list[int]:
    """`labels` itself if it holds each kept class once; otherwise UserError naming what is missing or too many."""
    missing, unknown = sorted(set(kept) - set(labels)), sorted(set(labels) - set(kept))
    if missing:
        raise UserError(f"{key} leaves out {_listing(missing, class_names)}: list every class that is kept.")
    if unknown:
        raise UserError(f"{key} lists {_listing(unknown, class_names)}, not among the kept classes.")
    return labels


def _listing(labels: Sequence[int], class_names: dict[int, str]) -> str:
    """'class 3 (cat)' or 'classes 3 (cat), 5 (dog), … (7 more)'."""
    named = shorten([f"{label} ({class_names[label]})" for label in labels])
    return f"{'class' if len(labels) == 1 else 'classes'} {named}"
