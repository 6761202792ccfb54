"""Sharded tables: the same numbers as whole ones at every world size, in a step, a training, a checkpoint, a file."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cluster.errors import LaunchError
from cluster.launch import launch
from tests.training import sharding
from training.errors import BundleError, CheckpointError, DataError, SettingsError
from training.state import frozen_rows
from training.state import shards as shard_files
from training.state.checkpoint import Checkpoints, State
from training.state.frozen_rows import FrozenRows
from training.state.progress import Progress
from training.step.optimizers import sparse_parameters
from training.tables.rows import overlaps, rows_held
from training.tables.sharded import ShardedEmbedding, Tables
from training.world import World

COMMON = {"epochs": 2, "batch_size": 24, "seed": 5, "clip_norm": 1.0, "checkpoint_every_steps": 4}
SHARDED = {**COMMON, "shard_tables_above_mb": 0.0}
ACCUMULATED = {"embedding_optimizer": "sparse_adam", "accumulate": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "rowwise_adagrad": {},
    "accumulated_sparse_adam": ACCUMULATED,
    "bf16": {"compression": "bf16"},
}
RUN_ON = {2: list(VARIANTS), 3: ["rowwise_adagrad", "accumulated_sparse_adam"], 1: list(VARIANTS)}
FIRST = {"epochs": 1, "embedding_optimizer": "sparse_adam", "metric": "validation_loss"}  # then a second epoch
LAST, BEFORE = 6, 4  # steps of the checkpoints of an epoch
TORN = "shard-00001-of-00002.safetensors"


def _spec(settings: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    return {"settings": {**SHARDED, **settings}, **({"folder": str(folder)} if folder else {})}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """One process with whole tables."""
    return sharding.train({"settings": {**COMMON, **settings}}, World())


def _assert_same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-4) -> None:
    assert found["loss"] == pytest.approx(expected["loss"], rel=tolerance)
    for name, values in expected["tensors"].items():
        close = {"atol": tolerance, "rtol": tolerance}
        torch.testing.assert_close(torch.tensor(found["tensors"][name]), torch.tensor(values), **close, msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def seen(folder: Path) -> dict[int, dict[str, Any]]:
    """All checks at world sizes 1, here, and 2 and 3. A training begun on n ranks goes on at the next size."""
    results = {}
    for ranks in (2, 3, 1):
        specs = {name: _spec(VARIANTS[name]) for name in RUN_ON[ranks]}
        specs["three tables"] = {**_spec({"weight_decay": 0.5}), "three": True}
        specs["three whole tables"] = {"settings": {**COMMON, "weight_decay": 0.5}, "three": True}
        specs["begun"] = _spec(FIRST, folder / f"from-{ranks}")
        before = {3: 2, 1: 3}.get(ranks)
        if before:
            specs["resumed"] = _spec({**FIRST, "epochs": 2}, folder / f"resumed-{before}-by-{ranks}")
            shutil.copytree(folder / f"from-{before}", folder / f"resumed-{before}-by-{ranks}")
        if ranks == 3:
            shutil.copytree(folder / "from-2", folder / "torn")
            _flip(folder / "torn" / "step-000000006" / TORN)
            specs["torn"] = _spec({**FIRST, "epochs": 2}, folder / "torn")
        spec = {"train": specs, "export": str(folder)}
        target = "tests.training.sharding:checks"
        alone = ranks == 1
        results[ranks] = sharding.checks(spec, World()) if alone else launch(target, spec, ranks=ranks, timeout_s=250)
    return results


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_steps_equal_those_of_a_whole_table(ranks: int, seen: dict[int, dict[str, Any]]) -> None:
    assert seen[ranks]["compared"] == 12


@pytest.mark.parametrize("name", VARIANTS)
def test_training_equals_that_of_whole_tables(name: str, seen: dict[int, dict[str, Any]]) -> None:
    expected = _plain(VARIANTS[name])
    for ranks in (ranks for ranks, names in RUN_ON.items() if name in names):
        _assert_same(seen[ranks][name], expected, 2e-2 if name == "bf16" and ranks > 1 else 1e-4)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("tables", ["three tables", "three whole tables"])
def test_dense_tables_and_lookups_of_many_at_once_change_no_number(
    ranks: int, tables: str, seen: dict[int, dict[str, Any]]
) -> None:
    expected = sharding.train({"settings": {**COMMON, "weight_decay": 0.5}, "three": True}, World())
    _assert_same(seen[ranks][tables], expected)


def test_a_dense_table_learns_as_a_layer_does() -> None:
    model = sharding.ThreeTables(Tables(World(), 0.0))
    assert isinstance(model.days, nn.Embedding)
    assert not any(model.days.weight is weight for weight in sparse_parameters(model))
    spec = {"settings": {**COMMON, "learning_rate": 0.1, "embedding_learning_rate": 1e-9}, "three": True}
    plain, decayed = (
        torch.tensor(sharding.train({**spec, "settings": {**spec["settings"], **changes}}, World())["tensors"][name])
        for changes in ({}, {"weight_decay": 0.9})
        for name in ["days.weight"]
    )
    assert float(decayed.norm()) < 0.8 * float(plain.norm())


def test_clipping_and_the_optimizer_make_a_difference() -> None:
    losses = [sharding.train(_spec(changes), World())["loss"] for changes in ({}, {"clip_norm": None}, ACCUMULATED)]
    assert len({round(loss, 3) for loss in losses}) == 3


@pytest.mark.parametrize(("ranks", "before"), [(3, 2), (1, 3)])
def test_resumed_at_another_world_size_is_unbroken(
    ranks: int, before: int, seen: dict[int, dict[str, Any]], folder: Path
) -> None:
    resumed, unbroken = seen[ranks]["resumed"], _plain({**FIRST, "epochs": 2})
    assert resumed["resumed_at"] == [LAST]
    assert resumed["warnings"] == []
    _assert_same(resumed, unbroken)
    assert resumed["best"] == pytest.approx(unbroken["best"], rel=1e-4)
    written = folder / f"from-{before}" / "step-000000006"
    assert sorted(path.name for path in written.iterdir()) == [
        *(f"shard-{rank:05d}-of-{before:05d}.safetensors" for rank in range(before)),
        "state.json",
        "tensors.safetensors",
    ]


def test_resumed_at_the_same_size_has_the_same_bits(tmp_path: Path) -> None:
    sharding.train(_spec({**FIRST, "epochs": 1}, tmp_path), World())
    resumed = sharding.train(_spec({**FIRST, "epochs": 2}, tmp_path), World())
    assert resumed["resumed_at"] == [LAST]
    assert resumed["tensors"] == sharding.train(_spec({**FIRST, "epochs": 2}), World())["tensors"]


def test_a_torn_shard_is_passed_over_aloud_by_all(seen: dict[int, dict[str, Any]]) -> None:
    torn = seen[3]["torn"]
    assert torn["resumed_at"] == [BEFORE]
    assert len(torn["warnings"]) == 1
    assert f"step-000000006' is damaged ({TORN} does not have the SHA-256" in torn["warnings"][0]
    _assert_same(torn, _plain({**FIRST, "epochs": 2}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "cannot be read: No such file"),
        (lambda path: path.write_bytes(b"cut"), "3 bytes instead"),
    ],
)
def test_a_missing_or_cut_shard_too(
    damage: Callable[[Path], Any], words: str, seen: dict[int, dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "from-2", tmp_path / "copy")
    damage(tmp_path / "copy" / "step-000000006" / TORN)
    found = sharding.train(_spec({**FIRST, "epochs": 2}, tmp_path / "copy"), World())
    assert found["resumed_at"] == [BEFORE]
    assert words in found["warnings"][0]


def test_best_weights_are_left(tmp_path: Path) -> None:
    """Where the highest loss is called best, it is the first epoch's; from memory and from the folder."""
    upside_down = {**FIRST, "epochs": 3, "metric_mode": "max"}
    for spec in (_spec(upside_down), _spec(upside_down, tmp_path)):
        left = sharding.train(spec, World())
        assert left["best"]["epoch"] == 0
        assert left["tensors"] == sharding.train(_spec({**upside_down, "epochs": 1}), World())["tensors"]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_exported_file_is_that_of_whole_tables(ranks: int, seen: dict[int, dict[str, Any]], folder: Path) -> None:
    assert seen[ranks]["exported"]
    sharded, whole = (folder / f"{kind}-{ranks}.safetensors" for kind in ("sharded", "whole"))
    assert sharded.read_bytes() == whole.read_bytes()
    save_file(load_file(whole), folder / "theirs.safetensors")
    assert (folder / "theirs.safetensors").read_bytes() == whole.read_bytes()


def test_whole_and_sharded_do_not_go_on_from_each_other(tmp_path: Path) -> None:
    sharding.train(_spec({"epochs": 1}, tmp_path), World())
    with pytest.raises(CheckpointError, match=r"settings\.shard_tables_above_mb is 0\.0 there and None here"):
        sharding.train({"settings": COMMON, "folder": str(tmp_path)}, World())


def test_a_table_of_another_size_does_not_go_on(tmp_path: Path) -> None:
    spec = _spec({"epochs": 1}, tmp_path)
    sharding.train(spec, World())
    with pytest.raises(CheckpointError, match=r"'users.weight' is \[31, 8\] here and \[30, 8\] there"):
        sharding.train({**spec, "users": 31}, World())


def test_a_rank_whose_file_does_not_come_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "PEER_S", 0.1)
    rows = FrozenRows({"t": {"model/t": torch.ones(4, 2)}})
    shard_files.write_shard(tmp_path, 0, 2, rows.streams())
    with pytest.raises(OSError, match=r"shard-00001-of-00002.safetensors of rank 1 did not grow for 0.1 s"):
        shard_files.collect_shards(tmp_path, 2, threading.Event())
    given_up = threading.Event()
    given_up.set()
    monkeypatch.setattr(shard_files, "PEER_S", 600.0)
    with pytest.raises(OSError, match="or the training ended"):
        shard_files.collect_shards(tmp_path, 2, given_up)


def test_a_rank_that_could_not_write_its_file_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / shard_files.shard_name(0, 1)).write_bytes(b"half")
    shard_files.give_up_shard(tmp_path, 0, 1)
    with pytest.raises(OSError, match=r"rank 0 could not write shard-00000-of-00001.safetensors"):
        shard_files.collect_shards(tmp_path, 1, threading.Event())
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]
    shard_files.give_up_shard(tmp_path / "gone", 0, 1)


def test_a_rank_whose_file_grows_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "PEER_S", 0.3)
    rows = {"model/t": FrozenRows({"t": {"model/t": torch.ones(4, 2)}}).streams()["model/t"]}

    def slow() -> None:
        path = tmp_path / shard_files.shard_name(0, 1)
        for size in range(1, 9):
            path.write_bytes(b"x" * size)
            time.sleep(0.1)
        shard_files.write_shard(tmp_path, 0, 1, rows)

    writer = threading.Thread(target=slow)
    writer.start()
    files = shard_files.collect_shards(tmp_path, 1, threading.Event())
    writer.join()
    assert [path.name for path in tmp_path.iterdir()] == [*files]


def test_a_write_that_fails_ends_an_export() -> None:
    with pytest.raises(BundleError, match="planted: no room"):
        sharding.full_disk({}, World())


class _Watching(Tensor):
    """Row numbers that see whether a lock is held when they are compared."""

    lock: threading.Lock
    held: ClassVar[list[bool]] = []

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.__name__ == "ge":
            cls.held.append(cls.lock.locked())
        return super().__torch_function__(function, types, args, kwargs or {})


def test_an_update_waits_for_a_copy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows put aside, which may be those of many steps, are sorted out while the lock is free."""
    monkeypatch.setattr(frozen_rows, "PIECE_BYTES", 36)
    frozen = FrozenRows({"t": {"weight": torch.rand(50, 3)}})
    _Watching.lock = frozen._lock
    frozen.before_update({"t": torch.arange(20, 30)})
    kept = frozen._tables["t"]["weight"].kept
    kept[0] = (kept[0][0].as_subclass(_Watching), kept[0][1])
    assert len(list(frozen.streams()["weight"].pieces())) == 17
    assert _Watching.held == [False] * 17


def _update(tensors: dict[str, Tensor], seed: int) -> Tensor:
    """Change some rows, as an optimizer would; returns which."""
    count = len(tensors["weight"])
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: count // 5].sort().values


def test_rows_are_written_as_they_were_while_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_rows, "PIECE_BYTES", 36)
    tensors = {"weight": torch.rand(50, 3), "sum": torch.rand(50)}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    frozen = FrozenRows({"t": tensors})
    seen: dict[str, list[Tensor]] = {name: [] for name in tensors}
    for name, stream in frozen.streams().items():
        for number, piece in enumerate(stream.pieces()):
            seen[name].append(piece)
            rows = _update(tensors, number)
            frozen.before_update({"t": rows, "another": rows})
            for tensor in tensors.values():
                tensor[rows] += 1
    for name, tensor in before.items():
        assert torch.equal(torch.cat(seen[name]), tensor), name
        assert not torch.equal(tensors[name], tensor), "the updates changed nothing"


def test_rows_are_written_as_they_were_beside_a_training_that_runs(tmp_path: Path) -> None:
    tensors = {"weight": torch.rand(400_000, 32), "sum": torch.rand(400_000)}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    checkpoints = Checkpoints(tmp_path, identity={}, keep=1, say=pytest.fail)
    checkpoints.save(State(Progress(step=1), {}, {"t": tensors}))
    updates = 0
    while not list(tmp_path.glob("step-*")):
        rows = _update(tensors, updates)
        checkpoints.before_update({"t": rows})
        for tensor in tensors.values():
            tensor[rows] += 1
        updates += 1
    checkpoints.wait()
    assert updates > 1
    found = checkpoints.load_latest()
    assert found is not None
    assert found.shards is not None
    for name, tensor in before.items():
        assert torch.equal(found.shards.read(name), tensor), name


def test_compiling_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"compile must be false .* got true, with users.weight, items.weight in"):
        sharding.train(_spec({"compile": True}), World())


def test_ids_outside_the_table_are_named() -> None:
    table = ShardedEmbedding(10, 2, World(), name="users")
    with pytest.raises(DataError, match=r"table 'users' must be at least 0 and below its 10 rows; rank 0 got 10"):
        table(torch.tensor([3, 10]))
    with pytest.raises(DataError, match=r"rank 0 got -1"):
        table(torch.tensor([[-1], [3]]))


def test_an_id_outside_ends_the_launch() -> None:
    with pytest.raises(LaunchError, match=r"rank 1 of 2 failed: .*'planted' .* below its 53 rows; rank 1 got 53"):
        launch("tests.training.sharding:outside", {}, ranks=2, timeout_s=100)


@pytest.mark.slow
def test_a_lookup_left_out_is_named_and_does_not_hang() -> None:
    with pytest.raises(LaunchError, match=r"waited .* s in '(users ids|gradient header)'"):
        launch("tests.training.sharding:forgetful", {}, ranks=2, timeout_s=100, stall_s=4.0)


def test_only_large_tables_are_sharded() -> None:
    tables = Tables(World(), shard_above_mb=0.4)  # 100,000 values
    assert not isinstance(tables("small", 10_000, 10), ShardedEmbedding)
    assert isinstance(tables("large", 10_001, 10), ShardedEmbedding)
    assert not isinstance(Tables()("large", 10_001, 10), ShardedEmbedding)


def test_initial_values_are_near_normal_and_the_same_wherever_a_row_lies() -> None:
    values = sharding.fill_values(200_000)
    assert float(values.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(values.std()) == pytest.approx(2.0, rel=0.01)
    assert float(((values / 2).abs() < 1).float().mean()) == pytest.approx(0.67, abs=0.01)
    assert len(values.unique()) > 100_000  # of 2**18 that there are
    assert float(torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1]) == pytest.approx(0.0, abs=0.01)
    for rank in range(3):
        assert torch.equal(sharding.fill_values(rows_held(200_000, rank, 3), rank, 3), values[rank::3])


@pytest.mark.parametrize("rows", [0, 1, 7, 24, 53])
def test_every_row_is_found_at_every_change_of_size(rows: int) -> None:
    whole = torch.arange(rows)
    for ranks in range(1, 6):
        assert [rows_held(rows, rank, ranks) for rank in range(ranks)] == [len(whole[r::ranks]) for r in range(ranks)]
        for old_ranks in range(1, 6):
            for rank in range(ranks):
                held = torch.full((rows_held(rows, rank, ranks),), -1)
                for old_rank, mine, theirs in overlaps(rank, ranks, old_ranks):
                    held[mine] = whole[old_rank::old_ranks][theirs]
                assert torch.equal(held, whole[rank::ranks])
