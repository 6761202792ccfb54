"""A small vision transformer: a picture is a sequence of patches (Dosovitskiy et al. 2021), and their mean goes on.

Pre-norm blocks; places are learned, added to the patches. It has no convolutions to tell it what lies beside what: of
few pictures it learns less than the convolutional network, and more slowly.

Shape suffixes: B pictures, N patches, W width, A heads.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.errors import SchemaError
from training.model_config import ModelConfig
from training.models.draws import dropped
from training.models.pictures import PictureModel
from training.picture_configs import VisionTransformerConfig

WIDER = 2  # times the width, of a block's inner layer


class Block(nn.Module):
    """Attention and two layers, each beside a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before_attention, self.before_inner = nn.LayerNorm(width), nn.LayerNorm(width)
        self.looks, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, WIDER * width), nn.Linear(WIDER * width, width)

    def forward(self, x_BNW: Tensor, generator: torch.Generator | None) -> Tensor:
        pictures, patches, width = x_BNW.shape
        looks = self.looks(self.before_attention(x_BNW)).view(pictures, patches, 3, self.heads, width // self.heads)
        query, key, value = looks.permute(2, 0, 3, 1, 4)
        seen_BNW = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x_BNW.shape)
        x_BNW = x_BNW + dropped(self.joined(seen_BNW), self.dropout, generator)
        inner = self.outer(F.gelu(self.inner(self.before_inner(x_BNW))))
        return x_BNW + dropped(inner, self.dropout, generator)


class VisionTransformer(PictureModel):
    """The vision transformer; see training/models/pictures.py.

    Raises:
        SchemaError: a picture's sides are no multiples of a patch's.
    """

    Config: ClassVar[type[ModelConfig]] = VisionTransformerConfig

    config: VisionTransformerConfig

    def make_network(self, shape: tuple[int, int, int]) -> int:
        config, (height, width, channels) = self.config, shape
        if height % config.patch or width % config.patch:
            raise SchemaError(
                f"a picture's sides must be multiples of model.patch = {config.patch}; they are {height} and {width}: "
                "set another, or build the examples with another options.size"
            )
        patches = (height // config.patch) * (width // config.patch)
        self.patches = nn.Conv2d(channels, config.width, config.patch, stride=config.patch)
        self.places = nn.Parameter(torch.randn(patches, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.dropout) for _ in range(config.layers))
        self.last_norm = nn.LayerNorm(config.width)
        return config.width

    def network(self, pixels_BKHW: Tensor, generator: torch.Generator | None) -> Tensor:
        x_BNW = self.patches(pixels_BKHW).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x_BNW = cast("Block", block)(x_BNW, generator)
        return cast("Tensor", self.last_norm(x_BNW).mean(dim=1))
