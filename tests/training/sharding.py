"""What test_sharded.py runs on every rank: sharded tables beside whole ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.training.tiny import ITEMS, USERS, TinyLoader, TinyModel, rows
from training.batch import Batch
from training.errors import BundleError
from training.fit import Event, FitSettings, fit
from training.settings import Compression
from training.state.export import export
from training.state.files import Written, damage, write_tensors
from training.step.sync import Synchroniser, global_norm
from training.tables.rows import fill_rows
from training.tables.sharded import ShardedEmbedding, Tables, look_up, sharded_tables
from training.world import World

ROWS, DIMENSION = 53, 6  # a prime: no number of ranks divides it


class Model(TinyModel):
    """The tiny model with its two tables from the factory, `users` with a padding row."""

    def __init__(self, tables: Tables, users: int = USERS) -> None:
        super().__init__()
        self.users = tables("users", users, 8, std=1.0, padding_idx=0)
        self.items = tables("items", ITEMS, 8, std=1.0)


class ThreeTables(Model):
    """A dense table beside sparse ones of two widths, all of them asked at once."""

    def __init__(self, tables: Tables, users: int = USERS) -> None:
        super().__init__(tables, users)
        self.days = tables("days", 7, 8, std=1.0, dense=True)
        self.biases = tables("biases", ITEMS, 3, std=1.0)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        users, items, labels, weights = (batch[name] for name in ("user", "item", "label", "weight"))
        assert isinstance(users, Tensor)
        assert isinstance(items, Tensor)
        asked = (self.users, users), (self.items, items), (self.days, users % 7), (self.biases, items)
        user, item, day, bias, before = look_up(*asked, (self.items, (items - 1).clamp(min=0)))
        scores = (torch.tanh(self.layer(user + day)) * (item + before)).sum(1) + bias.sum(1)
        return (weights * (scores - labels).square()).sum(), weights.sum()  # type: ignore[operator,union-attr]


def checks(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """All checks of one world size in one launch."""
    lookups(world)
    together(world)
    compared = [
        gradients(world, compression, idle)
        for compression in ("none", "fp16", "bf16")
        for idle in ([], [0], [world.size - 1], list(range(world.size)))
    ]
    poisoned(world)
    return {
        "compared": len(compared),
        **{name: train(one, world) for name, one in spec["train"].items()},
        "exported": exported(spec["export"], world),
    }


def _whole(padding_idx: int | None = None) -> nn.Embedding:
    table = Tables()("planted", ROWS, DIMENSION, std=0.5, padding_idx=padding_idx)
    assert isinstance(table, nn.Embedding)
    return table


def _sharded(world: World, padding_idx: int | None = None) -> ShardedEmbedding:
    table = Tables(world, 0.0)("planted", ROWS, DIMENSION, std=0.5, padding_idx=padding_idx)
    assert isinstance(table, ShardedEmbedding)
    return table


def lookups(world: World) -> None:
    """Rows come back in the ids' shape, the same bits as from a whole table, also where a rank asks for none."""
    whole, sharded = _whole(), _sharded(world)
    assert torch.equal(sharded.weight, whole.weight[world.rank :: world.size])
    generator = torch.Generator().manual_seed(world.rank)
    for shape in ((7,), (4, 3), (0,), (), (5 * world.rank,)):
        ids = torch.randint(ROWS, shape, generator=generator)
        with torch.no_grad():
            found = sharded(ids)
        assert found.shape == (*shape, DIMENSION)
        assert torch.equal(found, whole(ids))
    pieces = torch.cat(list(sharded.pieces()))
    assert pieces.numel() == 0 if world.rank else torch.equal(pieces, whole.weight)


class _Counted(World):
    """A world that writes down the names of the exchanges that it starts."""

    def __init__(self, world: World) -> None:
        self.rank, self.size, self._world, self.names = world.rank, world.size, world, list[str]()

    def all_to_all_start(self, tensor: Tensor, splits: Tensor, name: str) -> Callable[[], tuple[Tensor, Tensor]]:
        self.names.append(name)
        return self._world.all_to_all_start(tensor, splits, name)


def together(world: World) -> None:
    """Rows and gradients of tables of several widths, one of them asked twice, one whole: as table by table."""
    counted = _Counted(world)
    generator = torch.Generator().manual_seed(world.rank)
    made: list[list[nn.Module]] = []
    for tables in (Tables(counted, 0.0), Tables(world, 0.0)):
        three = [tables(f"table {width}", ROWS, width, std=0.5) for width in (1, 4, 6)]
        made.append([*three, tables("whole", ROWS, 2, std=0.5, dense=True)])
    order = (2, 0, 3, 1, 2)
    for shape in ((9,), (3, 2), (0,), (5 * world.rank,)):
        ids = [torch.randint(ROWS, shape, generator=generator) for _ in order]
        found = look_up(*((made[0][number], own) for number, own in zip(order, ids, strict=True)))  # type: ignore[arg-type]
        one_by_one = [made[1][number](own) for number, own in zip(order, ids, strict=True)]
        for own, expected in zip(found, one_by_one, strict=True):
            assert torch.equal(own, expected)
        for vectors in (found, one_by_one):
            sum((own * own).sum() for own in vectors).backward()  # type: ignore[union-attr]
    assert counted.names == ["table 6, table 1, table 4 ids", "table 6, table 1, table 4 rows"] * 4
    counted.names.clear()
    for tables in made:
        Synchroniser(nn.ModuleList(tables), world).synchronise(1.0, 2.0)
    assert counted.names == [f"table 1, table 4, table 6 gradient {what}" for what in ("rows", "values")]
    for mine, expected in zip(*made, strict=True):
        assert mine.weight.grad is not None
        torch.testing.assert_close(mine.weight.grad.to_dense(), expected.weight.grad.to_dense())


def _ids(rank: int, lookup: int) -> Tensor:
    """Ids with many duplicates, and with the padding row among them."""
    return torch.randint(20, (15 + rank,), generator=torch.Generator().manual_seed(10 * rank + lookup))


def _loss(table: nn.Module, rank: int) -> Tensor:
    """Two lookups in one step, as with accumulated batches."""
    return sum((table(_ids(rank, n)) * (n + 1)).square().sum() for n in range(2))  # type: ignore[return-value]


def gradients(world: World, compression: Compression, idle: list[int]) -> None:
    """The owners' gradients against one process with all ranks' rows. Idle ranks look up, but have no backward pass."""
    alone, weight = _whole(padding_idx=3), 0.0
    for rank in range(world.size):
        if rank not in idle:
            _loss(alone, rank).backward()
            weight += 2.0
    sharded = _sharded(world, padding_idx=3)
    model = nn.ModuleDict({"table": sharded, "layer": nn.Linear(1, 1)})
    mine = _loss(sharded, world.rank)
    if world.rank not in idle:
        mine.backward()
    loss = 0.0 if world.rank in idle else float(mine.detach())
    synchroniser = Synchroniser(model, world, compression)
    totals = synchroniser.synchronise(loss, 0.0 if world.rank in idle else 2.0)
    assert totals.weight == weight
    if not weight:
        assert sharded.weight.grad is None
        return
    assert alone.weight.grad is not None
    expected = alone.weight.grad.coalesce() / weight
    gradient = sharded.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    assert gradient.is_coalesced()
    used = expected.coalesce()._indices()[0]
    assert 3 not in used
    assert torch.equal(gradient._indices()[0] * world.size + world.rank, used[used % world.size == world.rank])
    tolerance = {"none": 1e-6, "fp16": 2e-3, "bf16": 2e-2}[compression]
    dense = expected.to_dense()
    atol = tolerance * float(dense.abs().max())
    torch.testing.assert_close(gradient.to_dense(), dense[world.rank :: world.size], atol=atol, rtol=0.0)
    norm = global_norm(synchroniser.shared, world, synchroniser.local)
    assert abs(norm - float(dense.norm())) <= max(tolerance, 1e-5) * float(dense.norm())
    assert world.all_gather_object(norm) == [norm] * world.size


def poisoned(world: World) -> None:
    """A loss that is not a number on one rank drops the step, and what was looked up does not reach the next one."""
    sharded = _sharded(world)
    _loss(sharded, world.rank).backward()
    synchroniser = Synchroniser(sharded, world)
    assert not synchroniser.synchronise(float("nan") if world.rank == 0 else 1.0, 1.0).usable
    assert sharded.weight.grad is None
    synchroniser.synchronise(1.0, 1.0)
    assert sharded.weight.grad is None, "no lookup, no gradient"


def train(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Fit the model; its loss, what it warned of, and all its tensors, whole, as lists."""
    settings = FitSettings(**spec["settings"])
    kind = ThreeTables if spec.get("three") else Model
    model = kind(Tables(world, settings.shard_tables_above_mb, settings.seed), spec.get("users", USERS))
    data = rows(124)  # six steps of 24 an epoch; in the last, ranks have nothing
    loader = TinyLoader(data, settings.rows_per_batch(world.size), world)
    events: list[Event] = []

    def validate(model: Model) -> dict[str, float]:
        loss, weight = model.loss(data, torch.Generator())
        return {"validation_loss": float(loss / weight)}

    result = fit(
        model,
        loader,
        settings,
        world=world,
        checkpoint_dir=spec.get("folder"),
        validate=validate if settings.metric != "loss" else None,
        report=events.append,
    )
    return {
        "loss": result.final_loss,
        "best": result.best,
        "warnings": [event.message for event in events if event.kind == "warning"],
        "resumed_at": [event.step for event in events if event.kind == "resume"],
        "tensors": {name: tensor.tolist() for name, tensor in _gathered(model, world).items()},
    }


def _gathered(model: nn.Module, world: World) -> dict[str, Tensor]:
    tables = sharded_tables(model)
    return {
        name: torch.cat(list(tables[name].pieces())) if name in tables else tensor
        for name, tensor in sorted(model.state_dict().items())
    }


def exported(folder: str, world: World) -> bool:
    """A file of the sharded model, and one of the same model with whole tables."""
    sharded, whole = Model(Tables(world, 0.0)), Model(Tables())
    for name, model in (("sharded", sharded), ("whole", whole)):
        path = Path(folder) / f"{name}-{world.size}.safetensors"
        written = export(model, world, lambda state, path=path: asdict(write_tensors(path, state)))
        assert damage(path, Written(**written)) is None
    return world.rank == 0


def full_disk(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A file whose writing fails on rank 0, after its first piece."""

    def write(state: Any) -> None:
        next(state["users.weight"].pieces())
        raise BundleError("planted: no room")

    export(Model(Tables(world, 0.0)), world, write)
    return {}


class Forgetful(Model):
    """Leaves the lookup out where its batch is empty, which the contract forbids."""

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        user = batch["user"]
        assert isinstance(user, Tensor)
        return super().loss(batch, generator) if len(user) else (torch.zeros(()), torch.zeros(()))


def forgetful(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """One row for all ranks: the others' batches are empty."""
    settings = FitSettings(batch_size=world.size)
    fit(Forgetful(Tables(world, 0.0)), TinyLoader(rows(1), 1, world), settings, world=world)
    return {}


def outside(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """One rank looks up an id that the table does not have; the others wait for it in the same lookup."""
    _sharded(world)(torch.tensor([1, ROWS if world.rank == world.size - 1 else 2]))
    return {}


def fill_values(count: int, rank: int = 0, ranks: int = 1) -> Tensor:
    """Initial values of a table of one column."""
    weight = torch.empty(count, 1)
    fill_rows(weight, std=2.0, seed=1, name="planted", rank=rank, ranks=ranks)
    return weight[:, 0]
