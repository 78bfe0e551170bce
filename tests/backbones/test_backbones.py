"""Backbones: sizes, signed features, stage maps, backbones from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from benchmark import backbones
from benchmark.errors import UserError

OURS = backbones.names()
SIZES = {"convnet": 32, "resnet20": 32, "resnet32": 32, "resnet18": 64}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameter_counts() -> None:
    """The known 0.27 M and 0.46 M of option A, less ten classes, plus two 1x1 shortcuts with batch norm."""
    shortcuts = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert parameters(backbones.build("resnet20")) == 269_722 - 650 + shortcuts
    assert parameters(backbones.build("resnet32")) == 464_154 - 650 + shortcuts
    reference = torchvision.models.resnet18(num_classes=10)
    assert parameters(backbones.build("resnet18")) == parameters(reference) - parameters(reference.fc)
    assert 50_000 < parameters(backbones.build("convnet")) < 200_000


def test_resnet18_computes_what_torchvision_s_does() -> None:
    ours, theirs = backbones.build("resnet18").eval(), torchvision.models.resnet18().eval()
    theirs.fc = nn.Identity()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize("name", OURS)
def test_features_maps_and_widths(name: str) -> None:
    torch.manual_seed(0)
    model: Any = backbones.build(name).eval()
    x = torch.randn(2, 3, SIZES[name], SIZES[name])
    maps, features = model.forward_maps(x)
    assert features.shape == (2, model.num_features) and torch.equal(model(x), features)
    assert maps[-1].shape[:2] == (2, model.num_features) and all((m < 0).any() for m in maps)  # pre-ReLU
    sides = [m.shape[-1] for m in maps]
    assert sides == sorted(sides, reverse=True) and all(m.shape[-1] == m.shape[-2] for m in maps)
    if name in ("resnet20", "resnet32"):
        assert [tuple(m.shape[1:]) for m in maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    if name == "resnet18":
        assert [m.shape[1] for m in maps] == [64, 128, 256, 512] and sides == [16, 8, 4, 2]
    assert torch.allclose(features, maps[-1].relu().mean(dim=(2, 3)), atol=1e-6)
    assert features.min() >= 0


@pytest.mark.parametrize("name", OURS)
def test_without_the_last_relu_features_are_signed(name: str) -> None:
    torch.manual_seed(0)
    signed: Any = backbones.build(name, last_relu=False).eval()
    torch.manual_seed(0)
    rectified: Any = backbones.build(name).eval()
    assert not signed.last_relu and rectified.last_relu
    x = torch.randn(4, 3, SIZES[name], SIZES[name])
    maps, features = signed.forward_maps(x)
    assert (features < 0).any() and torch.allclose(features, maps[-1].mean(dim=(2, 3)), atol=1e-6)
    for ours, theirs in zip(maps, rectified.forward_maps(x)[0], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)  # the ReLU of the last block of the last stage, no other


@pytest.mark.parametrize("last_relu", [True, False])
@pytest.mark.parametrize("name", OURS)
def test_every_parameter_gets_a_gradient_in_either_memory_layout(name: str, last_relu: bool) -> None:
    model = backbones.build(name, last_relu)
    x = torch.randn(3, 3, SIZES[name], SIZES[name])
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    found = model(x.to(memory_format=torch.channels_last))
    assert torch.allclose(found, expected, atol=1e-4)
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_convolutions_of_resnets_start_kaiming_normal_and_norms_at_one() -> None:
    torch.manual_seed(0)
    model = backbones.build("resnet32")
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


@pytest.mark.parametrize("side", [8, 12, 28, 64])
def test_the_small_network_takes_images_of_many_sizes(side: int) -> None:
    model: Any = backbones.build("convnet")
    assert model(torch.randn(2, 3, side, side)).shape == (2, model.num_features)


@pytest.mark.parametrize(("name", "width"), [("mobilenet_v3_small", 1024), ("shufflenet_v2_x0_5", 1024)])
def test_a_torchvision_model_without_its_last_layer(name: str, width: int) -> None:
    model: Any = backbones.build(f"torchvision:{name}").eval()
    assert model.num_features == width and model(torch.randn(2, 3, 64, 64)).shape == (2, width)


USER_FILE = """
from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class Settings:
    width: int = 7


class Flat(torch.nn.Module):
    def __init__(self, settings: Settings):
        super().__init__()
        self.num_features = settings.width
        self.linear = torch.nn.LazyLinear(settings.width)

    def forward(self, x):
        return self.linear(x.flatten(1))


def flat():
    return Flat(Settings())


def no_width():
    return torch.nn.Identity()
"""


def test_a_backbone_of_a_user_s_file(tmp_path: Path) -> None:
    file = tmp_path / "flat.py"
    file.write_text(USER_FILE)
    backbones.check(f"{file}:flat")
    model: Any = backbones.build(f"{file}:flat")
    assert model.num_features == 7 and model(torch.randn(2, 3, 4, 4)).shape == (2, 7)
    with pytest.raises(UserError, match='defines no "round"'):
        backbones.build(f"{file}:round")
    with pytest.raises(UserError, match="must return a torch module with an attribute num_features"):
        backbones.build(f"{file}:no_width")
    with pytest.raises(UserError, match=r"missing.py\" .training.backbone. does not exist"):
        backbones.build(f"{tmp_path / 'missing.py'}:flat")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet23", r'"resnet23" is unknown. Did you mean "resnet\d+"\? Valid choices: convnet, resnet18'),
        ("torchvision:resnet19", r'"torchvision:resnet19" is unknown. Did you mean "resnet'),
        ("torchvision:squeezenet1_0", r"squeezenet1_0.*no linear layer"),
    ],
)
def test_mistakes_are_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        backbones.build(name)


def test_names_and_descriptions() -> None:
    assert set(OURS) == set(SIZES) and all(backbones.describe(name) for name in OURS)
