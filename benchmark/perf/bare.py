"""The floor: the same training step in plain PyTorch, without a harness around it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import backbones
from benchmark.datasets import ImageArrays
from benchmark.loading.augmentation import random_crop
from benchmark.perf.setting import BATCH


def bare_loop(
    arrays: ImageArrays, rows: np.ndarray, labels: np.ndarray, classes: int, mode: str, teacher: bool = False
) -> Callable[[], float]:
    """One epoch over `rows`: crop, flip, normalise, forward, cross-entropy, backward, SGD. Returns its images.

    With `teacher`, a second network's forward pass and distillation on half of the classes are part of the step.
    """
    torch.manual_seed(0)
    precision, _, compiled = mode.partition("+")
    backbone = backbones.build("resnet32").to(memory_format=torch.channels_last)
    head = nn.Linear(64, classes)
    old = backbones.build("resnet32").to(memory_format=torch.channels_last).eval().requires_grad_(False)
    old_head = nn.Linear(64, classes // 2).requires_grad_(False)
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.1, momentum=0.9, weight_decay=5e-4)
    images = torch.from_numpy(np.ascontiguousarray(arrays.train_images[rows]))
    targets = torch.from_numpy(labels)
    std = torch.tensor(arrays.std)
    scale, offset = 1 / (255 * std), torch.tensor(arrays.mean) / std
    generator = torch.Generator().manual_seed(0)
    fast = torch.compile(backbone, dynamic=False) if compiled else backbone

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            features = (fast if len(x) == BATCH else backbone)(x)
        logits = head(features.float())
        loss = nn.functional.cross_entropy(logits, y)
        if teacher:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                past = old(x)
            soft = (old_head(past.float()) / 2).softmax(1)
            loss = loss - (soft * (logits[:, : classes // 2] / 2).log_softmax(1)).sum(1).mean()
        loss.backward()
        optimizer.step()

    def epoch() -> float:
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):
            x = random_crop(images[batch], generator, flip=True)
            step(x.float().mul_(scale).sub_(offset).permute(0, 3, 1, 2), targets[batch])
        return float(len(images))

    return epoch
