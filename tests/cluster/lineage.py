"""A training that writes down which rows each step saw, and what of it counts after restarts.

Each attempt leaves `attempt-K.json` (the step that it went on from) and each of its ranks `rows-K-RANK.jsonl` (epoch,
step, row ids). A step counts in the attempt whose weights went on: the last one that ran it.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from deltalake import WriterProperties, write_deltalake
from torch import Tensor, nn

from training.batch import Batch
from training.data.loader import Loader
from training.data.snapshot import open_snapshot
from training.fit import Event, FitSettings, fit
from training.schema import Column, Kind, Schema
from training.world import World

ROWS = 410
SCHEMA = Schema((Column("id", Kind.ID, "ids", ROWS),))
SETTINGS = {"epochs": 2, "batch_size": 24, "seed": 5, "checkpoint_every_steps": 5}


def make_table(path: Path) -> str:
    ids = pa.table({"id": pa.array(range(ROWS))})
    write_deltalake(path, ids, writer_properties=WriterProperties(max_row_group_size=50))
    return str(path)


class Model(nn.Module):
    """Each row's id has an embedding row of its own; padding makes a checkpoint as large as a test wants."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.ids = nn.Embedding(ROWS, 4, sparse=True)
        self.layer = nn.Linear(4, 1)
        self.register_buffer("padding", torch.zeros(padding))

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        score = self.layer(torch.tanh(self.ids(batch["id"]))) + torch.randn(1, generator=generator) * 0.01
        return (score - 1).square().sum(), torch.tensor(float(len(score)))


class Noted:
    """A loader that writes down what it delivers, and lets something happen in a step."""

    def __init__(self, loader: Loader, path: Path, spec: dict[str, Any], rank: int) -> None:
        self._loader, self._path, self._spec, self._rank = loader, path, spec, rank
        self.steps_per_epoch = loader.steps_per_epoch
        self.state_dict = loader.state_dict
        self.first = 0  # the step that this attempt goes on from

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loader.load_state_dict(state)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        left = self._loader.steps_per_epoch if self._loader.state_dict()["epoch"] != epoch else self._loader.steps_left
        step = (epoch + 1) * self.steps_per_epoch - left
        for batch in self._loader.epoch(epoch):
            happen(self._spec, self._rank, step)
            with self._path.open("a") as file:
                file.write(json.dumps([epoch, step, batch["id"].tolist()]) + "\n")
            yield batch
            step += 1


def happen(spec: dict[str, Any], rank: int, step: int) -> None:
    """`fault` = {"kind", "rank", "step", "mark"} happens once; `step_s` makes steps slow enough to be met in one."""
    time.sleep(spec.get("step_s", 0.0))
    fault = spec.get("fault")
    if not fault or fault["rank"] != rank or fault["step"] != step or Path(fault["mark"]).exists():
        return
    Path(fault["mark"]).write_text(str(time.time()))
    if fault["kind"] in ("SIGKILL", "SIGSTOP"):
        os.kill(os.getpid(), getattr(signal, fault["kind"]))
    elif fault["kind"] == "parent":  # the Python worker of the Spark task that looks after this rank
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    elif fault["kind"] == "executor":  # worker <- pyspark.daemon <- the executor's JVM
        os.kill(ancestor(3), signal.SIGKILL)
        time.sleep(60)


def ancestor(generations: int) -> int:
    pid = os.getpid()
    for _ in range(generations):
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return pid


def train(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A launch target."""
    folder = Path(spec["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    attempt = world.broadcast_object(len(list(folder.glob("attempt-*"))))
    note = folder / f"attempt-{attempt}.json"
    if world.rank == 0:
        note.write_text("null")

    def report(event: Event) -> None:
        if event.kind in ("start", "resume"):
            note.write_text(json.dumps(event.step))

    settings = FitSettings(**SETTINGS)
    with Loader(
        open_snapshot(spec["table"]),
        SCHEMA,
        batch_size=settings.rows_per_batch(world.size),
        seed=settings.seed,
        rank=world.rank,
        world_size=world.size,
        shuffle_rows=100,
    ) as loader:
        noted = Noted(loader, folder / f"rows-{attempt}-{world.rank}.jsonl", spec, world.rank)
        model = Model(spec.get("padding", 0))
        result = fit(
            model,
            noted,
            settings,
            world=world,
            checkpoint_dir=spec.get("checkpoints", str(folder / "checkpoints")),
            report=report,
        )
    weights = [float(tensor.double().sum()) for tensor in model.state_dict().values()]
    return {"loss": result.final_loss, "history": result.history, "weights": weights}


def seen_once(folder: Path) -> dict[str, Any]:
    """Hold the steps that count against the table; returns what the restarts cost.

    Every row must be there once an epoch, over all ranks.
    """
    starts = [json.loads(path.read_text()) for path in sorted(folder.glob("attempt-*.json"))]
    last: dict[tuple[int, int], int] = {}
    rows: dict[tuple[int, int, int], list[int]] = {}
    for path in folder.glob("rows-*.jsonl"):
        attempt = int(path.stem.split("-")[1])
        for line in path.read_text().splitlines():
            epoch, step, ids = json.loads(line)
            last[epoch, step] = max(last.get((epoch, step), 0), attempt)
            rows.setdefault((epoch, step, attempt), []).extend(ids)
    for epoch in range(SETTINGS["epochs"]):
        counted = [row for (e, step), attempt in last.items() if e == epoch for row in rows[epoch, step, attempt]]
        assert sorted(counted) == list(range(ROWS)), f"epoch {epoch}"
    again = sum(len(ids) for (epoch, step, attempt), ids in rows.items() if attempt != last[epoch, step])
    return {"starts": starts, "computed_again": again}
