"""The device of a rank, how it computes, and batches on it: the next travels while one is computed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from training.batch import Batch, mapped
from training.errors import SettingsError
from training.settings import DeviceChoice, MatmulPrecision
from training.world import World


def pick_device(choice: DeviceChoice, world: World) -> tuple[torch.device, str]:
    """This rank's device, of one kind on all ranks: a GPU that no other rank has, or the CPU.

    Args:
        choice: `auto` takes GPUs where every rank has one that Horovod can exchange between; `cuda` insists on it.
        world: the ranks.

    Returns:
        The device, and for `auto` why there are GPUs that are left alone ("" otherwise).

    Raises:
        SettingsError: `cuda`, and a rank has no GPU, or Horovod cannot use it.
    """
    cpu = torch.device("cpu")
    if choice == "cpu":
        return cpu, ""
    seen = [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]
    found = world.all_gather_object([seen, world.takes_gpu_tensors])
    owned = _dealt([gpus for gpus, _ in found])
    problems = (_problem(rank, gpus, nccl, owned[rank]) for rank, (gpus, nccl) in enumerate(found))
    problem = next(filter(None, problems), "")
    mine = owned[world.rank]
    if not problem and mine is not None:
        device = torch.device("cuda", seen.index(mine))
        torch.cuda.set_device(device)
        return device, ""
    if choice == "cuda":
        raise SettingsError(f"training.device is 'cuda', and {problem}")
    return cpu, f"training.device is 'auto', which takes the CPU: {problem}" if any(one[0] for one in found) else ""


def _dealt(seen: Sequence[Sequence[str]]) -> list[str | None]:
    """By rank: the first GPU that it sees and no rank before it has; None where there is none left.

    Known by what the GPU is called everywhere, for ranks of one host may see all of its GPUs, or each its own alone.
    """
    taken: list[str | None] = []
    for gpus in seen:
        taken.append(next((gpu for gpu in gpus if gpu not in taken), None))
    return taken


def _problem(rank: int, gpus: Sequence[str], takes_gpu_tensors: bool, own: str | None) -> str:
    if not gpus:
        return f"rank {rank} sees no GPU; set training.device=cpu, or look at nvidia-smi and CUDA_VISIBLE_DEVICES there"
    if own is None:
        return (
            f"every rank needs a GPU of its own; the {len(gpus)} that rank {rank} sees are other ranks'; run fewer "
            "ranks on its host, or set training.device=cpu"
        )
    if not takes_gpu_tensors:
        return (
            f"Horovod on rank {rank} was built without NCCL; install with `make install GPU=1`, or set "
            "training.ranks=1 or training.device=cpu"
        )
    return ""


def sum_in_order(device: torch.device) -> None:
    """Have several threads of this process add up in a fixed order on the CPU, so that a seed gives the same bits.

    As PyTorch comes, the gradient of rows that are picked by index is a race: two trainings of one seed end with two
    weights. In order, the two-tower model's step takes up to half as long again on two threads; one thread needs
    nothing of it. What a GPU sums stays as PyTorch has it.
    """
    if device.type == "cpu" and torch.get_num_threads() > 1:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # only costs time


@contextmanager
def matmul_precision(choice: MatmulPrecision) -> Iterator[None]:
    """How exactly products of float32 are computed meanwhile: PyTorch's own setting, put back at the end."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(choice)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32: Ampere and later, AVX512_BF16, AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def slow_bf16_here(choice: DeviceChoice) -> bool:
    """Whether a rank on this machine would multiply bfloat16 on a CPU that is slower at it than at float32."""
    on_cpu = choice == "cpu" or not torch.cuda.is_available()
    return on_cpu and not fast_bf16(torch.device("cpu"))


class _Source(Protocol):
    """The part of `training.fit.Loader` that gives batches and says where it stands."""

    def epoch(self, epoch: int) -> Iterator[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...


class Copier(Protocol):
    """Takes batches to a device."""

    def start(self, batch: Batch) -> Batch:
        """Start the copy."""

    def finish(self, batch: Batch) -> None:
        """Let what is computed from now on wait for the copy."""


_Pulled = tuple[Batch, dict[str, Any]]  # a batch on its way, and the loader's position after it


class Feed:
    """A loader's batches on the model's device, and the loader's position as of the batch that was handed out.

    On the CPU these are the loader's own. To a GPU they are copied, from pinned memory on a stream of its own, and one
    may be ahead: who computes calls `fetch` once a step's work is launched, so that taking the next batch, pinning it
    and copying it run beside that.

    Args:
        loader: where batches come from.
        device: where they go.
        copier: how; by default none to the CPU, `StreamCopier` to a GPU.
    """

    def __init__(self, loader: _Source, device: torch.device, copier: Copier | None = None) -> None:
        self._loader = loader
        self._copier = StreamCopier(device) if copier is None and device.type == "cuda" else copier
        self._position: dict[str, Any] | None = None
        self._pull: Callable[[], _Pulled | None] | None = None
        self._following: list[_Pulled | None] = []  # the batch that is ahead, or that there is none

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch; from the loader's position where that lies in this epoch."""
        return self._loader.epoch(epoch) if self._copier is None else self._copied(epoch, self._copier)

    def fetch(self) -> None:
        """Have the batch after the last one handed out on its way; nothing where batches are not copied."""
        if self._pull is not None and not self._following:
            self._following.append(self._pull())

    def state_dict(self) -> dict[str, Any]:
        """The loader's position after the last batch handed out, not after the one that is ahead."""
        return self._loader.state_dict() if self._position is None else self._position

    def _copied(self, epoch: int, copier: Copier) -> Iterator[Batch]:
        batches = self._loader.epoch(epoch)

        def pull() -> _Pulled | None:
            batch = next(batches, None)
            return None if batch is None else (copier.start(batch), self._loader.state_dict())

        self._pull, self._following = pull, []
        while True:
            self.fetch()
            ready = self._following.pop()
            if ready is None:
                self._pull = None
                return
            batch, self._position = ready
            copier.finish(batch)
            yield batch


class StreamCopier:
    """Copies from pinned memory on a stream beside the one that computes."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, batch: Batch) -> Batch:
        with torch.cuda.stream(self._stream):
            return mapped(batch, self._copied)

    def _copied(self, tensor: Tensor) -> Tensor:
        return tensor if tensor.is_cuda else tensor.pin_memory().to(self._device, non_blocking=True)

    def finish(self, batch: Batch) -> None:
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)

        def use(tensor: Tensor) -> Tensor:
            tensor.record_stream(computing)  # or its memory might go to a next copy while it is still read
            return tensor

        mapped(batch, use)
