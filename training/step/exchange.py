"""The ways in which gradients travel between ranks: rows, whole tables, dense ones; started together, then waited for.

All ranks take the same way for each parameter, whether they have a gradient for it or not. Sums run in rank order or in
Gloo's fixed ring order, so one seed gives the same bits each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.tables.rows import add_rows, sparse_gradient
from training.world import World

_MARK = 2.0**14  # of a row in use: what a rank of little weight adds to it is not lost in a half-precision sum
_LARGEST_POWER = 126  # of two, whose inverse is a float32 too


class Way(IntEnum):
    """How one parameter's gradient travels."""

    NONE = 0
    """Not at all: no rank has one."""
    DENSE = 1
    """In the dense buffer."""
    TABLE = 2
    """Sparse, as a whole table in the dense buffer, with a mark for each row in use."""
    ROWS = 3
    """Sparse, as its rows."""


class Kind(IntEnum):
    """What a rank has for a parameter."""

    NONE = 0
    DENSE = 1
    SPARSE = 2


class Held(NamedTuple):
    """What the ranks have in a step.

    Attributes:
        kinds: (ranks, parameters) float64, the `Kind` of each gradient.
        rows: (ranks, parameters) float64, the number of rows of a sparse one.
        weights: (ranks,) float64, of each rank's rows.
    """

    kinds: Tensor
    rows: Tensor
    weights: Tensor


Finish = Callable[[Held, Sequence[Way]], list[Way]]


def scale_of(weight: float) -> float:
    """The power of two next to 1 / weight, which changes no digit; 1 where a weight has no inverse."""
    if not 0.0 < weight < math.inf:
        return 1.0
    return 2.0 ** max(-_LARGEST_POWER, min(_LARGEST_POWER, -round(math.log2(weight))))


def kind_of(gradient: Tensor | None) -> tuple[Kind, int]:
    """A gradient's kind and its number of rows."""
    if gradient is None:
        return Kind.NONE, 0
    return (Kind.SPARSE, gradient._nnz()) if gradient.is_sparse else (Kind.DENSE, 0)


def rows_are_cheaper(total_rows: Tensor, table_rows: Tensor, dimension: Tensor, value_bytes: int = 4) -> Tensor:
    """Whether gathering rows costs less than summing the whole table, for each of some tables.

    Args:
        total_rows: rows with a gradient, added up over ranks after each removed its own duplicates.
        table_rows: rows of the table.
        dimension: width of a row.
        value_bytes: bytes of a value on the wire.

    A gathered row brings its values and its index (8 bytes) to every rank, where adding it to the others costs as much
    again; a ring sum moves the table twice, and a mark a row with it.
    """
    return 2 * total_rows * (value_bytes * dimension + 8) < 2 * table_rows * value_bytes * (dimension + 1)


class Exchange:
    """Sums the gradients of parameters over ranks.

    On a half-precision wire each rank's gradients travel in its own range, as those of the mean over its rows: divided
    by its weight, as far as a power of two can. So no step overflows because of what another rank, or another step,
    weighs. The receiver, who has all ranks' weights, undoes that before it adds up.

    Args:
        parameters: the same on all ranks, in the same order.
        world: the ranks, more than one.
        wire: type in which values travel; None is float32. Sums are always formed in float32.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], world: World, wire: torch.dtype | None) -> None:
        self._parameters, self._world, self._wire = parameters, world, wire
        self._rows = torch.tensor([len(p) if p.dim() else 1 for p in parameters])
        self._dimensions = torch.tensor([p.numel() for p in parameters]) // self._rows

    def choose(self, held: Held) -> list[Way]:
        """The cheapest way of each parameter; what is done in Python does not grow with the ranks."""
        value_bytes = self._wire.itemsize if self._wire else 4
        cheaper = rows_are_cheaper(held.rows.sum(0), self._rows, self._dimensions, value_bytes)
        sparse = torch.where(cheaper, Way.ROWS, Way.TABLE)
        some = torch.where((held.kinds == Kind.DENSE).any(0), Way.DENSE, sparse)
        return [Way(way) for way in torch.where(held.kinds.any(0), some, Way.NONE).tolist()]

    def start(self, ways: Sequence[Way], weight: float) -> Finish:
        """Send every gradient its way, in three collectives or fewer, and return the function that ends it.

        That one takes what the ranks turn out to have, and the ways that are right for it. It puts the sums into
        `.grad`, sparse ones coalesced. Where a gradient could not go the way it was sent, `.grad` stays as it is; it
        returns the right way of these, NONE for all others.

        Args:
            ways: one for each parameter.
            weight: of this rank's rows.
        """
        by_rows = [number for number, way in enumerate(ways) if way == Way.ROWS]
        joined = [number for number, way in enumerate(ways) if way in (Way.DENSE, Way.TABLE)]
        finish_rows = self._start_rows(by_rows, weight) if by_rows else None
        finish_joined = self._start_joined(joined, ways, weight) if joined else None

        def finish(held: Held, right: Sequence[Way]) -> list[Way]:
            gone = [_carries(*pair) for pair in zip(ways, right, strict=True)]
            sums = finish_rows(held) if finish_rows else {}  # while the buffer is on its way
            if finish_joined:
                sums |= finish_joined(held, gone)
            for number, gradient in sums.items():
                if gone[number]:
                    self._parameters[number].grad = gradient
            return [Way.NONE if done else way for done, way in zip(gone, right, strict=True)]

        return finish

    def _start_rows(self, numbers: list[int], weight: float) -> Callable[[Held], dict[int, Tensor]]:
        """Start gathering all sparse gradients' rows, in two collectives."""
        gradients = [self._parameters[number].grad for number in numbers]
        mine = [gradient for gradient in gradients if gradient is not None and gradient.is_sparse]
        device = self._parameters[numbers[0]].device
        indices = [gradient._indices()[0] for gradient in mine] or [torch.zeros(0, dtype=torch.int64, device=device)]
        values = [gradient._values().reshape(-1) for gradient in mine] or [torch.zeros(0, device=device)]
        my_values = torch.cat(values)
        if self._wire:
            my_values = my_values.mul_(scale_of(weight)).to(self._wire).view(torch.uint8)
        wait_indices = self._world.all_gather_start(torch.cat(indices), "gradient rows")
        wait_values = self._world.all_gather_start(my_values, "gradient values")

        def finish(held: Held) -> dict[int, Tensor]:
            all_indices, all_values = wait_indices(), wait_values()
            if self._wire:
                all_values = all_values.view(self._wire).float()
            return self._added(numbers, held, all_indices, all_values)

        return finish

    def _added(self, numbers: list[int], held: Held, indices: Tensor, values: Tensor) -> dict[int, Tensor]:
        """Add up gathered rows, rank after rank; `indices` and `values` hold rank 0's tables, then rank 1's."""
        pieces: dict[int, list[tuple[Tensor, Tensor]]] = {number: [] for number in numbers}
        row_start, value_start = 0, 0
        for counts, weight in zip(held.rows[:, numbers].long().tolist(), held.weights.tolist(), strict=True):
            first = value_start
            for number, count in zip(numbers, counts, strict=True):
                parameter = self._parameters[number]
                width = count * parameter[0].numel()
                piece = values[value_start : value_start + width].reshape(count, *parameter.shape[1:])
                pieces[number].append((indices[row_start : row_start + count], piece))
                row_start, value_start = row_start + count, value_start + width
            if self._wire:
                values[first:value_start].mul_(1.0 / scale_of(weight))
        tables = {number: self._parameters[number] for number in numbers}
        return {
            number: sparse_gradient(*add_rows(pieces[number], table.shape[0]), table)
            for number, table in tables.items()
        }

    def _start_joined(
        self, numbers: list[int], ways: Sequence[Way], weight: float
    ) -> Callable[[Held, Sequence[bool]], dict[int, Tensor]]:
        """Start summing gradients in one buffer, where a sparse one takes its whole table and a mark a row."""
        parameters = [self._parameters[number] for number in numbers]
        marked = [ways[number] == Way.TABLE for number in numbers]
        widths = [p.numel() + (p.shape[0] if has_marks else 0) for p, has_marks in zip(parameters, marked, strict=True)]
        buffer = torch.zeros(sum(widths), device=parameters[0].device)
        scale = scale_of(weight) if self._wire else 1.0
        for parameter, has_marks, piece in zip(parameters, marked, torch.split(buffer, widths), strict=True):
            _fill(parameter, piece, scale, has_marks=has_marks)
        wait = self._start_compressed(buffer, self._wire) if self._wire else self._start_plain(buffer)

        def finish(held: Held, gone: Sequence[bool]) -> dict[int, Tensor]:
            sums = {}
            for number, has_marks, piece in zip(numbers, marked, torch.split(wait(held), widths), strict=True):
                parameter = self._parameters[number]
                table = piece[: parameter.numel()].view_as(parameter)
                if not gone[number]:
                    continue
                if has_marks:
                    used = piece[parameter.numel() :].nonzero().reshape(-1)
                    sums[number] = sparse_gradient(used, table.index_select(0, used), parameter)
                else:
                    sums[number] = table.to(parameter.dtype)
            return sums

        return finish

    def _start_plain(self, buffer: Tensor) -> Callable[[Held], Tensor]:
        wait = self._world.all_reduce_sum_start(buffer, "gradients")
        return lambda _: wait()

    def _start_compressed(self, buffer: Tensor, wire: torch.dtype) -> Callable[[Held], Tensor]:
        """Each rank sums its slice of everyone's buffer in float32 and sends the sum to all: half a ring's bytes."""
        size = self._world.size
        width = -(-buffer.numel() // size)
        padded = torch.nn.functional.pad(buffer, (0, width * size - buffer.numel())).to(wire)
        splits = torch.full((size,), width * wire.itemsize, dtype=torch.int64)
        wait = self._world.all_to_all_start(padded.view(torch.uint8), splits, "gradient slices")

        def finish(held: Held) -> Tensor:
            scale = scale_of(float(held.weights.sum()))
            slices = wait()[0].view(wire).reshape(size, width).float()
            factors = torch.tensor([scale / scale_of(weight) for weight in held.weights.tolist()])
            summed = slices.mul_(factors.to(slices)[:, None]).sum(0)
            joined = self._world.all_gather(summed.to(wire).view(torch.uint8), "gradient sums")
            return joined.view(wire).float()[: buffer.numel()].mul_(1.0 / scale)

        return finish


def _carries(way: Way, right: Way) -> bool:
    """Whether a gradient that should have gone one way arrives on the other: perhaps dearer, but whole."""
    return Way.NONE not in (way, right) and (way == Way.DENSE) == (right == Way.DENSE)


def _fill(parameter: nn.Parameter, piece: Tensor, scale: float, *, has_marks: bool) -> None:
    """Copy a gradient, scaled, into its piece of the buffer; a dense one has no place among marks."""
    gradient, size = parameter.grad, parameter.numel()
    if gradient is None or (has_marks and not gradient.is_sparse):
        return
    table = piece[:size].view_as(parameter)
    if not gradient.is_sparse:
        table.copy_(gradient)
    else:
        table.index_add_(0, gradient._indices()[0], gradient._values())
    if scale != 1.0:
        table.mul_(scale)
    if has_marks:
        piece[size:].index_fill_(0, gradient._indices()[0], _MARK)
