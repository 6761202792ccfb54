"""What each line of a history adds to a score, where a history is pooled into a direction.

    score = v . normalise(rest + W [S / (T + prior), scale log(1 + L)])

S is the sum of the lines' directions by their decayed worth, T that of the decayed worths, L that of the worths. A
line's share is the integral of its worth's slope as the whole history comes from nothing, all lines at once and alike
(Aumann and Shapley 1974; integrated gradients of Sundararajan et al. 2017, by what lines are worth). Of a line the pool
takes its worth alone, so that its share is linear in its worth and in its direction: the integrals are of the row and
the item, and are taken once for all of its lines.

Shape suffixes: N lines of all rows, B rows, C items of a row, D dim, L lines of the longest row, S steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from training.batch import Ragged

PRIOR_WEIGHT = 0.1  # what a history of no weight is divided by: short histories shrink towards none
LENGTH_SCALE = 0.2
STEPS = 64  # of an integral: the sum of shares is exact to some 1e-6 of the score
AT_ONCE = 1 << 22  # numbers of one intermediate result: 16 MB


class Lines(NamedTuple):
    """Lines of histories.

    Attributes:
        which: of each line of each row the row of `directions`.
        directions: (U, D).
        decay: (N,) decayed worths.
        worth: (N,).
    """

    which: Ragged
    directions: Tensor
    decay: Tensor
    worth: Tensor

    def of(self, first: int, last: int) -> Lines:
        """Those of some rows."""
        begin, end = (int(self.which.offsets[row]) for row in (first, last))
        which = Ragged(self.which.values[begin:end], self.which.offsets[first : last + 1] - begin)
        return Lines(which, self.directions, self.decay[begin:end], self.worth[begin:end])


def shares_of_lines(lines: Lines, mix: nn.Linear, rest_BD: Tensor, vectors_BCD: Tensor) -> Tensor:
    """(N, C) what each line adds to the scores of its row's items.

    Args:
        lines: all known lines of each row.
        mix: W, with its bias.
        rest_BD: what is added to it.
        vectors_BCD: of each row the items' v.
    """
    lengths = lines.which.offsets[1:] - lines.which.offsets[:-1]
    longest = max(STEPS, vectors_BCD.shape[1], int(lengths.max()) if len(lengths) else 0)
    step = max(1, AT_ONCE // (longest * rest_BD.shape[1]))
    found = [
        _shares(lines.of(first, last), mix, rest_BD[first:last], vectors_BCD[first:last])
        for first in range(0, len(rest_BD), step)
        for last in [min(first + step, len(rest_BD))]
    ]
    return torch.cat(found) if found else rest_BD.new_zeros(0, vectors_BCD.shape[1])


@dataclass(frozen=True)
class _Path:
    """A history on its way, by rows.

    Attributes:
        directions: (S, B, D) of the query.
        of_directions, of_pool, of_length: (S, B) the steps' weights in the three integrals.
    """

    directions: Tensor
    of_directions: Tensor
    of_pool: Tensor
    of_length: Tensor

    def integral(self, weights_SB: Tensor, along_SBC: Tensor, vectors_BCD: Tensor) -> Tensor:
        """(B, C, D) of the slope by what is normalised: across the query's direction alone does it move a score."""
        across = torch.einsum("sb,sbc,sbd->bcd", weights_SB, along_SBC, self.directions)
        return weights_SB.sum(0)[:, None, None] * vectors_BCD - across


def _shares(lines: Lines, mix: nn.Linear, rest_BD: Tensor, vectors_BCD: Tensor) -> Tensor:
    row_N = torch.repeat_interleave(lines.which.offsets[1:] - lines.which.offsets[:-1])
    of_pool_DD, of_length_D = mix.weight[:, :-1], mix.weight[:, -1]
    directions_ND = lines.directions[lines.which.values]
    sums_BD = torch.zeros_like(rest_BD).index_add(0, row_N, lines.decay[:, None] * directions_ND)
    moved_BD = sums_BD @ of_pool_DD.T
    path = _on_the_way(lines, row_N, mix, rest_BD, moved_BD)
    along_SBC = torch.einsum("sbd,bcd->sbc", path.directions, vectors_BCD)
    slope_BCD, by_pool_BCD, by_length_BCD = (
        path.integral(weights, along_SBC, vectors_BCD) for weights in (path.of_directions, path.of_pool, path.of_length)
    )
    towards_BCD = slope_BCD @ of_pool_DD
    pulled_BC = (by_pool_BCD @ moved_BD[:, :, None])[:, :, 0]
    longer_BC = by_length_BCD @ of_length_D
    at_NC = _products(directions_ND, towards_BCD, lines.which.offsets, row_N)
    return lines.decay[:, None] * (at_NC - pulled_BC[row_N]) + lines.worth[:, None] * longer_BC[row_N]


def _on_the_way(lines: Lines, row_N: Tensor, mix: nn.Linear, rest_BD: Tensor, moved_BD: Tensor) -> _Path:
    total_B, length_B = (rest_BD.new_zeros(len(rest_BD)).index_add(0, row_N, of) for of in (lines.decay, lines.worth))
    amount_S1, weight_S1 = (part.to(rest_BD)[:, None] for part in _steps())
    held_SB, grown_SB = amount_S1 * total_B + PRIOR_WEIGHT, amount_S1 * length_B
    pooled_SBD = (amount_S1 / held_SB)[:, :, None] * moved_BD
    length_SBD = (LENGTH_SCALE * torch.log1p(grown_SB))[:, :, None] * mix.weight[:, -1]
    query_SBD = pooled_SBD + length_SBD + (rest_BD + mix.bias)
    norm_SB = query_SBD.norm(dim=2).clamp(min=1e-12)
    by_norm_SB = weight_S1 / norm_SB
    return _Path(
        query_SBD / norm_SB[:, :, None],
        by_norm_SB / held_SB,
        by_norm_SB * amount_S1 / held_SB.square(),
        by_norm_SB * LENGTH_SCALE / (1 + grown_SB),
    )


def _products(directions_ND: Tensor, towards_BCD: Tensor, offsets: Tensor, row_N: Tensor) -> Tensor:
    """(N, C): each line's direction with the vectors of its row."""
    place_N = torch.arange(len(row_N), device=row_N.device) - offsets[:-1][row_N]
    longest = int(place_N.max()) + 1 if len(place_N) else 0
    filled_BLD = directions_ND.new_zeros(len(towards_BCD), longest, directions_ND.shape[1])
    filled_BLD[row_N, place_N] = directions_ND
    return torch.bmm(filled_BLD, towards_BCD.transpose(1, 2))[row_N, place_N]


def _steps() -> tuple[Tensor, Tensor]:
    """(S,) How much of a history is there at each step of its coming, and (S,) the steps' weights in an integral.

    Gauss and Legendre's, of the amount's fourth root: scores change most while there is little of the history.
    """
    at, weight = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(STEPS))
    root = (at + 1) / 2
    return root**4, weight / 2 * 4 * root**3
