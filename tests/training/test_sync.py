"""Gradients across ranks: the same as one process with all the rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

from cluster.launch import launch
from tests.training import collectives
from training.step.exchange import rows_are_cheaper, scale_of
from training.step.sync import Synchroniser
from training.tables.rows import add_rows, coalesce
from training.world import World


@pytest.fixture(scope="module")
def seen_by_ranks() -> dict[int, dict[str, Any]]:
    """What `collectives.gradients` returns on 2 and on 3 ranks; its own assertions have held there."""
    return {ranks: launch("tests.training.collectives:gradients", {}, ranks=ranks, timeout_s=120) for ranks in (2, 3)}


def test_one_process_gives_the_mean() -> None:
    assert collectives.synchronised({}, World())["checked"] == 12
    collectives.poisoned({}, World())
    collectives.changing({}, World())


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_give_the_mean_of_all_rows(ranks: int, seen_by_ranks: dict[int, dict[str, Any]]) -> None:
    assert seen_by_ranks[ranks]["checked"] == 12
    assert seen_by_ranks[ranks]["steps"] == 98
    assert seen_by_ranks[ranks]["light and heavy"] == 36


class Mirror(World):
    """Other ranks that do as this one does; writes down what is started and what is waited for."""

    def __init__(self, size: int = 2) -> None:
        self.size, self.calls = size, list[str]()

    def _wait(self, name: str, result: torch.Tensor) -> Callable[[], torch.Tensor]:
        self.calls.append(f"start {name}")

        def wait() -> torch.Tensor:
            self.calls.append(f"wait {name}")
            return result

        return wait

    def all_gather_start(self, tensor: torch.Tensor, name: str) -> Callable[[], torch.Tensor]:
        return self._wait(name, torch.cat([tensor] * self.size))

    def all_reduce_sum_start(self, tensor: torch.Tensor, name: str) -> Callable[[], torch.Tensor]:
        return self._wait(name, self.size * tensor)


def step(model: collectives.Tables, synchroniser: Synchroniser) -> None:
    model.zero_grad()
    model.loss(torch.tensor([3, 4, 3]), torch.tensor([0, 1, 2])).backward()
    synchroniser.synchronise(1.0, 3.0)


def test_ranks_wait_for_each_other_once() -> None:
    world, model = Mirror(), collectives.Tables()
    synchroniser = Synchroniser(model, world)
    step(model, synchroniser)
    assert world.calls[:3] == ["start gradient header", "wait gradient header", "start gradient rows"]
    world.calls.clear()
    step(model, synchroniser)
    started = [f"start {name}" for name in ("gradient header", "gradient rows", "gradient values", "gradients")]
    assert sorted(world.calls[:4]) == sorted(started)
    assert sum(call.startswith("start") for call in world.calls) == 4, "nothing is sent twice"


def test_a_scale_is_a_power_of_two_that_no_weight_breaks() -> None:
    assert [scale_of(weight) for weight in (1.0, 3.0, 0.25, 8192.0)] == [1.0, 0.25, 4.0, 2.0**-13]
    assert [scale_of(weight) for weight in (0.0, float("nan"), float("inf"))] == [1.0] * 3
    assert [scale_of(weight) for weight in (1e-300, 1e300)] == [2.0**126, 2.0**-126]


def test_a_resumed_training_sums_as_one_that_went_on() -> None:
    """Rows where many of them had been before: the way of the step before decides, not this step's rows."""
    worlds, calls = [Mirror(), Mirror()], []
    model = collectives.Tables()
    unbroken = Synchroniser(model, worlds[0])
    step(model, unbroken)
    resumed = Synchroniser(model, worlds[1])
    resumed.load(json.loads(json.dumps(unbroken.state())))
    for synchroniser, world in zip((unbroken, resumed), worlds, strict=True):
        world.calls.clear()
        step(model, synchroniser)
        calls.append(world.calls)
    assert calls[0] == calls[1]
    assert resumed.state() == unbroken.state()
    alone = Synchroniser(model, World())
    alone.load(unbroken.state())
    assert alone.state()["ways"] == []


def test_gradients_keep_their_memory_apart() -> None:
    """Two tables whose rows are added get the very same tensor as their gradients' values."""
    tables = nn.ModuleList(nn.Embedding(5, 2, sparse=True) for _ in range(2))
    sum(table(torch.tensor([1, 3])) for table in tables).sum().backward()
    Synchroniser(tables, World()).synchronise(1.0, 4.0)
    for table in tables:
        assert table.weight.grad.is_coalesced()
        assert table.weight.grad._values().tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_the_device_is_asked_once_how_the_rows_of_all_tables_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question waits for a GPU. Rows that come sorted and unique, and such as do not."""
    tables = nn.ModuleList(nn.Embedding(5, 2, sparse=True) for _ in range(4))
    rows = [[1, 3], [3, 1], [2, 2], []]
    sum(table(torch.tensor(own, dtype=torch.int64)).sum() for table, own in zip(tables, rows, strict=True)).backward()
    asked, tolist = list[int](), torch.Tensor.tolist
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "__bool__", pytest.fail)
        patch.setattr(torch.Tensor, "tolist", lambda self: asked.append(1) or tolist(self))
        coalesce([table.weight for table in tables])
    assert len(asked) == 1
    found = [table.weight.grad for table in tables]
    assert all(gradient.is_coalesced() for gradient in found)
    assert [gradient._indices()[0].tolist() for gradient in found] == [[1, 3], [1, 3], [2], []]
    assert found[2]._values().tolist() == [[2.0, 2.0]]


def cheaper(total_rows: int, table_rows: int, dimension: int, value_bytes: int = 4) -> bool:
    return bool(rows_are_cheaper(*map(torch.tensor, (total_rows, table_rows, dimension)), value_bytes))


def test_rows_travel_where_they_are_fewer_bytes() -> None:
    assert cheaper(total_rows=2 * 8192, table_rows=1_000_000, dimension=64)
    assert not cheaper(total_rows=2 * 1000, table_rows=1000, dimension=64)
    turning_point = next(rows for rows in range(4000) if not cheaper(rows, 1000, 64))
    assert turning_point * (4 * 64 + 8) >= 1000 * 4 * 65 > (turning_point - 1) * (4 * 64 + 8)
    assert cheaper(980, 1000, 64, value_bytes=4)
    assert not cheaper(980, 1000, 64, value_bytes=2)


def operations(call: Callable[[], object]) -> int:
    """Python's own instructions in a call; those of what it calls in C do not count."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def test_what_python_does_in_a_step_does_not_grow_with_the_ranks() -> None:
    model = nn.ParameterList(nn.Parameter(torch.zeros(2, 2)) for _ in range(60))
    counts = []
    for ranks in (2, 128):
        synchroniser = Synchroniser(model, Mirror(ranks))
        for _ in range(2):  # the first step waits for its header
            for parameter in model:
                parameter.grad = torch.ones(2, 2)
            count = operations(partial(synchroniser.synchronise, 1.0, 3.0))
        torch.testing.assert_close(model[-1].grad, torch.full((2, 2), 1 / 3))
        counts.append(count)
    assert counts[0] > 60
    assert counts[1] < 1.1 * counts[0]


@pytest.mark.parametrize("table_rows", [10, 10_000])
def test_sums_are_in_rank_order(table_rows: int) -> None:
    """1e8 + 1 - 1e8 is 0 in float32 in this order, and 1 in another. In a small table rows are marked, not sorted."""
    parts = [(torch.tensor([0, 3]), torch.tensor([[1e8], [1.0]])), (torch.tensor([0]), torch.tensor([[1.0]]))]
    rows, values = add_rows([*parts, (torch.tensor([0, 9]), torch.tensor([[-1e8], [2.0]]))], table_rows)
    assert rows.tolist() == [0, 3, 9]
    assert values.tolist() == [[0.0], [1.0], [2.0]]
