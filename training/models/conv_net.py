"""A convolutional network for pictures: a first convolution, then residual blocks, of which the first halve the sides.

A small ResNet (He et al. 2016) for few cores: the first convolution has a stride of 2 already, where most of the time
would go, and shortcuts average before they project (He et al., "Bag of tricks", 2019). What goes on are means over the
parts of a grid, not over the whole picture: products are shown upright and in the middle, so that places tell.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model_config import ModelConfig
from training.models.pictures import PictureModel
from training.picture_configs import ConvNetConfig


class Block(nn.Module):
    """Two convolutions beside a shortcut; with a stride of 2 the sides are halved, rounded up."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.first = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(channels, width, 1, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(width)

    def forward(self, x_BKHW: Tensor) -> Tensor:
        inner = F.relu(self.first_norm(self.first(x_BKHW)))
        kept = F.avg_pool2d(x_BKHW, 2, ceil_mode=True) if self.stride == 2 else x_BKHW
        beside = self.shortcut_norm(self.shortcut(kept))
        return F.relu(self.second_norm(self.second(inner)) + beside)


class ConvNet(PictureModel):
    """The convolutional network; see training/models/pictures.py."""

    Config: ClassVar[type[ModelConfig]] = ConvNetConfig

    config: ConvNetConfig

    def make_network(self, shape: tuple[int, int, int]) -> int:
        widths = self.config.widths
        self.stem = nn.Conv2d(shape[2], widths[0], 4, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.Sequential(
            *(
                Block(channels, width, 2 if number < self.config.halved else 1)
                for number, (channels, width) in enumerate(pairwise(widths), start=1)
            )
        )
        return widths[-1] * self.config.grid**2

    def network(self, pixels_BKHW: Tensor, generator: torch.Generator | None) -> Tensor:  # noqa: ARG002
        # Channels last: a fifth faster on CPUs, and what tensor cores want.
        x_BKHW = F.relu(self.stem_norm(self.stem(pixels_BKHW.contiguous(memory_format=torch.channels_last))))
        return F.adaptive_avg_pool2d(self.blocks(x_BKHW), self.config.grid).flatten(1)
