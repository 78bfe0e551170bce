"""Importing a user's file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def import_file(path: Path) -> ModuleType:
    """Import a file from outside the package; whatever it raises is raised."""
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]  # files of one name are several modules
    spec = importlib.util.spec_from_file_location(f"imcil_file_{path.stem}_{place}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up while the class is made
    spec.loader.exec_module(module)
    return module
