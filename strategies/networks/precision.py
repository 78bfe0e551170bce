"""Precision and placement of tensors: full precision inside autocast, copies to the device that do not wait."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. A GPU gets it from pinned memory: copying from elsewhere waits for all work before it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def full_precision(tensor: Tensor) -> Tensor:
    """At least float32: losses and head gradients are never computed in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
