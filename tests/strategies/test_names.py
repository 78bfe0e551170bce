"""The one import line for authors of methods."""

import importlib
import subprocess
import sys

import strategies


def test_every_name_offered_is_the_one_of_its_module() -> None:
    for name, module in strategies._HOME.items():
        assert getattr(strategies, name) is getattr(importlib.import_module(f"strategies.{module}"), name)
    assert sorted(strategies._HOME) == sorted(strategies.__all__)


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, strategies; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
