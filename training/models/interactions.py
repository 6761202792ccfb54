"""How models of rows let fields act on each other.

Shape suffixes: B rows, F fields, D width of a field, N width of a whole row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.inputs import Layers


def pairs(fields_BFD: Tensor) -> Tensor:
    """(B,) sum of the inner products of all pairs of fields, in time linear in the fields (Rendle 2010, lemma 3.1)."""
    return 0.5 * (fields_BFD.sum(1).square() - fields_BFD.square().sum(1)).sum(1)


def dots(fields_BFD: Tensor) -> Tensor:
    """(B, F (F - 1) / 2) the inner product of each pair of fields (DLRM, Naumov et al. 2019)."""
    count = fields_BFD.shape[1]
    first, second = torch.tril_indices(count, count, -1, device=fields_BFD.device)
    return torch.bmm(fields_BFD, fields_BFD.transpose(1, 2)).flatten(1)[:, first * count + second]


class Crosses(nn.Module):
    """DCN-V2's cross layers (Wang et al. 2021): x' = x0 * (W x + b) + x, one after the other.

    Args:
        width: of a row.
        layers: how many.
        rank: W = U V with so many columns in U; 0, or one that spares nothing: a whole matrix.
    """

    def __init__(self, width: int, layers: int, rank: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_matrix(width, rank) for _ in range(layers))

    def forward(self, first_BN: Tensor) -> Tensor:
        """(B, N)"""
        found = first_BN
        for layer in self.layers:
            found = torch.addcmul(found, first_BN, layer(found))
        return found


def _matrix(width: int, rank: int) -> nn.Module:
    if not 0 < rank < width / 2:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))


class Gates(nn.Module):
    """FinalMLP's feature selection (Mao et al. 2023): each component times 2 sigmoid(network of some of the fields).

    Args:
        names: of the fields.
        context: those that decide.
        dim: width of a field.
    """

    def __init__(self, names: list[str], context: list[str], dim: int) -> None:
        super().__init__()
        self._places = [names.index(name) for name in context]
        width = dim * len(names)
        self.network = Layers(dim * len(context), [dim * len(context)], 0.0, [0.0] * width)

    def forward(self, fields_BFD: Tensor) -> Tensor:
        """(B, N)"""
        gates: Tensor = self.network(fields_BFD[:, self._places].flatten(1), None)
        return 2 * torch.sigmoid(gates) * fields_BFD.flatten(1)


class Fusion(nn.Module):
    """FinalMLP's bilinear fusion of two streams: b + w x + v y + sum of x_h' W_h y_h over heads, h a piece of each.

    Args:
        first: width of the first stream.
        second: width of the second.
        heads: pieces of both.
        start: what it gives before training.
    """

    def __init__(self, first: int, second: int, heads: int, start: float) -> None:
        super().__init__()
        self.linear = Layers(first + second, (), 0.0, [start])
        self.matrices = nn.Parameter(torch.zeros(heads, first // heads, second // heads))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(B,) of (B, first) and (B, second)."""
        heads, high, wide = self.matrices.shape
        turned = torch.einsum("bhi,hij->bhj", first.view(-1, heads, high), self.matrices)
        crossed = (turned * second.view(-1, heads, wide)).sum((1, 2))
        linear: Tensor = self.linear(torch.cat([first, second], dim=1), None)
        return linear.squeeze(1) + crossed
