"""Functions that launch tests run on ranks."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from training.errors import DataError, LockHeldError
from training.world import World


def add_up(spec: dict[str, Any], world: World) -> dict[str, Any]:
    total = world.all_reduce_sum(torch.tensor([float(spec["value"] + world.rank)]))
    print(f"hello from rank {world.rank}")
    return {"total": float(total), "size": world.size, "threads": torch.get_num_threads(), "pid": os.getpid()}


def fail_knowingly(spec: dict[str, Any], world: World) -> dict[str, Any]:
    if world.rank == spec["rank"]:
        raise DataError("column 'price' must not be negative; got -3; drop the row")
    world.all_reduce_sum(torch.ones(1))
    return {}


def fail_beside_a_sleeper(spec: dict[str, Any], world: World) -> dict[str, Any]:
    if world.rank == 0:
        raise DataError("a name must be of two words; got 1")
    time.sleep(600)
    return {}


def fail_by_surprise(spec: dict[str, Any], world: World) -> dict[str, Any]:
    if world.rank == spec["rank"]:
        raise ZeroDivisionError("planted")
    world.all_reduce_sum(torch.ones(1))
    return {}


def killed(spec: dict[str, Any], world: World) -> dict[str, Any]:
    world.all_reduce_sum(torch.ones(1))
    if world.rank == spec["rank"]:
        os.kill(os.getpid(), getattr(signal, spec.get("signal", "SIGKILL")))
    world.all_reduce_sum(torch.ones(1))
    return {}


def chatter(spec: dict[str, Any], world: World) -> dict[str, Any]:
    for number in range(spec["lines"]):
        print(f"{number} of many lines")
    return {}


def killed_at_the_end(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """One rank dies when it has given its result."""
    if world.rank == spec["rank"]:
        atexit.register(os.kill, os.getpid(), signal.SIGKILL)
    return {}


def killed_once(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Rank 1 dies the first `times` times it is started."""
    marks = Path(spec["folder"])
    runs = len(list(marks.glob("run-*")))
    world.barrier()
    if world.rank == 1:
        (marks / f"run-{runs}").touch()
        if runs < spec["times"]:
            os.kill(os.getpid(), signal.SIGKILL)
    world.barrier()
    return {"runs": runs}


def sleeping(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """One rank never comes to the collective."""
    if world.rank == spec["rank"]:
        time.sleep(600)
    world.all_reduce_sum(torch.ones(1), "the planted sum")
    return {}


def stays_behind(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """One rank comes to the last barrier and never ends."""
    if world.rank == spec["rank"]:
        world.close = lambda: (world.barrier(), time.sleep(600))  # type: ignore[assignment,method-assign,return-value]
    return {}


def leaves_a_thread(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Each rank gives its result, and cannot end."""
    threading.Thread(target=time.sleep, args=(600,)).start()
    return {"value": world.rank + 7}


class OddError(DataError):
    """One that is made of more than a message."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second} do not go together")


class CountError(DataError):
    """One that wants a number."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{int(count)} is too few")


class RowError(DataError):
    """One that says more than it is given."""

    def __init__(self, row: object) -> None:
        super().__init__(f"row {row} is bad")


def fail_oddly(spec: dict[str, Any], world: World) -> dict[str, Any]:
    raise OddError(1, 2)


def find_the_folder_held(spec: dict[str, Any], world: World) -> dict[str, Any]:
    raise LockHeldError("one training at a time may write here")


def not_json(spec: dict[str, Any], world: World) -> dict[str, Any]:
    return {"value": object()}


def leave_child(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Start a process that outlives this rank and could write into its lines."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(spec["folder"], f"pid-{world.rank}").write_text(str(child.pid))
    return {}


def wait_with_child(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Write this rank's process id and its child's, then stay."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(spec["folder"], f"pids-{world.rank}").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)
    return {}


# --- what stands for the task of a barrier stage


def task_without_package(plan: str, batches: Iterator[Any]) -> Iterator[Any]:
    import no_such_package  # type: ignore[import-not-found]

    yield no_such_package


def task_killed(plan: str, batches: Iterator[Any]) -> Iterator[Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield
