"""The calls of a world, alone and between real ranks."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from cluster.launch import launch
from tests.training import collectives
from training.state.files import Written, damage
from training.world import World, _let_compute_first, _threads


@pytest.fixture(scope="module")
def seen_by_ranks() -> dict[int, dict[str, Any]]:
    """What `collectives.calls` returns on 2 and on 3 ranks; its own assertions have held there."""
    return {ranks: launch("tests.training.collectives:calls", {}, ranks=ranks, timeout_s=120) for ranks in (2, 3)}


def test_one_process_is_its_own_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOROVOD_SIZE", raising=False)
    world = World.current()
    assert (world.rank, world.size, world.local_rank) == (0, 1, 0)
    seen = collectives.all_calls({}, world)
    assert seen["sum"] == [1.0, 10.0]
    assert seen["object"] == {"from": 0, "pair": [1, 2]}
    assert seen["all_of_some"] is True


def test_objects_travel_as_json_only() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        World().broadcast_object(object())


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_see_the_same(ranks: int, seen_by_ranks: dict[int, dict[str, Any]]) -> None:
    seen = seen_by_ranks[ranks]["calls"]
    assert seen["sum"] == [ranks * (ranks + 1) / 2, 10.0 * ranks]
    assert seen["gather"] == [[float(rank)] * 2 for rank in range(ranks) for _ in range(rank)]
    assert seen["gather_empty"] == []
    assert seen["broadcast"] == [ranks - 1 + 5]
    assert seen["object"] == {"from": ranks - 1, "pair": [1, 2]}
    assert seen["objects"] == [[rank, None, float("inf")] for rank in range(ranks)]
    assert (seen["all_of_all"], seen["all_of_some"], seen["any_of_some"], seen["any_of_none"]) == (
        True,
        False,
        True,
        False,
    )


def test_no_rank_takes_anothers_disk_for_a_hang(tmp_path: Path) -> None:
    """A collective may take 1.5 s; footers, checkpoints, their checksums and exports take 2 s each, on one rank."""
    write_deltalake(tmp_path / "table", pa.table({"id": range(30)}))
    spec = {"seconds": 2.0, "folder": str(tmp_path), "table": str(tmp_path / "table")}
    seen = launch("tests.training.collectives:apart", spec, ranks=2, stall_s=1.5, timeout_s=120)
    assert seen["results"] == [0, 1]
    assert seen["rows"] == 30
    assert seen["CheckpointError"] == [["CheckpointError", "planted: theirs"]] * 2
    assert seen["OSError"][0] == ["OSError", "planted: a disk"]
    assert seen["OSError"][1][0] == "PeerLostError"
    assert "rank 0 failed in 'failing': OSError: planted: a disk" in seen["OSError"][1][1]
    assert seen["step"] == 3
    assert all("could not be written" in text and "planted: full" in text for text in seen["full"])
    assert damage(tmp_path / "whole", Written(**seen["export"])) is None


def test_one_process_works_by_itself() -> None:
    assert World().on_each("numbers", lambda: (1, 2)) == [[1, 2]]
    assert World().on_first("numbers", lambda: 3) == 3
    with pytest.raises(OSError, match="planted"):
        World().on_first("failing", lambda: (_ for _ in ()).throw(OSError("planted")))


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel lists its threads in /proc")
def test_horovods_threads_let_compute_first(seen_by_ranks: dict[int, dict[str, Any]]) -> None:
    assert seen_by_ranks[2]["policies"][str(os.SCHED_BATCH)] >= 2  # its background loop, and Gloo's
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_where_the_kernel_lists_no_threads_none_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(folder: Path) -> None:
        raise FileNotFoundError(folder)

    monkeypatch.setattr(Path, "iterdir", missing)
    assert _threads() == set()


def test_a_thread_that_has_ended_is_passed_over() -> None:
    _let_compute_first({2**22 + 1})  # above the kernel's highest number
