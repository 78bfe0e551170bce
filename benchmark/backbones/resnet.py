"""Residual networks: CIFAR ResNet-20/32 (He et al., 2016; 1x1 shortcuts as in LUCIR, FACIL, LT-CIL) and ResNet-18.

Width 16/32/64 and global average pooling: 64 features. Shortcuts are option B (1x1 convolution and batch norm); iCaRL
and PyCIL use option A, so parameter counts differ slightly. Convolutions start Kaiming-normal (fan out), batch norm at
weight 1 and bias 0. `last_relu=False` drops the ReLU of the last block of the last stage only.
"""

from __future__ import annotations

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN, plus the shortcut; returns the sum, before any ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu_()
        return self.bn2(self.conv2(out)) + self.shortcut(x)


class ResNet(nn.Module):
    """A stem and stages of basic blocks."""

    def __init__(self, stem: nn.Module, inputs: int, widths: tuple[int, ...], blocks: int, last_relu: bool) -> None:
        super().__init__()
        self.last_relu = last_relu
        self.num_features = widths[-1]
        self.stem = stem
        self.stages = nn.ModuleList()
        for s, width in enumerate(widths):
            stride = 1 if s == 0 else 2
            layers: list[nn.Module] = [BasicBlock(inputs, width, stride)]
            for _ in range(blocks - 1):
                layers += [nn.ReLU(), BasicBlock(width, width, 1)]
            self.stages.append(nn.Sequential(*layers))
            inputs = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_maps(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Pre-ReLU output (B, c, H, W) of every stage, and the features (B, d)."""
        x = self.stem(x)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
            if len(maps) < len(self.stages) or self.last_relu:
                x = x.relu()  # not in place: the pre-ReLU map may be wanted
        return maps, x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_maps(x)[1]


class CifarResNet(ResNet):
    """ResNet-(6n + 2) for 32x32 images: n = 3 is ResNet-20, n = 5 is ResNet-32 (0.46 M parameters)."""

    def __init__(self, n: int, last_relu: bool = True) -> None:
        stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        super().__init__(stem, 16, (16, 32, 64), n, last_relu)


class ResNet18(ResNet):
    """ResNet-18 in torchvision's layout, 512 features; images at 224."""

    def __init__(self, last_relu: bool = True) -> None:
        stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        super().__init__(stem, 64, (64, 128, 256, 512), 2, last_relu)
