"""Class orders: which class arrives when."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmark.errors import UserError, did_you_mean

ORDERS = ("order_a", "lucir", "order_b", "icarl", "ordered", "reversed", "shuffled")


def named_order(name: str, num_classes: int, seed: int = 0) -> list[int]:
    """A permutation of 0 ... num_classes - 1.

    - ``order_a`` (or ``lucir``): NumPy's legacy shuffle with seed 1993, used by LUCIR, LT-CIL, GR and PyCIL;
    - ``order_b`` (or ``icarl``): the first run of the original iCaRL code, CIFAR-100 only: the same seed, after its loader
      has shuffled 100 index arrays of length 500 (PODNet's first order, FACIL's ``cifar100_icarl``);
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
    by_name = {name: label for label, name in class_names.items()}
    labels = []
    for entry in entries:
        if isinstance(entry, str):
            if entry not in by_name:
                raise UserError(f'{key} names "{entry}", which is no class of this dataset.{did_you_mean(entry, by_name)}')
            labels.append(by_name[entry])
        elif int(entry) in class_names:
            labels.append(int(entry))
        else:
            low, high = min(class_names), max(class_names)
            raise UserError(f"{key} lists label {entry}, which is no class of this dataset (labels {low} to {high}).")
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise UserError(f"{key} lists {_listing(repeated, class_names)} more than once.")
    return labels


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
        raise UserError(f"{key} leaves out {_listing(missing, class_names)}: list every class, or drop it with classes.")
    if unknown:
        raise UserError(f"{key} lists {_listing(unknown, class_names)}, not among the kept classes.")
    return labels


def _listing(labels: Sequence[int], class_names: dict[int, str]) -> str:
    """'class 3 (cat)' or 'classes 3 (cat), 5 (dog) and 7 more', with at most five named."""
    named = ", ".join(f"{label} ({class_names[label]})" for label in labels[:5])
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return f"{'class' if len(labels) == 1 else 'classes'} {named}{more}"
