"""Pooled embedding forward on a GPU, bytes a second, over the GPU's copy bandwidth measured in the same run.

python benchmarks/gpu_pooled_embedding.py [--smoke] [--rows N --dim D --bags B --pooling L --rounds R]

Counted: each row that is gathered, each id, each pooled row that is written. A table far larger than the GPU's cache is
read at random rows, so 3 TB/s (TorchRec/FBGEMM's pooled gathers) and the copy bandwidth are what to hold it against.
Peers: torch's EmbeddingBag in fp32 and bf16, and a gather with a sum after it, which writes the rows out once more.
"""

from __future__ import annotations

from _gpu import arguments, in_turn, report

import torch  # isort: skip  after _gpu has found the project
from torch import Tensor
from torch.nn import functional as F

GOAL, CALLS = 0.8, 10
SIZES = {"rows": (20_000_000, 1_000), "dim": (128, 8), "bags": (65_536, 32), "pooling": (32, 4), "rounds": (9, 1)}


def main() -> None:
    given, device = arguments(str(__doc__), SIZES)
    random = torch.Generator(device).manual_seed(0)
    table = torch.randn(given.rows, given.dim, device=device, generator=random)
    half = table.bfloat16()
    ids = torch.randint(given.rows, (given.bags, given.pooling), device=device, generator=random)
    source = torch.empty(max(1, table.numel() // 4), device=device)
    target = torch.empty_like(source)

    def gathered() -> Tensor:
        return table[ids].sum(1)

    bags = {
        "embedding_bag": lambda: F.embedding_bag(ids, table, mode="sum"),
        "gather_sum": gathered,
        "embedding_bag_bf16": lambda: F.embedding_bag(ids, half, mode="sum"),
    }
    wanted = gathered()
    for name, call in bags.items():
        close = 0.1 * given.pooling**0.5 if call().dtype == torch.bfloat16 else 1e-3
        torch.testing.assert_close(call().float(), wanted, rtol=0, atol=close, msg=lambda text, n=name: f"{n}: {text}")

    def times(call: object) -> object:
        return lambda: [call() for _ in range(CALLS)]  # type: ignore[operator]

    seconds = in_turn(
        {name: times(call) for name, call in {"copy": lambda: target.copy_(source), **bags}.items()},  # type: ignore[misc]
        given.rounds,
        device,
    )
    values = ids.numel() * given.dim + given.bags * given.dim
    moved = {
        "copy": 2 * source.nbytes,
        "embedding_bag": 4 * values + ids.nbytes,
        "gather_sum": 4 * values + ids.nbytes,
        "embedding_bag_bf16": 2 * values + ids.nbytes,
    }
    rates = {name: CALLS * moved[name] / seconds[name] / 1e12 for name in moved}
    detail = {f"{name}_tb_per_s": round(rate, 3) for name, rate in rates.items()} | vars(given)
    unit = "x the copy bandwidth, both directions counted"
    report("gpu_pooled_embedding", device, rates["embedding_bag"] / rates["copy"], GOAL, unit, detail)


if __name__ == "__main__":
    main()
