"""Class splits: how many classes each experience brings."""

from __future__ import annotations

import re

from benchmark.errors import UserError, did_you_mean

PROTOCOLS = ("lfs", "lfh", "single", "Bi-Cj")
_BASE_AND_INCREMENT = re.compile(r"B(\d+)-C(\d+)", re.IGNORECASE)


def class_split(num_classes: int, protocol: str, tasks: int) -> list[int]:
    """Number of classes per experience.

    - ``lfs`` (learning from scratch, "B0"): `tasks` equal experiences;
    - ``lfh`` (learning from half, "B50"): a base of ceil(C / 2) classes, then `tasks` more experiences;
    - ``single``: one experience with every class (joint training); `tasks` plays no part;
    - ``Bi-Cj`` with numbers, as ``B10-C2``: a base of i classes, then j in each experience (``B0-C4``: 4 in each, the
      first included), which must come out even; the notation of multi-label work. `tasks` plays no part.

    Classes that do not divide evenly go one each to the first experiences, after the base (FACIL, LT-CIL).

    Raises
    ------
    UserError (a ValueError)
        On an unknown protocol or when an experience would be empty.
    """
    if isinstance(protocol, str) and (match := _BASE_AND_INCREMENT.fullmatch(protocol)):
        return _base_and_increments(num_classes, protocol, *map(int, match.groups()))
    if protocol not in PROTOCOLS[:3]:
        raise UserError(f'There is no protocol "{protocol}".{did_you_mean(protocol, PROTOCOLS)}')
    if num_classes < 1:
        raise UserError(f"A stream needs at least one class, got {num_classes}.")
    if protocol == "single":
        return [num_classes]
    if tasks < 1:
        raise UserError(f"tasks must be at least 1, got {tasks}.")
    base = [(num_classes + 1) // 2] if protocol == "lfh" else []
    rest = num_classes - sum(base)
    if rest < tasks:
        raise UserError(
            f"{num_classes} classes cannot fill {tasks} tasks of protocol {protocol}"
            f"{f' after a base of {base[0]} classes' if base else ''}: use at most {rest} tasks."
        )
    share, extra = divmod(rest, tasks)
    return [int(size) for size in base] + [int(share + (task < extra)) for task in range(tasks)]


def fixes_tasks(protocol: str) -> bool:
    """Whether a protocol's name says how many experiences there are, so that `tasks` plays no part."""
    return _BASE_AND_INCREMENT.fullmatch(protocol) is not None


def _base_and_increments(num_classes: int, protocol: str, base: int, increment: int) -> list[int]:
    rest = num_classes - base
    if rest < 0 or increment < 1 or rest % increment:
        raise UserError(
            f"{num_classes} classes do not fit protocol {protocol}: a base of {base} and increments of {increment} "
            "leave a remainder or no class at all."
        )
    return [base] * (base > 0) + [increment] * (rest // increment)
