"""What a person waits for, on standard error, shown only where that is a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

LIBRARIES = "Importing PyTorch and Avalanche"


@contextlib.contextmanager
def progress_bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of `total` steps while inside; call what it yields with the number of steps just done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda done: progress.advance(task, done)


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Say `text` beside a spinner while inside, for what cannot tell how far it is."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield
