"""The world of ranks: who am I, how many are we, and how do we agree. One process or Horovod, behind the same calls.

Everything that needs more than one rank goes through here, so the rest of `training` reads the same on a laptop and on
a cluster. Objects travel as JSON, never as pickle: the ranks' network is not a place to run code from.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from training.apart import Apart, same_error
from training.errors import PeerLostError

Result = TypeVar("Result")

STALL_VARIABLE = "MILLRACE_STALL_S"
_POLL_S = 0.0002
BROADCAST = 2**30  # numbers at a time: Horovod counts them by an int
_MEET_S = 0.5  # how often ranks meet while one of them works apart


class World:
    """One process: every collective is the identity. Base of `HorovodWorld`, which has the same calls.

    All ranks must make the same calls in the same order. Calls are not thread-safe: one thread of a rank makes them.

    Attributes:
        rank: this process's number, from 0.
        size: number of ranks.
        local_rank: number of this rank on its host; picks the GPU.
        comm_s: seconds spent in collectives so far, waiting for the other ranks included.
        takes_gpu_tensors: whether collectives can exchange between GPUs.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    comm_s: float = 0.0
    takes_gpu_tensors: bool = True

    @staticmethod
    def current() -> World:
        """The world that the launcher set up (HOROVOD_RANK and HOROVOD_SIZE in the environment), or one process.

        Raises:
            PeerLostError: the other ranks did not come to the rendezvous in time.
        """
        if int(os.environ.get("HOROVOD_SIZE", "1")) <= 1:
            return World()
        return HorovodWorld()

    def all_reduce_sum(self, tensor: Tensor, name: str = "sum") -> Tensor:
        """Element-wise sum over ranks, of tensors of one shape; the same bits on every rank."""
        return tensor

    def all_reduce_sum_start(self, tensor: Tensor, name: str) -> Callable[[], Tensor]:
        """Start `all_reduce_sum` in place and return the function that waits for it; several may be under way."""
        return lambda: tensor

    def all_gather(self, tensor: Tensor, name: str = "gather") -> Tensor:
        """Concatenate over ranks along dimension 0, in rank order; its length may differ from rank to rank."""
        return tensor

    def all_gather_start(self, tensor: Tensor, name: str) -> Callable[[], Tensor]:
        """Start `all_gather` and return the function that waits for its result; several may be under way at once."""
        return lambda: tensor

    def all_to_all(self, tensor: Tensor, splits: Tensor, name: str = "exchange") -> tuple[Tensor, Tensor]:
        """Send `splits[r]` leading rows to each rank r; returns the rows received, in rank order, and their counts."""
        return tensor, splits

    def all_to_all_start(self, tensor: Tensor, splits: Tensor, name: str) -> Callable[[], tuple[Tensor, Tensor]]:
        """Start `all_to_all` and return the function that waits for its result; several may be under way at once."""
        return lambda: (tensor, splits)

    def broadcast(self, tensor: Tensor, root: int = 0, name: str = "broadcast") -> Tensor:
        """Overwrite `tensor` with rank `root`'s, in place, and return it."""
        return tensor

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """Rank `root`'s value on every rank; whatever JSON can hold (tuples come back as lists)."""
        return json.loads(json.dumps(value))

    def all_gather_object(self, value: Any) -> list[Any]:
        """Every rank's value in rank order; whatever JSON can hold."""
        return [json.loads(json.dumps(value))]

    def agree_all(self, flag: bool) -> bool:
        """True on every rank if `flag` is true on all of them."""
        return flag

    def agree_any(self, flag: bool) -> bool:
        """True on every rank if `flag` is true on at least one."""
        return flag

    def barrier(self) -> None:
        """Return when every rank has come here."""

    def on_each(self, what: str, work: Callable[[], Any]) -> list[Any]:
        """Every rank's result of its `work`, in rank order, however long that takes; whatever JSON can hold.

        For what takes a disk as long as it takes: it must not count as a hang of the ranks that wait. So `work` runs
        in a thread, where it makes no collectives, while the ranks meet every half second.

        Raises:
            MillraceError: `work` raised it on some rank; then all ranks raise it.
            PeerLostError: it raised something else on another rank.
        """
        return [json.loads(json.dumps(work()))]

    def on_first(self, what: str, work: Callable[[], Any]) -> Any:
        """Rank 0's result of `work` on every rank; the others wait for it, as in `on_each`."""
        return self.on_each(what, work if self.rank == 0 else lambda: None)[0]

    def close(self) -> None:
        """Leave the world together; no collective may follow."""


def _threads() -> set[int]:
    """This process's threads by their numbers in the kernel; none where it does not tell."""
    try:
        return {int(thread.name) for thread in Path("/proc/self/task").iterdir()}
    except FileNotFoundError:
        return set()


def _let_compute_first(threads: set[int]) -> None:
    """Have Horovod's threads wait for the end of a time slice instead of breaking into it, as SCHED_BATCH does.

    They ask each other for work every millisecond, which takes a tenth of a core and more from the thread that
    computes there. While that one waits for them they run at once; and they keep their fair share on a busy host.
    """
    for thread in threads:
        with suppress(OSError):  # it has ended, or a sandbox forbids it
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


class HorovodWorld(World):
    """Ranks joined by Horovod. Created once per process, by `World.current()`.

    Horovod's own stall check misses tensors that it has not seen before, so waits are timed here, by polling.
    """

    def __init__(self) -> None:
        import horovod.torch as hvd

        self._hvd = hvd
        self._stall_s = float(os.environ.get(STALL_VARIABLE, "300"))
        self.rank, self.size = int(os.environ["HOROVOD_RANK"]), int(os.environ["HOROVOD_SIZE"])
        self._me = f"rank {self.rank} on host {os.environ.get('HOROVOD_HOSTNAME', 'unknown')}"
        before = _threads()
        self._guard("the rendezvous", hvd.init)
        _let_compute_first(_threads() - before)
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()
        self.takes_gpu_tensors = bool(hvd.nccl_built())

    @property
    def _others(self) -> str:
        others = [str(rank) for rank in range(self.size) if rank != self.rank]
        return f"rank {' or '.join(others)}" if len(others) < 4 else f"the other {len(others)} ranks"

    def _guard(self, what: str, call: Callable[[], Result]) -> Result:
        """Time a call into Horovod, and say what was waited for when it fails.

        Raises:
            PeerLostError: Horovod gave up, mostly because another rank is gone.
        """
        started = time.perf_counter()
        try:
            return call()
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise PeerLostError(
                f"{self._me} was in '{what}' with {self._others} when Horovod gave up "
                f"({reason}); look for the first rank that failed"
            ) from error
        finally:
            self.comm_s += time.perf_counter() - started

    def _wait(self, handle: Any, what: str) -> Any:
        """Wait for a started collective.

        Raises:
            PeerLostError: another rank is gone, or did not come in time.
        """
        started = time.perf_counter()
        while not self._hvd.poll(handle):
            waited = time.perf_counter() - started
            if waited > self._stall_s:
                self.comm_s += waited
                raise PeerLostError(
                    f"{self._me} waited {waited:.1f} s in '{what}' for {self._others}, longer than the limit of "
                    f"{self._stall_s:g} s; find out what keeps them, or raise stall_s"
                )
            time.sleep(_POLL_S)
        self.comm_s += time.perf_counter() - started
        return self._guard(what, lambda: self._hvd.synchronize(handle))

    def all_reduce_sum(self, tensor: Tensor, name: str = "sum") -> Tensor:
        return self.all_reduce_sum_start(tensor.clone(), name)()

    def all_reduce_sum_start(self, tensor: Tensor, name: str) -> Callable[[], Tensor]:
        handle = self._guard(name, lambda: self._hvd.allreduce_async_(tensor, op=self._hvd.Sum, name=name))
        return lambda: self._wait(handle, name)

    def all_gather(self, tensor: Tensor, name: str = "gather") -> Tensor:
        return self.all_gather_start(tensor, name)()

    def all_gather_start(self, tensor: Tensor, name: str) -> Callable[[], Tensor]:
        handle = self._guard(name, lambda: self._hvd.allgather_async(tensor.contiguous(), name=name))
        return lambda: self._wait(handle, name)

    def all_to_all(self, tensor: Tensor, splits: Tensor, name: str = "exchange") -> tuple[Tensor, Tensor]:
        return self.all_to_all_start(tensor, splits, name)()

    def all_to_all_start(self, tensor: Tensor, splits: Tensor, name: str) -> Callable[[], tuple[Tensor, Tensor]]:
        counts = splits.to("cpu", torch.int32)
        handle = self._guard(name, lambda: self._hvd.alltoall_async(tensor.contiguous(), splits=counts, name=name))

        def finish() -> tuple[Tensor, Tensor]:
            received, received_counts = self._wait(handle, name)
            return received, received_counts.to("cpu", torch.int64)

        return finish

    def broadcast(self, tensor: Tensor, root: int = 0, name: str = "broadcast") -> Tensor:
        for piece in torch.split(tensor.detach().view(-1), BROADCAST) if tensor.numel() > BROADCAST else (tensor,):
            handle = self._guard(name, partial(self._hvd.broadcast_async_, piece, root, name=name))
            self._wait(handle, name)
        return tensor

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return self.all_gather_object(value if self.rank == root else None)[root]

    def all_gather_object(self, value: Any) -> list[Any]:
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = self.all_gather(torch.tensor([data.numel()]), "object sizes").tolist()
        joined = self.all_gather(data, "objects").numpy().tobytes()
        values, start = [], 0
        for size in sizes:
            values.append(json.loads(joined[start : start + size]))
            start += size
        return values

    def agree_all(self, flag: bool) -> bool:
        return int(self.all_reduce_sum(torch.tensor([int(flag)]), "agree")) == self.size

    def agree_any(self, flag: bool) -> bool:
        return int(self.all_reduce_sum(torch.tensor([int(flag)]), "agree")) > 0

    def barrier(self) -> None:
        self.all_reduce_sum(torch.zeros(1), "barrier")

    def on_each(self, what: str, work: Callable[[], Any]) -> list[Any]:
        apart = Apart(work)
        all_are_done = False
        while not all_are_done:
            apart.thread.join(_MEET_S)
            all_are_done = self.agree_all(not apart.thread.is_alive())
        outcomes = self.all_gather_object(apart.outcome)
        if apart.error is not None:
            raise apart.error
        for rank, outcome in enumerate(outcomes):
            if "kind" in outcome:
                raise same_error(rank, what, outcome)
        return [outcome["value"] for outcome in outcomes]

    def close(self) -> None:
        self.barrier()
        self._hvd.shutdown()
