"""What a terminal shows while runs go on."""

from __future__ import annotations

import io

from rich.console import Console

from benchmark.sweeps.live_view import LiveView


def shown(view: LiveView) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(view._render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_end_shows_no_time_left_and_no_empty_table() -> None:
    view = LiveView(["one", "two"])
    with view:
        view.event("started", "one", None)
        assert "images/s" in shown(view) and "one" in shown(view)
        view.event("done", "one", None)
        assert "left" in shown(view)
        view.event("done", "two", None)
    assert "2/2" in shown(view) and "left" not in shown(view) and "images/s" not in shown(view)
