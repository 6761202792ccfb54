"""Implicit alternating least squares: two tables of factors, each solved in closed form while the other stays.

Hu, Koren and Volinsky 2008, with the loss and the scaling of the penalty of Rendle et al. 2022 (Revisiting the
performance of iALS on item recommendation benchmarks):

    sum over rows of weight (1 - x_u . y_i)^2 + a sum over all u, i of (x_u . y_i)^2
        + l2 (sum over u of (n_u + a I)^nu |x_u|^2 + sum over i of (n_i + a U)^nu |y_i|^2)

with n the weights of a customer's or an item's rows, U customers and I items. All pairs together enter through a
Gramian alone, so that nothing of the size customers x items is ever made.

Row i of either table is solved on rank i % ranks, which holds the pairs that it needs: a pair lies on two ranks.

Shape suffixes: R rows of a block, P pairs of a piece, D dim.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from training.batch import Batch
from training.errors import NonFiniteError
from training.tables.rows import rows_held
from training.tables.sharded import ShardedEmbedding, Table, look_up
from training.world import World

NUMBERS = 2**21  # float32 of a block's matrices, of a piece's vectors, and of what ranks share at a time
MATRIX_PIECE = 65_536  # rows of a Gramian that are squared in float64 at a time
BATCHES = 64  # read between two exchanges of pairs


@dataclass(frozen=True)
class Weights:
    """What the loss weighs by.

    Attributes:
        unobserved: a, of every pair, whether it was bought or not.
        l2: of the penalty; above 0.
        exponent: nu, by which a row's penalty grows with its frequency; 0: all alike.
    """

    unobserved: float
    l2: float
    exponent: float


@dataclass(frozen=True)
class Side:
    """The pairs of the rows of one table that this rank solves.

    Attributes:
        rows: (rows,) those that have pairs, ascending.
        offsets: (rows + 1,) where each one's pairs lie.
        others: (pairs,) rows of the other table.
        weights: (pairs,) float32.
    """

    rows: Tensor
    offsets: Tensor
    others: Tensor
    weights: Tensor


class Alternation:
    """Solves the tables of customers and items in turn; every rank makes one and calls it alike.

    A rank holds 24 bytes a pair of its shares of both sides, besides the tables. A sweep takes pairs x D^2 + (customers
    + items) x D^3 / 3 multiplications, dealt out over the ranks.

    Args:
        users: row 0 is nobody.
        items: row 0 is no item.
        weights: of the loss.
        world: the ranks.
    """

    def __init__(self, users: Table, items: Table, weights: Weights, world: World) -> None:
        self._users, self._items, self._weights, self._world = users, items, weights, world
        self._sides: tuple[Side, Side] | None = None

    def read(self, batches: Iterable[Batch]) -> None:
        """Take in the pairs of all rows: user, target, weight; those of nobody, of no item or of no weight are none."""
        by_user, by_item = _Dealt(self._world), _Dealt(self._world)
        for batch in batches:
            user, item, weight = (cast("Tensor", batch[name]) for name in ("user", "target", "weight"))
            kept = (user > 0) & (item > 0) & (weight != 0)
            by_user.add(user[kept], item[kept], weight[kept])
            by_item.add(item[kept], user[kept], weight[kept])
        self._sides = by_user.side(), by_item.side()

    @property
    def has_read(self) -> bool:
        """Whether the pairs are here."""
        return self._sides is not None

    @torch.no_grad()
    def sweep(self) -> tuple[float, float, int]:
        """Solve all customers by the items, then all items by the customers.

        Returns:
            the loss as written above, the sum of the weights and the number of pairs, over all ranks.

        Raises:
            NonFiniteError: equations have no solution in float32.
        """
        assert self._sides is not None
        by_user, by_item = self._sides
        _, penalty = self._solve(by_user, self._users, self._items, "customers")
        left, _ = self._solve(by_item, self._items, self._users, "items")
        totals = [left + penalty, float(by_user.weights.double().sum()), float(len(by_user.others))]
        sums = torch.tensor(totals, dtype=torch.float64)  # float32 counts to 16 million pairs
        loss, weight, pairs = self._world.all_reduce_sum(sums, "loss of a sweep").tolist()
        return loss, weight, int(pairs)

    def _solve(self, side: Side, solved: Table, other: Table, what: str) -> tuple[float, float]:
        """Solve the rows of one table; returns the loss but for the other's penalty, and this table's penalty, of
        this rank's rows."""
        least_DD = self._weights.unobserved * self._gramian(other)
        scale = self._weights.unobserved * (other.num_embeddings - 1)
        own, ranks = self._own(solved), self._world.size
        own.zero_()
        left = penalty = 0.0
        unsolved = 0
        for rows, matrices_RDD, sums_RD, counts_R in self._equations(side, other, solved.embedding_dim):
            penalties_R = self._weights.l2 * (counts_R + scale) ** self._weights.exponent
            matrices_RDD += least_DD.float()
            matrices_RDD.diagonal(dim1=1, dim2=2).add_(penalties_R[:, None])
            found_RD, failed = _solution(matrices_RDD, sums_RD)
            own[rows // ranks] = found_RD
            unsolved += failed
            left += float((counts_R.double() - (found_RD.double() * sums_RD).sum(1)).sum())
            penalty += float((penalties_R.double() * found_RD.double().square().sum(1)).sum())
        if self._world.agree_any(unsolved > 0):
            raise NonFiniteError(
                f"the equations of all {what} must have solutions in float32; {unsolved} of this rank's have none with "
                f"l2 {self._weights.l2:g} and unobserved_weight {self._weights.unobserved:g}: raise model.l2"
            )
        self._share(solved)
        return left, penalty

    def _equations(self, side: Side, other: Table, dim: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Block by block the rows, sums of weight y y' (R, D, D) and of weight y (R, D), and of weight (R,).

        Every rank asks the other table as often as the one that asks most.
        """
        block, piece = max(1, NUMBERS // dim**2), max(1, NUMBERS // dim)
        starts = range(0, len(side.rows), block)
        edges = side.offsets[[*starts, len(side.rows)]].tolist()
        asked = sum(-(-(last - first) // piece) for first, last in pairwise(edges))
        most = max(self._world.all_gather_object(asked))
        for start, first, last in zip(starts, edges, edges[1:], strict=False):
            rows_R = side.rows[start : start + block]
            row_P = torch.repeat_interleave(side.offsets[start : start + block + 1].diff())
            counts_R = side.weights.new_zeros(len(rows_R)).index_add(0, row_P, side.weights[first:last])
            matrices_RDD, sums_RD = counts_R.new_zeros(len(rows_R), dim, dim), counts_R.new_zeros(len(rows_R), dim)
            for at in range(first, last, piece):
                pairs = slice(at, min(last, at + piece))
                (vectors_PD,) = look_up((other, side.others[pairs]))
                own_P = row_P[pairs.start - first : pairs.stop - first]
                _add_up(matrices_RDD, sums_RD, own_P, vectors_PD, side.weights[pairs])
            yield rows_R, matrices_RDD, sums_RD, counts_R
        for _ in range(most - asked):
            look_up((other, side.others[:0]))

    def _gramian(self, table: Table) -> Tensor:
        """(D, D) float64: the sum of y y' over a table's rows, the unknown one left out."""
        own = self._own(table)[self._world.rank == 0 :]
        total = own.new_zeros(own.shape[1], own.shape[1], dtype=torch.float64)
        for piece in torch.split(own, MATRIX_PIECE):
            total += piece.double().T @ piece.double()
        return self._world.all_reduce_sum(total, "Gramian")

    def _own(self, table: Table) -> Tensor:
        """The rows that this rank solves, as they lie in the table."""
        weight = table.weight.detach()
        return weight if isinstance(table, ShardedEmbedding) else weight[self._world.rank :: self._world.size]

    def _share(self, table: Table) -> None:
        """Give every rank the rows that others have solved, where each holds the whole table."""
        world = self._world
        if isinstance(table, ShardedEmbedding) or world.size == 1:
            return
        shares = [table.weight.detach()[rank :: world.size] for rank in range(world.size)]
        step = max(1, NUMBERS // table.embedding_dim)
        for first in range(0, rows_held(table.num_embeddings, 0, world.size), step):
            parts = [share[first : first + step] for share in shares]
            gathered = world.all_gather(parts[world.rank].contiguous(), "factors")
            for part, found in zip(parts, torch.split(gathered, [len(part) for part in parts]), strict=True):
                part.copy_(found)


class _Dealt:
    """Pairs on their way to the ranks that solve their rows. All ranks add as many batches, empty ones too."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._here: list[tuple[Tensor, ...]] = []

    def add(self, rows: Tensor, others: Tensor, weights: Tensor) -> None:
        self._waiting.append((rows, others, weights))
        if len(self._waiting) == BATCHES:
            self._send()

    def side(self) -> Side:
        """The pairs that came here, by row; of a row in the order of the other ones."""
        if self._waiting:
            self._send()
        rows, others, weights = (torch.cat(parts) for parts in zip(*self._here, strict=True))
        self._here = []
        order = torch.argsort(others, stable=True)
        order = order[torch.argsort(rows[order], stable=True)]
        distinct, counts = torch.unique_consecutive(rows[order], return_counts=True)
        return Side(distinct, F.pad(counts.cumsum(0), (1, 0)), others[order], weights[order])

    def _send(self) -> None:
        rows, others, weights = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        to = rows % self._world.size
        order = torch.argsort(to, stable=True)
        counts = torch.bincount(to, minlength=self._world.size).cpu()
        ids, _ = self._world.all_to_all(torch.stack([rows, others], dim=1)[order], counts, "pairs")
        came, _ = self._world.all_to_all(weights[order], counts, "weights of pairs")
        self._here.append((*ids.unbind(1), came))


def _add_up(matrices_RDD: Tensor, sums_RD: Tensor, row_P: Tensor, vectors_PD: Tensor, weights_P: Tensor) -> None:
    """Add weight y y' and weight y of each pair to its row's.

    A row's pairs are cut into lists of D / 4, filled up with zeros, and each list is a product of matrices: what is
    computed of zeros is less than a row's solution takes.

    Args:
        matrices_RDD: changed in place.
        sums_RD: changed in place.
        row_P: ascending.
        vectors_PD: of the pairs.
        weights_P: of the pairs.
    """
    rows, dim = sums_RD.shape
    length = max(1, dim // 4)
    counts_R = torch.bincount(row_P, minlength=rows)
    lists_R = (counts_R + length - 1) // length
    place_P = torch.arange(len(row_P), device=row_P.device) - (counts_R.cumsum(0) - counts_R)[row_P]
    list_P = (lists_R.cumsum(0) - lists_R)[row_P] + place_P // length
    of_list = torch.repeat_interleave(lists_R)
    weighed_PD = vectors_PD * weights_P[:, None]
    filled = vectors_PD.new_zeros(2, len(of_list) * length, dim)
    slot_P = list_P * length + place_P % length
    filled[0, slot_P], filled[1, slot_P] = vectors_PD, weighed_PD
    given, weighed = filled.view(2, -1, length, dim)
    matrices_RDD.index_add_(0, of_list, given.mT @ weighed)
    sums_RD.index_add_(0, row_P, weighed_PD)


def _solution(matrices_RDD: Tensor, sums_RD: Tensor) -> tuple[Tensor, int]:
    """(R, D) of symmetric equations, and how many of them have none."""
    factors_RDD, failed_R = torch.linalg.cholesky_ex(matrices_RDD)
    found_RD = torch.cholesky_solve(sums_RD[:, :, None], factors_RDD)[:, :, 0]
    failed = (failed_R > 0) | ~torch.isfinite(found_RD).all(1)
    return found_RD, int(failed.sum())
