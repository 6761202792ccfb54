"""The calls of a world, alone and between real ranks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.training import collectives
from training.world import World, _let_compute_first, _threads


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
def test_ranks_see_the_same(ranks: int, seen_by_ranks: dict[int, dict]) -> None:  # type: ignore[type-arg]
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


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel lists its threads in /proc")
def test_horovods_threads_let_compute_first(seen_by_ranks: dict[int, dict]) -> None:  # type: ignore[type-arg]
    assert seen_by_ranks[2]["policies"][str(os.SCHED_BATCH)] >= 2  # its background loop, and Gloo's
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_where_the_kernel_lists_no_threads_none_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(folder: Path) -> None:
        raise FileNotFoundError(folder)

    monkeypatch.setattr(Path, "iterdir", missing)
    assert _threads() == set()


def test_a_thread_that_has_ended_is_passed_over() -> None:
    _let_compute_first({2**22 + 1})  # above the kernel's highest number
