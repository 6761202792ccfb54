"""DLRM trained on one GPU, samples a second: ours from a frozen batch and through our loader, and plain torch.

python benchmarks/gpu_dlrm.py [--smoke] [--rows N --table_rows R --dim D --batch B --steps S --rounds R]

Naumov et al., 2019, sized as NVIDIA's DeepLearningExamples have DLRM-small: 26 tables, 13 numbers, bottom MLP
512-256-128, dot interaction, top MLP 1024-1024-512-256-1, bf16 autocast. Their A100 figure is 4.55 M samples/s, from a
file of raw binary columns, with fused embeddings; the tables here have random ids, with no popular rows to cache.
`loader` is the whole way: a Delta table's row groups from the memory cache, shuffled, cut to batches, copied by Feed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, pairwise

from _gpu import arguments, in_turn, report

import numpy as np  # isort: skip  after _gpu has found the project
import pyarrow as pa
import torch
from _loader import open_snapshot, table
from torch import Tensor, nn
from torch.nn import functional as F

from training.batch import Batch, to_device
from training.data.cache import MemoryCache
from training.data.loader import Loader
from training.fit import FitSettings
from training.schema import Column, Kind, Schema
from training.step.device import Feed
from training.step.optimizers import build_optimizers

A100_SAMPLES_PER_S, GOAL, GROUP = 4.55e6, 1.0, 131_072
IDS, NUMBERS = [f"c{k}" for k in range(26)], [f"n{k}" for k in range(13)]
SIZES = {
    "rows": (4_000_000, 2_000),
    "table_rows": (500_000, 50),
    "dim": (128, 8),
    "batch": (65_536, 128),
    "steps": (30, 2),
    "rounds": (5, 1),
}


class Dlrm(nn.Module):
    """Logits of shape (batch,).

    Args:
        rows: rows of each table.
        dim: values of a row.
        one_table: all tables in one, looked up at once; else one EmbeddingBag each.
    """

    def __init__(self, rows: int, dim: int, one_table: bool) -> None:
        super().__init__()
        self.rows, self.one_table = rows, one_table
        if one_table:
            self.table = nn.Embedding(26 * rows, dim, sparse=True)
        else:
            self.bags = nn.ModuleList(nn.EmbeddingBag(rows, dim, mode="sum", sparse=True) for _ in IDS)
        self.bottom = _mlp(13, 512, 256, dim)
        self.top = nn.Sequential(_mlp(27 * 26 // 2 + dim, 1024, 1024, 512, 256), nn.Linear(256, 1))
        self.register_buffer("below", torch.tril_indices(27, 27, -1), persistent=False)
        self.register_buffer("first", rows * torch.arange(26), persistent=False)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        bottom = self.bottom(numbers)
        if self.one_table:
            found = self.table(ids + self.first)
        else:
            found = torch.stack([bag(ids[:, k : k + 1]) for k, bag in enumerate(self.bags)], 1)
        rows = torch.cat([bottom.unsqueeze(1), found.to(bottom.dtype)], 1)
        dots = torch.bmm(rows, rows.transpose(1, 2))[:, self.below[0], self.below[1]]
        return self.top(torch.cat([bottom, dots], 1)).squeeze(1)


def _mlp(*sizes: int) -> nn.Sequential:
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers)


def loss_of(model: Dlrm, batch: Batch) -> Tensor:
    ids = torch.stack([batch[name] for name in IDS], 1)  # type: ignore[misc]
    numbers = torch.stack([batch[name] for name in NUMBERS], 1)  # type: ignore[misc]
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits = model(ids, numbers)
    return F.binary_cross_entropy_with_logits(logits.float(), batch["label"])  # type: ignore[arg-type]


def trained(model: Dlrm, step: Callable[[], None], clear: Callable[[], None], batches: Iterator[Batch]) -> int:
    """Train on batches; how many samples there were."""
    samples = 0
    for batch in batches:
        clear()
        loss_of(model, batch).backward()
        step()
        samples += len(batch["label"])
    return samples


def plain(model: Dlrm, sparse: type[torch.optim.Optimizer]) -> tuple[Callable[[], None], Callable[[], None]]:
    """Torch's own: the given optimizer for the tables, Adam for the rest; how to step and how to clear them."""
    tables = [bag.weight for bag in model.bags]
    rest = [p for name, p in model.named_parameters() if not name.startswith("bags.")]
    held = [sparse(tables, lr=0.01), torch.optim.Adam(rest, 1e-3, fused=True)]  # type: ignore[call-arg]

    def step() -> None:
        for optimizer in held:
            optimizer.step()

    return step, lambda: model.zero_grad(set_to_none=True)


def same_start(ours: Dlrm, theirs: Dlrm) -> None:
    """Give the second model the first one's weights."""
    with torch.no_grad():
        for k, bag in enumerate(theirs.bags):
            bag.weight.copy_(ours.table.weight[k * ours.rows : (k + 1) * ours.rows])
    theirs.load_state_dict({n: p for n, p in ours.state_dict().items() if not n.startswith("table.")}, strict=False)


def main() -> None:
    given, device = arguments(str(__doc__), SIZES)

    def examples(random: np.random.Generator, rows: int) -> pa.Table:
        ids = {name: random.integers(0, given.table_rows, rows) for name in IDS}
        numbers = {name: random.random(rows, dtype=np.float32) for name in NUMBERS}
        return pa.table({**ids, **numbers, "label": random.integers(0, 2, rows).astype(np.float32)})

    columns = [Column(name, Kind.ID, name, given.table_rows) for name in IDS]
    schema = Schema((*columns, *(Column(name, Kind.DENSE) for name in NUMBERS), Column("label", Kind.LABEL)))
    group = min(GROUP, given.rows // 4)
    snapshot = open_snapshot(table(f"dlrm-{given.table_rows}", given.rows, group, examples))
    cache, share = MemoryCache(40_000_000_000), {"workers": 8, "shuffle_rows": 8 * group}
    torch.manual_seed(0)
    models = {name: Dlrm(given.table_rows, given.dim, name == "ours").to(device) for name in ("ours", "sgd", "adam")}
    for name in ("sgd", "adam"):
        same_start(models["ours"], models[name])
    optimizers = build_optimizers(models["ours"], FitSettings(embedding_optimizer="rowwise_adagrad"))
    steps = {
        "ours": (optimizers.step, optimizers.zero_grad),
        "sgd": plain(models["sgd"], torch.optim.SGD),
        "adam": plain(models["adam"], torch.optim.SparseAdam),
    }
    with Loader(snapshot, schema, batch_size=given.batch, seed=1, rank=0, world_size=1, cache=cache, **share) as stream:
        frozen = to_device(next(iter(stream.epoch(0))), device)
        first = {name: loss_of(model, frozen).item() for name, model in models.items()}
        assert max(first.values()) - min(first.values()) < 1e-3, first
        epochs = iter(range(1, 10**6))  # of epoch 0 a batch is gone

        def on_frozen(name: str) -> Callable[[], int]:
            return lambda: trained(models[name], *steps[name], islice(iter(lambda: frozen, None), given.steps))

        def on_loader() -> int:
            found = trained(models["ours"], *steps["ours"], Feed(stream, device).epoch(next(epochs)))
            assert found == given.rows, f"{found} rows of an epoch of {given.rows}"
            return found

        calls = {**{name: on_frozen(name) for name in models}, "loader": on_loader}
        seconds = in_turn(calls, given.rounds, device)
    samples = dict.fromkeys(models, given.steps * given.batch) | {"loader": given.rows}
    rates = {name: samples[name] / seconds[name] for name in calls}
    assert np.isfinite([loss_of(model, frozen).item() for model in models.values()]).all()
    detail = {f"{name}_samples_per_s": round(rate) for name, rate in rates.items()}
    detail |= {"loader_over_frozen": round(rates["loader"] / rates["ours"], 3)} | vars(given)  # type: ignore[dict-item]
    unit = "x DLRM-small on an A100, 4.55 M samples/s; ours, one batch frozen on the GPU"
    report("gpu_dlrm", device, rates["ours"] / A100_SAMPLES_PER_S, GOAL, unit, detail)


if __name__ == "__main__":
    main()
