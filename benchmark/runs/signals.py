"""Signals: the first asks a run to stop where it can go on, a second one ends the process at once.

After SIGTERM, SIGINT or SIGUSR1 a run finishes its step, writes a checkpoint and raises `Interrupted`, which leaves the
process with status 75 (EX_TEMPFAIL of sysexits.h, "try again"): nothing failed, and the same command goes on. A
scheduler should requeue on 75 and on nothing else. `engines.worker.carry_out` turns it into the kind "interrupted".

An engine without signals of its own (Ray) keeps the `StopRequest` it passes to `carry_out` and sets `requested`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

RESUMABLE = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SHOW_CURSOR = "\x1b[?25h"  # a live view hides it, and the second signal leaves no time to show it again


class Interrupted(SystemExit):
    """Stopped on request, and able to go on; uncaught it ends the process with status 75, without a traceback."""

    def __init__(self) -> None:
        super().__init__(RESUMABLE)


class StopRequest:
    """Whether a run was asked to stop.

    Attributes
    ----------
    requested : set by a signal, or by whoever holds this object; looked at after every training step.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    def check(self) -> None:
        """Raise Interrupted if a stop was requested: call it where everything is saved."""
        if self.requested:
            raise Interrupted

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets `requested`; elsewhere there is nothing to save, and it raises Interrupted."""
        self.check()
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextmanager
    def listening(self, notice: str | None = None) -> Iterator[StopRequest]:
        """Take the signals while inside (main thread only).

        notice : printed at the first signal, after which a second one has its default effect, even within a long
            operation: the process ends. None (a worker) takes any number of signals for one: its parent, which may
            have been sent the same, passes the request on, and ends it by ending.
        """

        def take(number: int, frame: Any) -> None:
            self.requested = True
            if notice is not None:
                for each in SIGNALS:
                    signal.signal(each, signal.SIG_DFL)
                os.write(2, f"{SHOW_CURSOR if os.isatty(2) else ''}\n{notice}\n".encode())
            if not self._deferred:
                raise Interrupted

        previous = {each: signal.signal(each, take) for each in SIGNALS}
        try:
            yield self
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)
