"""What test_world.py and test_sync.py run on every rank."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from training.data import row_groups
from training.data.row_groups import _counted
from training.data.snapshot import open_snapshot
from training.errors import CheckpointError, MillraceError
from training.settings import Compression
from training.state import checkpoint
from training.state import search as checkpoint_search
from training.state.checkpoint import Checkpoints, State
from training.state.export import export
from training.state.files import damage, write_tensors
from training.state.progress import Progress
from training.step.buffers import Buffers
from training.step.sync import Synchroniser, global_norm
from training.world import World


def all_calls(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Each of World's calls once; what rank 0 saw, after a check that all ranks saw the same."""
    me = world.rank
    seen = {
        "sum": world.all_reduce_sum(torch.tensor([1.0 + me, 10.0])).tolist(),
        "gather": world.all_gather(torch.full((me, 2), float(me))).tolist(),
        "gather_empty": world.all_gather(torch.zeros(0, dtype=torch.int64)).tolist(),
        "broadcast": world.broadcast(torch.tensor([me + 5]), world.size - 1).tolist(),
        "object": world.broadcast_object({"from": me, "pair": (1, 2)}, world.size - 1),
        "objects": world.all_gather_object([me, None, float("inf")]),
        "all_of_all": world.agree_all(True),
        "all_of_some": world.agree_all(me == 0),
        "any_of_some": world.agree_any(me == 0),
        "any_of_none": world.agree_any(False),
    }
    with patch("training.world.BROADCAST", 4):
        assert world.broadcast(torch.arange(10).view(5, 2) + 100 * me, world.size - 1)[4].tolist() == [
            100 * (world.size - 1) + number for number in (8, 9)
        ]
    sent = torch.arange(world.size * (world.size + 1) // 2) + 100 * me  # r + 1 rows for rank r
    received, counts = world.all_to_all(sent, torch.arange(world.size) + 1)
    first = me * (me + 1) // 2
    assert counts.tolist() == [me + 1] * world.size
    assert received.tolist() == [100 * source + first + n for source in range(world.size) for n in range(me + 1)]
    world.barrier()
    assert all(other == seen for other in world.all_gather_object(seen))
    assert world.comm_s > 0 or world.size == 1
    return seen


def apart(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Disk work of one rank that takes longer than a collective may, `spec["seconds"]`, wherever ranks wait for it."""

    def slow(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            time.sleep(spec["seconds"])
            return call(*args, **kwargs)

        return wrapped

    def fail(error: Exception) -> None:
        if world.rank == 0:
            raise error

    def full(path: Path, tensors: Any) -> None:
        raise OSError("planted: full")

    seen: dict[str, Any] = {"results": world.on_each("numbers", slow(lambda: world.rank) if world.rank else lambda: 0)}
    for error in (CheckpointError("planted: theirs"), OSError("planted: a disk")):
        try:
            world.on_each("failing", lambda error=error: fail(error))
        except (MillraceError, OSError) as caught:
            seen[type(error).__name__] = world.all_gather_object([type(caught).__name__, str(caught)])
    if world.rank == 0:
        row_groups._counted = slow(_counted)
    seen["rows"] = open_snapshot(spec["table"], world=world).rows
    if world.rank == 0:
        checkpoint.write_tensors, checkpoint_search.damage = slow(write_tensors), slow(damage)
    saver = Checkpoints(spec["folder"], identity={}, keep=1, say=print, world=world)
    saver.save(State(Progress(step=3), {"model/w": torch.ones(2)}))
    saver.wait()
    found = saver.load_latest()
    seen["step"] = found.progress.step if found else None
    if world.rank == 0:
        checkpoint.write_tensors = slow(full)
    saver.save(State(Progress(step=4), {}))
    try:
        saver.wait()
    except CheckpointError as caught:
        seen["full"] = world.all_gather_object(str(caught))
    checkpoint.write_tensors, checkpoint_search.damage = write_tensors, damage
    path = Path(spec["folder"]) / "whole"
    seen["export"] = export(Tables(), world, slow(lambda state: asdict(write_tensors(path, state))))
    return seen


class Tables(nn.Module):
    """A large and a small table, a dense layer, and one that never has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.large = nn.Embedding(2000, 4, sparse=True)
        self.small = nn.Embedding(6, 4, sparse=True)
        self.layer = nn.Linear(4, 3)
        self.unused = nn.Parameter(torch.ones(2))

    def loss(self, large: Tensor, small: Tensor) -> Tensor:
        return self.layer(self.large(large) * self.small(small)).square().sum()


def _batch(rank: int, rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return torch.randint(50, (rows,), generator=generator), torch.randint(6, (rows,), generator=generator)


def _gradients(model: nn.Module) -> dict[str, Tensor | None]:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: g.to_dense() if g is not None and g.is_sparse else g for name, g in found.items()}


def synchronised(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Every compression and every way a rank can be empty, against one process that has all ranks' rows."""
    tolerances = {"none": 1e-6, "fp16": 2e-3, "bf16": 2e-2}
    for compression, tolerance in tolerances.items():
        for empty in ([], [0], [world.size - 1], list(range(world.size))):
            _compare(world, compression, empty, tolerance)  # type: ignore[arg-type]
    return {"checked": len(tolerances) * 4}


def _compare(world: World, compression: Compression, empty: list[int], tolerance: float) -> None:
    sizes = [0 if rank in empty else 20 + rank for rank in range(world.size)]
    alone = Tables()
    loss = sum(alone.loss(*_batch(rank, size)) for rank, size in enumerate(sizes) if size)
    expected_loss, weight = float(torch.as_tensor(loss).detach()), float(sum(sizes))
    if weight:
        loss.backward()
        for parameter in alone.parameters():
            parameter.grad = parameter.grad / weight if parameter.grad is not None else None

    model = Tables()
    mine = 0.0
    if world.rank not in empty:  # an empty rank has no gradient at all
        part = model.loss(*_batch(world.rank, sizes[world.rank]))
        part.backward()
        mine = float(part.detach())
    totals = Synchroniser(model, world, compression).synchronise(
        mine, float(sizes[world.rank]), sizes[world.rank], save=world.rank == 0
    )
    assert totals.usable == (weight > 0)
    assert (totals.weight, totals.rows, totals.stop, totals.save) == (weight, int(weight), False, True)
    assert abs(totals.loss - expected_loss) <= 1e-5 * expected_loss
    expected, found = _gradients(alone), _gradients(model)
    for name, gradient in expected.items():
        if gradient is None:
            assert found[name] is None, name
            continue
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, atol=tolerance * scale, rtol=0.0)
    if weight:
        for table in (model.large, model.small):
            gradient = table.weight.grad
            assert gradient.is_sparse
            assert gradient.is_coalesced()
            rows = gradient._indices()[0]
            assert (rows[1:] > rows[:-1]).all(), "rows are sorted and unique"
        norm = torch.cat([g.reshape(-1) for g in expected.values() if g is not None]).norm()
        assert abs(global_norm(list(model.parameters()), world) - float(norm)) <= max(tolerance, 1e-5) * float(norm)
    checks = [float(g.double().sum()) for g in found.values() if g is not None]
    assert all(other == checks for other in world.all_gather_object(checks)), "the ranks' gradients differ"


def poisoned(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """One rank's loss is not a number: all ranks drop the step."""
    model = Tables()
    part = model.loss(*_batch(world.rank, 5))
    part.backward()
    loss = float("nan") if world.rank == world.size - 1 else float(part.detach())
    totals = Synchroniser(model, world).synchronise(loss, 5.0, 5)
    assert not totals.usable
    assert all(parameter.grad is None for parameter in model.parameters())
    return {}


CASES = ("none", "dense", "one dense", "few rows", "many rows", "one sparse", "sparse and dense")


def _gradient(case: str, rank: int, ranks: int, step: int) -> Tensor | None:
    """A rank's gradient of a (40, 3) table in a case."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    last = rank == ranks - 1
    if case == "none" or (case.startswith("one") and not last):
        return None
    if case in ("dense", "one dense") or (case == "sparse and dense" and last):
        return torch.randn(40, 3, generator=generator)
    rows = torch.randperm(40, generator=generator)[: 35 if case == "many rows" else 2]
    values = torch.randn(len(rows), 3, generator=generator)
    return torch.sparse_coo_tensor(rows[None], values, (40, 3), check_invariants=False)


def changing(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Every case after every other, and a step without a finite loss now and then: the sums are right all the same."""
    for compression, tolerance in {"none": 1e-6, "fp16": 2e-3}.items():
        model = nn.Embedding(40, 3)
        synchroniser = Synchroniser(model, world, compression)  # type: ignore[arg-type]
        for step, case in enumerate(case for first in CASES for second in CASES for case in (first, second)):
            poison = step % 5 == 4
            model.weight.grad = _gradient(case, world.rank, world.size, step)
            totals = synchroniser.synchronise(float("nan") if poison and world.rank == 0 else 1.0, 1e4)
            every = [_gradient(case, rank, world.size, step) for rank in range(world.size)]
            held = [gradient for gradient in every if gradient is not None]
            assert totals.usable != poison
            if poison or not held:
                assert model.weight.grad is None, (case, step)
                continue
            found = model.weight.grad
            assert found.is_sparse == all(gradient.is_sparse for gradient in held), (case, step)
            expected = sum(gradient.to_dense() for gradient in held) / (1e4 * world.size)
            scale = float(expected.abs().max())
            torch.testing.assert_close(found.to_dense(), expected, atol=tolerance * scale, rtol=0.0)
    return {"steps": step + 1}


def light_and_heavy(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """In half precision a step of much weight follows one of little, and the other way round: both arrive whole.

    A row's gradient is about 30; so what fits a step's own weight fits the wire, and no other step's does.
    """
    checked = 0
    for compression, tolerance in {"fp16": 2e-3, "bf16": 2e-2}.items():
        model = nn.Embedding(40, 3)
        synchroniser = Synchroniser(model, world, compression)  # type: ignore[arg-type]
        for step, weight in enumerate([8192.0, 0.25, 8192.0, 1e-4, 1e9, 2.0]):
            weights = [weight if rank == 0 else weight / 64 for rank in range(world.size)]
            for case in ("dense", "few rows", "many rows"):
                every = [_gradient(case, rank, world.size, step) * 30 * weights[rank] for rank in range(world.size)]
                model.weight.grad = every[world.rank].clone()
                totals = synchroniser.synchronise(1.0, weights[world.rank])
                found = model.weight.grad.to_dense()
                expected = sum(gradient.to_dense() for gradient in every) / totals.weight
                torch.testing.assert_close(found, expected, atol=tolerance * float(expected.abs().max()), rtol=0.0)
                checked += 1
    return {"light and heavy": checked}


def shared_buffers(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """The mean by rows, rank 0's counter, and bits that are the same everywhere left alone."""
    model = nn.BatchNorm1d(3)
    constant = torch.tensor([1 / 3, float("nan")])
    model.register_buffer("constant", constant.clone())
    buffers = Buffers(model, world)
    for rows_of_last in (world.size, 0):  # the second time the last rank had no rows
        model.running_mean.fill_(10.0**world.rank)
        model.num_batches_tracked.fill_(5 + world.rank)
        rows = [rank + 1 for rank in range(world.size - 1)] + [rows_of_last]
        buffers.count(rows[world.rank])
        buffers.share()
        mean = sum(10.0**rank * count for rank, count in enumerate(rows)) / sum(rows)
        torch.testing.assert_close(model.running_mean, torch.full((3,), mean))
        assert int(model.num_batches_tracked) == 5
        assert model.running_var.tolist() == [1.0] * 3
        assert torch.equal(model.constant.view(torch.int32), constant.view(torch.int32))
    assert len(set(world.all_gather_object(float(model.running_mean[0])))) == 1
    return {"buffers": "shared"}


def calls(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """What test_world.py looks at, in one launch."""
    return {"calls": all_calls(spec, world), **shared_buffers(spec, world), "policies": policies()}


def gradients(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """What test_sync.py looks at, in one launch."""
    found = {**synchronised(spec, world), **poisoned(spec, world)}
    return found | changing(spec, world) | light_and_heavy(spec, world)


def policies() -> dict[int, int]:
    """How many threads of this process, but for the main one, have each of the kernel's scheduling policies."""
    threads = [int(thread.name) for thread in Path("/proc/self/task").iterdir()]
    return Counter(os.sched_getscheduler(thread) for thread in threads if thread != os.getpid())
