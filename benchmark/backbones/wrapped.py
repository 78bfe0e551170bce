"""Backbones from elsewhere: any torchvision classifier without its last layer, or a function in a user's file."""

from __future__ import annotations

from pathlib import Path

import torchvision
from torch import Tensor, nn

from benchmark.errors import UserError, did_you_mean
from strategies.user_code import import_file


class Headless(nn.Module):
    """A torchvision classifier whose last linear layer was taken off."""

    last_relu = True

    def __init__(self, model: nn.Module, num_features: int) -> None:
        super().__init__()
        self.model = model
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def torchvision_backbone(name: str) -> nn.Module:
    """`torchvision.models.NAME` with random weights."""
    available = torchvision.models.list_models(module=torchvision.models)
    if name not in available:
        raise UserError(f'training.backbone "torchvision:{name}" is unknown.{did_you_mean(name, available)}')
    model = torchvision.models.get_model(name, weights=None)
    layers = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise UserError(f'training.backbone "torchvision:{name}" has no linear layer at its end to take off.')
    last, layer = layers[-1]
    parent, _, attribute = last.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return Headless(model, layer.in_features)


def user_backbone(name: str) -> nn.Module:
    """`path/to/file.py:function`, called without arguments; the result needs `num_features` and `forward(x)`."""
    file, _, attribute = name.rpartition(":")
    module = import_file(Path(file))
    if not hasattr(module, attribute):
        raise UserError(f'"{file}" (training.backbone) defines no "{attribute}".')
    backbone = getattr(module, attribute)()
    if not isinstance(backbone, nn.Module) or not hasattr(backbone, "num_features"):
        raise UserError(f'"{name}" (training.backbone) must return a torch module with an attribute num_features.')
    return backbone
