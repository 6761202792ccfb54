"""Sampled softmax with its gradients: time of torch's own operations on all scores at once over ours, one thread.

    python benchmarks/train_softmax.py [ROWS CANDIDATES DIMENSION]

`detail` has the same under bfloat16 autocast, and the memory that each adds to the process at its peak.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from typing import Any

from _train import arguments, memory_mb, middle_ms, report

import torch  # isort: skip  after _train has set the number of threads
from torch import Tensor

from training.data.memory import reuse_memory
from training.models.losses import Candidates, sampled_softmax

GOAL, ROUNDS = 1.4, 9
Loss = Callable[..., Tensor]


class Case:
    """Scores of the size that two towers give: directions over a temperature of .18."""

    def __init__(self, rows: int, candidates: int, dimension: int) -> None:
        torch.manual_seed(0)
        self.candidates = Candidates(torch.arange(1, candidates + 1), torch.log(0.1 + 0.9 * torch.rand(candidates)))
        self.targets = torch.randint(1, candidates + 1, (rows,))
        self.weight = torch.rand(rows)
        directions = [torch.nn.functional.normalize(torch.randn(n, dimension), dim=1) for n in (rows, candidates)]
        self.query, self.items = directions[0], directions[1] / 0.18

    def ours(self, query: Tensor, items: Tensor, own: Tensor) -> Tensor:
        return sampled_softmax(query, items, own, self.targets, self.candidates, self.weight)

    def whole(self, query: Tensor, items: Tensor, own: Tensor) -> Tensor:
        others = query @ items.T - self.candidates.log_inclusion
        others = others.masked_fill_(self.targets[:, None] == self.candidates.items, -torch.inf)
        losses = torch.logsumexp(torch.cat([own[:, None], others], dim=1), dim=1) - own
        return (losses * self.weight).sum()

    def step(self, loss: Loss, bf16: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and gradients of the queries and items."""
        query, items = self.query.clone().requires_grad_(), self.items.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss(query, items, (query * items[self.targets - 1]).sum(dim=1))
        value.backward()
        assert query.grad is not None
        assert items.grad is not None
        return value.detach(), query.grad, items.grad


def peak_mb(sizes: list[int], name: str, result: Any) -> None:
    """In a process of its own: what a step adds to the most memory that it ever held."""
    small, case = Case(8, 8, 8), Case(*sizes)
    small.step(getattr(small, name))  # loads what torch loads late
    before = memory_mb("VmHWM")  # getrusage's figure would begin with the parent's
    case.step(getattr(case, name))
    result.put(memory_mb("VmHWM") - before)


def peak_of(sizes: list[int], name: str) -> int:
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=peak_mb, args=(sizes, name, result))
    process.start()
    peak: int = result.get(timeout=300)
    process.join()
    return peak


def main() -> None:
    sizes = arguments(4096, 5500, 66)
    reuse_memory()
    case = Case(*sizes)
    for ours, theirs in zip(case.step(case.ours), case.step(case.whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
    calls = {
        "ours": partial(case.step, case.ours),
        "whole": partial(case.step, case.whole),
        "ours_bf16": partial(case.step, case.ours, bf16=True),
        "whole_bf16": partial(case.step, case.whole, bf16=True),
    }
    ms = middle_ms(calls, ROUNDS)
    bf16 = round(ms["whole_bf16"] / ms["ours_bf16"], 3)
    memory = {name: peak_of(sizes, name) for name in ("ours", "whole")}
    detail = {"ms": ms, "bf16": bf16, "peak_mb": memory}
    report("train_softmax", ms["whole"] / ms["ours"], GOAL, "x torch's operations on all scores at once", detail)


if __name__ == "__main__":
    main()
