"""A small convolutional network for quick comparisons on a CPU: three stages of conv-batchnorm-ReLU, 64 features."""

from __future__ import annotations

from torch import Tensor, nn


class ConvNet(nn.Module):
    """Images of any size from 8x8 -> (B, 64). 56 k parameters, about a tenth of ResNet-32's cost."""

    num_features = 64

    def __init__(self, last_relu: bool = True) -> None:
        super().__init__()
        self.last_relu = last_relu
        widths = (3, 32, 64, 64)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b))
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.pool = nn.MaxPool2d(2)

    def forward_maps(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Pre-ReLU maps of every stage and the features."""
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            maps.append(x)
            if i < len(self.stages) - 1:
                x = self.pool(x.relu())
        x = x.relu() if self.last_relu else x
        return maps, x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_maps(x)[1]
