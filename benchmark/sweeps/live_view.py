"""What a person sees while runs go on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmark.sweeps.status import duration


class LiveView:
    """Shows events of a sweep; use as a context manager."""

    def __init__(self, names: Sequence[str]) -> None:
        self.console = Console()
        self.total = len(names)
        self.ended: set[str] = set()
        self.running: dict[str, dict[str, Any]] = {}
        self.started_at = time.monotonic()
        self.last_line: dict[str, float] = {}
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"), console=self.console,
        )  # fmt: skip
        self.task = self.progress.add_task("runs", total=self.total, left="")
        self.live = Live(self._render(), console=self.console, refresh_per_second=2) if sys.stdout.isatty() else None

    def __enter__(self) -> LiveView:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.update(self.task, left="")
        if self.live:
            self.live.update(self._render())
            self.live.stop()

    def event(self, kind: str, name: str | None, content: Any) -> None:
        """Take in one event and show it."""
        if kind == "waiting":
            self.console.print(f"{content} runs are in the hands of workers elsewhere; waiting for them.")
        elif kind == "submitted":
            self.console.print(content, soft_wrap=True)
        if name is None:
            return
        if kind == "started":
            self.running[name] = {}
        elif kind == "progress":
            self.running[name] = content
        else:
            self.running.pop(name, None)
        if kind in ("done", "failed", "died", "found"):
            self.ended.add(name)
            elapsed = time.monotonic() - self.started_at
            left = elapsed / len(self.ended) * (self.total - len(self.ended))
            self.progress.update(self.task, completed=len(self.ended), left=f"about {duration(left)} left")
        if self.live:
            if kind in ("failed", "died"):
                self.console.print(f"[red]failed[/] {name}: {content}")
            self.live.update(self._render())
        else:
            self._print_line(kind, name, content)

    def _render(self) -> Group:
        if not self.running:
            return Group(self.progress)
        table = Table(box=None)
        for heading in ("running", "experience", "epoch", "loss", "images/s"):
            table.add_column(heading, justify="left" if heading == "running" else "right")
        for name, state in self.running.items():
            if state:
                table.add_row(
                    name, f"{state['experience'] + 1}/{state['experiences']}", f"{state['epoch']}/{state['epochs']}",
                    f"{state['loss']:.3f}", f"{state['rate']:.0f}",
                )  # fmt: skip
            else:
                table.add_row(name, "", "", "", "")
        return Group(self.progress, table)

    def _print_line(self, kind: str, name: str, content: Any) -> None:
        """Not a terminal: one line per finished run, and one per finished experience at most every 10 seconds."""
        if kind == "progress":
            now = time.monotonic()
            if content["epoch"] < content["epochs"] or now - self.last_line.get(name, 0.0) < 10:
                return
            self.last_line[name] = now
            print(f"{name}: experience {content['experience'] + 1}/{content['experiences']}, "
                  f"loss {content['loss']:.3f}, {content['rate']:.0f} images/s", flush=True)  # fmt: skip
        elif kind not in ("started", "found"):
            tail = f": {content}" if content else ""
            print(f"[{len(self.ended)}/{self.total}] {kind} {name}{tail}", flush=True)
