"""Reading ahead: large images are gathered from disk by threads while the batch before is trained on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")
THREADS = 2  # gathering releases the interpreter's lock; one thread reads while another copies
AHEAD = 3  # batches read before they are asked for
LARGE = 64 * 1024  # bytes of an image from which on its reading is worth a thread; a CIFAR image has 3 KiB


def read_ahead(read: Callable[[T], R], items: Iterable[T], ahead: int = AHEAD) -> Iterator[R]:
    """`read(item)` of every item, in order, up to `ahead` of them begun before they are asked for.

    An exception of `read` is raised where its result would have come. Who stops iterating stops the reading.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="imcil-read") as pool:
        try:
            for item in items:
                pending.append(pool.submit(read, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def gather(images: np.ndarray, rows: np.ndarray, pinned: bool) -> Tensor:
    """Copy rows of uint8 (N, H, W, 3) into a tensor of their own, in page-locked memory if an accelerator follows."""
    staged = torch.empty((len(rows), *images.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
    np.take(images, rows, axis=0, out=staged.numpy(), mode="clip")  # other modes copy twice
    return staged
