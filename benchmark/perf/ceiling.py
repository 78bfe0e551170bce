"""What the processor's arithmetic allows: the multiplications of a training step at a large matrix product's speed.

No layout, compiler or harness is faster on this core in this precision, unless it multiplies less (Winograd): a bound
on a speed-up can be held against it.
"""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark import backbones

SIDE = 2048  # of square matrices: large enough for the best that the library does, a few tenths of a second
TRIES = 3


def operations_per_second(precision: str) -> float:
    """Floating-point operations a second of a matrix product in fp32 or bf16, the best of a few on this thread."""
    matrix = torch.randn(SIDE, SIDE).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    seconds = []
    for _ in range(TRIES):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - started)
    return 2 * SIDE**3 / min(seconds)


def training_operations(backbone: str, side: int = 32) -> float:
    """Floating-point operations of the convolutions for one image of side x side, forward and backward.

    Normalisation, activations, the optimiser and the head are left out.
    """
    network, images = backbones.build(backbone), torch.randn(2, 3, side, side)
    with FlopCounterMode(display=False) as counter:
        network(images).sum().backward()
    return counter.get_total_flops() / len(images)
