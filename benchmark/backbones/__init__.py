"""Backbones: image batches in, features out. `build(name, last_relu)` makes one by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

NAMES = {
    "convnet": "four convolutions with batch norm, 128 features; for quick comparisons",
    "resnet20": "CIFAR ResNet-20, 64 features",
    "resnet32": "CIFAR ResNet-32, 64 features; the literature's choice for CIFAR-100",
    "resnet18": "ResNet-18, 512 features, for images at 224",
}


def names() -> tuple[str, ...]:
    """Backbones of this package; `torchvision:NAME` and `path/to/file.py:function` work too."""
    return tuple(NAMES)


def describe(name: str) -> str:
    """One line on a backbone."""
    return NAMES[name]


def check(name: str) -> None:
    """Raise UserError unless `build(name)` can find the backbone; imports nothing."""
    if name.startswith("torchvision:") or name in NAMES:
        return
    if ".py:" in name:
        if not Path(name.rpartition(":")[0]).is_file():
            raise UserError(f'The backbone file "{name.rpartition(":")[0]}" (training.backbone) does not exist.')
        return
    raise UserError(
        f'training.backbone "{name}" is unknown.{did_you_mean(name, NAMES)} '
        "Or torchvision:NAME, or path/to/file.py:function."
    )


def build(name: str, last_relu: bool = True) -> nn.Module:
    """A freshly initialised backbone: `num_features`, `forward(x)`, `forward_maps(x)`, `last_relu`.

    last_relu : False leaves the ReLU off the last block, for cosine heads (LUCIR, PODNet).
    """
    check(name)
    from benchmark.backbones import convnet, resnet, wrapped

    if name not in NAMES:
        from_file = ".py:" in name
        made = wrapped.user_backbone(name) if from_file else wrapped.torchvision_backbone(name.partition(":")[2])
        if not last_relu and getattr(made, "last_relu", True):
            raise UserError(
                f'The backbone "{name}" (training.backbone) ends in a ReLU, but the strategy needs signed features: '
                f"choose {', '.join(NAMES)}, or one whose attribute last_relu is False."
            )
        return made
    builders: dict[str, Callable[[bool], nn.Module]] = {
        "convnet": convnet.ConvNet,
        "resnet20": lambda relu: resnet.CifarResNet(3, relu),
        "resnet32": lambda relu: resnet.CifarResNet(5, relu),
        "resnet18": resnet.ResNet18,
    }
    return builders[name](last_relu)
