"""Linear maps that are tuned by two narrow ones beside them: LoRA (Hu et al. 2022).

    y = W x + b + alpha / rank * up (down x)

W and b stay as they were; up is zero at first, so that training starts from the map as it was.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.decoder_network import Decoder
from training.models.text_encoder import TextEncoder

MAPS = ("query", "value")  # of each layer's attention, those that the paper found best for few numbers


class LowRankLinear(nn.Linear):
    """A linear map with an adapter; its own weight and bias have the names that they have without one.

    Args:
        inputs: width of x.
        outputs: width of y.
        rank: width between `down` and `up`.
        scale: alpha / rank.
        bias: whether there is a b.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float, *, bias: bool) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.scale = scale
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.down), self.up)


def adapt(network: TextEncoder | Decoder, rank: int, alpha: float) -> None:
    """Give a network's attention adapters, which alone are tuned from then on."""
    network.requires_grad_(False)
    for layer in network.layers:
        for name in MAPS:
            held = cast("nn.Linear", getattr(layer, name))
            has_bias = held.bias is not None
            adapted = LowRankLinear(held.in_features, held.out_features, rank, alpha / rank, bias=has_bias)
            adapted.weight, adapted.bias = held.weight, held.bias
            setattr(layer, name, adapted)
