"""Gradients across ranks: after `synchronise`, every rank holds the gradient of the global weighted mean loss.

The ranks wait for each other once a step. Gradients travel the ways (`training.step.exchange`) that were right the step
before, and with them a small header: each rank's loss and weight, and for each parameter whether it has a gradient here
and how many rows. From the header every rank knows the same: what the step's totals are, and whether a gradient could
not go the way it was sent, which is then made up for. A rank with an empty batch sends nothing and hangs nobody. The
first step of all has its header first. The gradients of sharded tables' rows go to the ranks that hold them, in two
more collectives for all tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.settings import Compression
from training.step.exchange import Exchange, Finish, Held, Way, kind_of
from training.tables.rows import coalesce
from training.tables.sharded import exchange_gradients, sharded_tables
from training.world import World

_WIRE = {"fp16": torch.float16, "bf16": torch.bfloat16}
_HEADER = 6  # loss, weight, rows, stop, save, leave; after them two figures a parameter


class Totals(NamedTuple):
    """What the ranks know together about a step.

    Attributes:
        loss: sum of the weighted losses over all ranks; not finite where any rank's is not.
        weight: sum of the weights over all ranks.
        rows: number of rows over all ranks.
        stop: whether any rank asked to stop.
        save: whether any rank asked for a checkpoint.
        leave: whether any rank was asked to end.
    """

    loss: float
    weight: float
    rows: int
    stop: bool
    save: bool
    leave: bool

    @property
    def usable(self) -> bool:
        """Whether the step has a gradient at all: a finite loss, of rows that weigh something."""
        return math.isfinite(self.loss) and math.isfinite(self.weight) and self.weight > 0


class Synchroniser:
    """Averages the gradients of a model's parameters over a world.

    Args:
        model: its parameters must be the same, in the same order, on all ranks.
        world: the ranks.
        compression: type in which gradients travel; sums are always formed in float32.

    Attributes:
        shared: the parameters that are the same on all ranks.
        local: the weights of sharded tables, of which each rank holds other rows.
    """

    def __init__(self, model: nn.Module, world: World, compression: Compression = "none") -> None:
        self._world = world
        self._tables = list(dict.fromkeys(sharded_tables(model).values()))
        self.local = [table.weight for table in self._tables if table.weight.requires_grad]
        held_here = set(map(id, self.local))
        self.shared = [p for p in model.parameters() if p.requires_grad and id(p) not in held_here]
        self._wire = _WIRE.get(compression) if world.size > 1 else None
        self._exchange = Exchange(self.shared, world, self._wire)
        self._ways: list[Way] = []  # of the step before; none before the first

    def state(self) -> dict[str, Any]:
        """What the next step goes by, JSON-safe: a training that goes on from here sums in the same order."""
        return {"ways": [int(way) for way in self._ways]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on as `state` says; it says nothing where it is of one rank, or of other parameters."""
        ways = state.get("ways", [])
        if self._world.size > 1 and len(ways) == len(self.shared):
            self._ways = [Way(way) for way in ways]

    def synchronise(
        self,
        loss: float,
        weight: float,
        rows: int = 0,
        *,
        stop: bool = False,
        save: bool = False,
        leave: bool = False,
    ) -> Totals:
        """Replace each `.grad`, a gradient of this rank's loss sum, by that of the mean over all ranks' rows.

        Sparse gradients come back coalesced. A parameter that has no gradient on any rank keeps None. Where the loss
        is not finite on any rank, or the weights add up to nothing, gradients are dropped.

        Args:
            loss: sum of the weighted losses of this rank's rows since the last call.
            weight: sum of their weights.
            rows: their number.
            stop: ask all ranks to stop.
            save: ask all ranks for a checkpoint.
            leave: ask all ranks to end, with a checkpoint.
        """
        coalesce(self.shared)
        lookups = [table.take_gradient() for table in self._tables]
        wait = self._start_headers([loss, weight, rows, stop, save, leave], [found is not None for found in lookups])
        finish = self._exchange.start(self._ways, weight) if self._ways else None
        headers = wait()
        sums = headers[:, :_HEADER].sum(0).tolist()
        totals = Totals(sums[0], sums[1], int(sums[2]), *(wish > 0 for wish in sums[3:]))
        if self._world.size > 1:
            held = headers[:, _HEADER : _HEADER + 2 * len(self.shared)]
            self._sum(Held(held[:, 0::2], held[:, 1::2], headers[:, 1]), weight, finish, usable=totals.usable)
        if not totals.usable:
            for parameter in self.shared:
                parameter.grad = None
            return totals
        scale_gradients(self.shared, 1.0 / totals.weight)
        used = headers[:, headers.shape[1] - len(lookups) :].any(0).tolist()
        used_tables = [table for table, is_used in zip(self._tables, used, strict=True) if is_used]
        used_rows = [found for found, is_used in zip(lookups, used, strict=True) if is_used]
        exchange_gradients(used_tables, used_rows, 1.0 / totals.weight, self._wire)
        return totals

    def _start_headers(self, figures: list[float], used: list[bool]) -> Callable[[], Tensor]:
        """Start gathering (ranks, 6 + 2 * shared parameters + sharded tables) float64, the same on all ranks."""
        held = [figure for parameter in self.shared for figure in kind_of(parameter.grad)]
        mine = torch.tensor([[*figures, *held, *used]], dtype=torch.float64)
        return self._world.all_gather_start(mine, "gradient header")

    def _sum(self, held: Held, weight: float, finish: Finish | None, *, usable: bool) -> None:
        """Sum the gradients over ranks.

        Args:
            held: what the ranks have.
            weight: of this rank's rows.
            finish: ends the exchange that is under way.
            usable: whether the step has a gradient; if not, what is under way is ended and nothing else is sent.
        """
        right = self._exchange.choose(held)
        wrong = finish(held, right) if finish else right
        if not usable:
            return
        self._ways = right
        if any(wrong):
            self._exchange.start(wrong, weight)(held, right)


def global_norm(parameters: Sequence[nn.Parameter], world: World, local: Sequence[nn.Parameter] = ()) -> float:
    """Euclidean norm of all gradients together, dense and coalesced sparse; not finite where any value is not.

    Args:
        parameters: with the same gradients on all ranks.
        world: the ranks.
        local: parameters of which each rank holds another part; their squares are summed over ranks.
    """
    squares = _squares(parameters)
    if local:
        squares = squares + world.all_reduce_sum(_squares(local).reshape(1), "gradient norm")[0]
    return float(squares.sqrt())


def _squares(parameters: Sequence[nn.Parameter]) -> Tensor:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    values = [gradient._values() if gradient.is_sparse else gradient for gradient in gradients]
    norms = [value.norm(dtype=torch.float32).double() for value in values if value.numel()]
    if norms:
        return torch.stack(norms).square().sum()
    # Where its peers' lie: a rank whose rows had no gradient still exchanges with them.
    return torch.zeros((), dtype=torch.float64, device=parameters[0].device if parameters else "cpu")


def scale_gradients(parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Multiply all gradients, in place."""
    for parameter in parameters:
        if parameter.grad is not None:
            (parameter.grad._values() if parameter.grad.is_sparse else parameter.grad).mul_(factor)
