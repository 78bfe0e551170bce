"""Checkpoints of a run at experience boundaries: plain tensors and JSON values, the last two kept.

They are read with `weights_only=True`, so a stranger's checkpoint cannot execute code.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, fields
from typing import Any

import torch

from benchmark.errors import UserError
from benchmark.store import RunFolder, write_bytes

FORMAT = 1
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """State after `experience` experiences."""

    experience: int
    config_hash: str
    resolved: dict[str, Any]
    state: dict[str, Any]


def write(folder: RunFolder, checkpoint: Checkpoint) -> None:
    """Store a checkpoint atomically, then drop those older than the last two."""
    folder.confirm()
    buffer = io.BytesIO()
    torch.save(
        {"format": FORMAT, **{field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}}, buffer
    )
    write_bytes(folder.checkpoints / f"{checkpoint.experience:04d}.pt", buffer.getvalue())
    for old in sorted(folder.checkpoints.glob("*.pt"))[:-KEPT]:
        old.unlink()


def latest(folder: RunFolder, config_hash: str) -> Checkpoint | None:
    """The newest checkpoint that can be read, None when there is none.

    Raises
    ------
    UserError : it belongs to another config, or was written by a newer imcil.
    """
    for path in sorted(folder.checkpoints.glob("*.pt"), reverse=True):
        try:
            content = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
            found = int(content.pop("format"))
            checkpoint = Checkpoint(**content) if found <= FORMAT else None
        except Exception as error:  # torch.load raises many types on damaged files
            warnings.warn(f"{path} is damaged ({type(error).__name__}); using the checkpoint before it", stacklevel=2)
            continue
        if checkpoint is None:
            raise UserError(
                f"{path} has checkpoint format {found}, this imcil reads up to {FORMAT}; please update imcil."
            )
        if checkpoint.config_hash != config_hash:
            raise UserError(f"{path} belongs to another config; give the run another folder.")
        return checkpoint
    return None


def remove(folder: RunFolder) -> None:
    """A finished run needs no checkpoints."""
    for path in folder.checkpoints.glob("*.pt"):
        path.unlink()
    if folder.checkpoints.is_dir():
        folder.checkpoints.rmdir()
