"""A training without ranks and loader: a model's loss, and two optimizers of torch's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from training.batch import Batch


def training_losses(
    model: nn.Module, batch_of: Callable[[int], Batch], steps: int, sparse_rate: float
) -> Iterator[float]:
    """The mean loss of each step, on the batch that `batch_of` gives for it."""
    sparse = [m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m.sparse]
    dense = [p for p in model.parameters() if all(p is not s for s in sparse)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(dense, lr=0.01)] if dense else []
    optimizers += [torch.optim.SparseAdam(sparse, lr=sparse_rate)] if sparse else []
    for step in range(steps):
        total, weight = model.loss(batch_of(step), torch.Generator().manual_seed(step))  # type: ignore[operator]
        for optimizer in optimizers:
            optimizer.zero_grad()
        (total / weight).backward()
        for optimizer in optimizers:
            optimizer.step()
        yield float(total.detach() / weight)
