"""Downloading through torchvision, with one sentence to the user when it fails."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from benchmark.datasets.cache import cache_root, exclusive
from benchmark.errors import UserError

_STALLED = 60.0  # seconds without a byte after which a download counts as failed


def download(
    name: str, root: Path | None, layouts: str, fetch: Callable[[str], object], *, cache_dir: str | Path | None
) -> Path:
    """Run `fetch(folder)` on `root`, or on the cache's folder for `name`; one process at a time.

    Returns
    -------
    the folder

    Raises
    ------
    UserError
        naming the folder, the `layouts` accepted there and the reason, if the download fails
    """
    lock = cache_root(cache_dir) / f"{name}-download.lock"
    folder = root or cache_root(cache_dir) / name
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALLED)  # torchvision sets none, and a silent firewall would hang it for ever
    try:
        with exclusive(lock):
            folder.mkdir(parents=True, exist_ok=True)
            fetch(str(folder))
    except (OSError, RuntimeError, EOFError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise UserError(
            f"{name} is not under {folder} and its download failed ({reason}); "
            f"set the dataset's root to a folder that holds {layouts}."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return folder
