"""Class splits: how many classes each experience brings."""

from __future__ import annotations

from benchmark.errors import UserError, did_you_mean

PROTOCOLS = ("lfs", "lfh", "single")


def class_split(num_classes: int, protocol: str, tasks: int) -> list[int]:
    """Number of classes per experience.

    - ``lfs`` (learning from scratch, "B0"): `tasks` equal experiences;
    - ``lfh`` (learning from half, "B50"): a base of ceil(C / 2) classes, then `tasks` more experiences;
    - ``single``: one experience with every class (joint training); `tasks` plays no part.

    Classes that do not divide evenly go one each to the first experiences, after the base (FACIL, LT-CIL).

    Raises
    ------
    UserError (a ValueError)
        On an unknown protocol or when an experience would be empty.
    """
    if protocol not in PROTOCOLS:
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
    return base + [share + (task < extra) for task in range(tasks)]
