"""The one exception that means "the user's input is wrong": the command line prints its sentence and exits with 2."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """A mistake in a config, a path or an argument, told in one sentence: the culprit and the choices."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Suggest the closest and list all: ' Did you mean "replay"? Valid choices: finetune, replay.'"""
    options = sorted(choices)
    close = difflib.get_close_matches(word, options, n=1)
    suggestion = f' Did you mean "{close[0]}"?' if close else ""
    return f"{suggestion} Valid choices: {', '.join(options)}."


def place(error: BaseException, files: Iterable[str | Path]) -> str:
    """Where in one of these files an exception arose: ' (mine.py, line 12)', the innermost; '' where in none."""
    wanted = {Path(file).resolve() for file in files}
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() in wanted]
    return f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else ""
