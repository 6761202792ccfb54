"""A user's own loop with plain Horovod against `training.fit`: our samples/s over theirs, 2 local ranks of one thread.

python benchmarks/train_plain_horovod.py [ROWS_A_RANK STEPS TABLE_ROWS ROUNDS]

Both train two embeddings and a small tower over their product, on the same batches in memory, from the same weights,
with (Sparse)Adam at the same rates; their losses must agree. The peer runs under `horovodrun` with Horovod's defaults:
`sparse` wraps SparseAdam and Adam in a DistributedOptimizer each, `dense` leaves the embeddings dense under one Adam,
as most examples do. The ratio is against the faster one.

Horovod's own estimator (horovod.spark.torch.TorchEstimator) is no peer here, because it cannot live in this
environment: with PyArrow 14 it fails at once (`'pyarrow.lib.Schema' object has no attribute 'to_arrow_schema'`), and it
needs tensorboard to be imported at all. It runs with PyArrow 10.0.1 and PySpark 3.5.3.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _train import arguments, report

import torch  # isort: skip  after _train has set the number of threads
from torch import Tensor, nn

from cluster.launch import launch
from training.batch import Batch
from training.fit import FitSettings, fit
from training.world import World

GOAL, DIMENSION, RATE, AGREE = 1.0, 64, 1e-3, 1e-3


class Model(nn.Module):
    """Two embeddings and a small tower over their product."""

    def __init__(self, rows: int, sparse: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.users = nn.Embedding(rows, DIMENSION, sparse=sparse)
        self.items = nn.Embedding(rows, DIMENSION, sparse=sparse)
        self.tower = nn.Sequential(nn.Linear(DIMENSION, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.tower(self.users(user) * self.items(item)).squeeze(1)  # type: ignore[no-any-return]

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        score = self(batch["user"], batch["item"])
        return (score - batch["label"]).square().sum(), torch.tensor(float(len(score)))


def batches(spec: dict[str, Any], rank: int) -> list[Batch]:
    """A rank's batches of an epoch; few users and items are in most rows, as in a shop."""
    generator = torch.Generator().manual_seed(rank)
    shape = (spec["steps"], spec["rows"])
    ids = {name: (torch.rand(shape, generator=generator) ** 3 * spec["table"]).long() for name in ("user", "item")}
    labels = torch.randn(shape, generator=generator)
    return [
        {"user": ids["user"][step], "item": ids["item"][step], "label": labels[step]} for step in range(spec["steps"])
    ]


# --- Theirs


def plain(spec: dict[str, Any], kind: str) -> None:
    """Two epochs of a loop as Horovod's documentation has it; rank 0 prints the second's seconds and loss."""
    import horovod.torch as hvd

    hvd.init()
    torch.set_num_threads(1)
    model = Model(spec["table"], sparse=kind == "sparse")
    if kind == "sparse":
        tables = [(name, p) for name, p in model.named_parameters() if not name.startswith("tower")]
        tower = [(name, p) for name, p in model.named_parameters() if name.startswith("tower")]
        sparse_adam = torch.optim.SparseAdam([p for _, p in tables], lr=RATE)
        adam = torch.optim.Adam([p for _, p in tower], lr=RATE)
        optimizers = [
            hvd.DistributedOptimizer(sparse_adam, named_parameters=tables),
            hvd.DistributedOptimizer(adam, named_parameters=tower),
        ]
    else:
        adam = torch.optim.Adam(model.parameters(), lr=RATE)
        optimizers = [hvd.DistributedOptimizer(adam, named_parameters=model.named_parameters())]
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    data = batches(spec, hvd.rank())
    for _ in range(2):
        started, total = time.perf_counter(), 0.0
        for batch in data:
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = (model(batch["user"], batch["item"]) - batch["label"]).square().mean()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            total += loss.item()
        seconds = time.perf_counter() - started
    mean = hvd.allreduce(torch.tensor(total / len(data)))
    if hvd.rank() == 0:
        print("FOUND", json.dumps({"seconds": seconds, "loss": float(mean)}), flush=True)


def run_plain(spec: dict[str, Any], kind: str) -> dict[str, float]:
    horovodrun = Path(sys.executable).with_name("horovodrun")
    command = [str(horovodrun), "-np", "2", sys.executable, __file__, "peer", json.dumps(spec), kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.split("FOUND", 1)[1].splitlines()[0])
    return found


# --- Ours


class InMemory:
    """The same batches each epoch."""

    def __init__(self, held: list[Batch]) -> None:
        self._held, self.steps_per_epoch = held, len(held)

    def epoch(self, epoch: int) -> Iterator[Batch]:  # noqa: ARG002
        return iter(self._held)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is resumed here."""


def ours(spec: dict[str, Any], world: World) -> dict[str, Any]:
    ends: list[float] = []

    def validate(_: Model) -> dict[str, float]:
        ends.append(time.perf_counter())
        return {}

    settings = FitSettings(
        epochs=2,
        batch_size=spec["rows"] * world.size,
        learning_rate=RATE,
        embedding_learning_rate=RATE,
        embedding_optimizer=spec["optimizer"],
    )
    result = fit(Model(spec["table"]), InMemory(batches(spec, world.rank)), settings, world=world, validate=validate)
    return {"seconds": ends[1] - ends[0], "loss": result.final_loss}


def main() -> None:
    rows, steps, table, rounds = arguments(4096, 60, 200_000, 3)
    spec = {"rows": rows, "steps": steps, "table": table}

    def launched(optimizer: str) -> dict[str, Any]:
        return launch("train_plain_horovod:ours", {**spec, "optimizer": optimizer}, ranks=2, timeout_s=600)

    ways = {
        "fit, sparse_adam": lambda: launched("sparse_adam"),
        "fit, rowwise_adagrad": lambda: launched("rowwise_adagrad"),
        "horovod, sparse": lambda: run_plain(spec, "sparse"),
        "horovod, dense": lambda: run_plain({**spec, "steps": max(5, steps // 6)}, "dense"),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, float] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            found = way()
            done = max(5, steps // 6) if name == "horovod, dense" else steps
            rates[name].append(2 * rows * done / found["seconds"])
            losses[name] = found["loss"]
    difference = abs(losses["fit, sparse_adam"] / losses["horovod, sparse"] - 1)
    if difference > AGREE:
        raise SystemExit(f"the losses must agree within {AGREE}: {losses}")
    middle = {name: round(statistics.median(values)) for name, values in rates.items()}
    ratio = middle["fit, sparse_adam"] / max(middle["horovod, sparse"], middle["horovod, dense"])
    detail = {"samples_per_s": middle, "all_rounds": rates, "loss": losses, **spec}
    report("train_plain_horovod", ratio, GOAL, "of a plain Horovod loop's samples/s, same optimizer", detail)


if __name__ == "__main__":
    if sys.argv[1:2] == ["peer"]:
        plain(json.loads(sys.argv[2]), sys.argv[3])
    else:
        main()
