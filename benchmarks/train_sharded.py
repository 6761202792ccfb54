"""A table larger than a rank's memory, sharded over 2 ranks that may hold 6 GB each: 8 GB of rows, and their optimizer.

Trains it, writes a checkpoint and a bundle's file of it under the limit; the same table whole on each rank must fail
there. Each rank sits in a memory cgroup of its own (version 1), which kills it above the limit; where none can be made,
RLIMIT_DATA refuses the memory instead. The ratio is the table's size over the largest peak RSS of a rank; 2 would be
perfect. Also: a step of a sharded table against one of a whole table, at a size where both fit.

python benchmarks/train_sharded.py [TABLE_MB LIMIT_MB STEPS ROUNDS]
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _train import arguments, memory_mb, middle_ms, report

import torch  # isort: skip  after _train has set the number of threads
from torch import Tensor, nn

from cluster.errors import LaunchError
from cluster.launch import launch
from training.batch import Batch
from training.fit import FitSettings, fit
from training.state.export import export
from training.state.files import write_tensors
from training.step.optimizers import build_optimizers
from training.step.sync import Synchroniser
from training.tables.sharded import Tables
from training.world import World

GOAL, DIMENSION, RANKS = 1.5, 64, 2
BATCH, USED = 8192, 60_000  # rows of a batch on a rank; ids that occur, spread over the whole table
CGROUPS = Path("/sys/fs/cgroup/memory")


def limit_memory(megabytes: int, rank: int) -> str:
    """Hold this process to so much memory; returns by what."""
    group = CGROUPS / f"millrace-{os.getppid()}-{rank}"
    try:
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(megabytes * 10**6))
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        resource.setrlimit(resource.RLIMIT_DATA, (megabytes * 10**6, megabytes * 10**6))
        return "RLIMIT_DATA"
    return "memory cgroup"


def remove_cgroups() -> None:
    for group in CGROUPS.glob(f"millrace-{os.getpid()}-*"):
        group.rmdir()


class Model(nn.Module):
    """Says whether a user likes something, from the user's row: the planted answer is a bit of the id."""

    def __init__(self, tables: Tables, rows: int) -> None:
        super().__init__()
        self.users = tables("users", rows, DIMENSION, std=0.1)
        torch.manual_seed(0)  # so that the layer starts alike in every run
        self.layer = nn.Linear(DIMENSION, 1)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        ids = batch["user"]
        likes = (ids // 7 % 2).float()
        losses = nn.functional.binary_cross_entropy_with_logits(self.layer(self.users(ids))[:, 0], likes)
        return losses * len(ids), torch.tensor(float(len(ids)))


class Draws:
    """Batches of ids from all over the table, others on each rank."""

    def __init__(self, rows: int, steps: int, world: World) -> None:
        self._rank, self._ids = world.rank, torch.randint(rows, (USED,), generator=torch.Generator().manual_seed(0))
        self.steps_per_epoch = steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(1000 * epoch + self._rank)
        for _ in range(self.steps_per_epoch):
            yield {"user": self._ids[torch.randint(USED, (BATCH,), generator=generator)]}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing goes on from here."""


def train(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Fit under the limit, with a checkpoint after each epoch, and write the whole table to a file."""
    limited_by = limit_memory(spec["limit_mb"], world.rank)
    started = time.perf_counter()
    model = Model(Tables(world, spec["above_mb"]), spec["rows"])
    built_s = time.perf_counter() - started
    settings = FitSettings(
        epochs=3,
        batch_size=BATCH * world.size,
        checkpoint_every_s=None,
        keep_checkpoints=1,
        embedding_learning_rate=0.1,
    )
    loader = Draws(spec["rows"], spec["steps"], world)
    started = time.perf_counter()
    result = fit(model, loader, settings, world=world, checkpoint_dir=spec["folder"])
    fitted_s = time.perf_counter() - started
    after_fit = memory_mb("VmHWM")
    started = time.perf_counter()
    path = Path(spec["folder"]) / "whole.safetensors"
    export(model, world, lambda state: write_tensors(path, state).sha256)
    return {
        "limited_by": limited_by,
        "losses": [round(entry["loss"], 4) for entry in result.history],
        "built_s": round(built_s, 1),
        "fit_s": round(fitted_s, 1),
        "export_s": round(time.perf_counter() - started, 1),
        "peak_rss_mb_after_fit": world.all_gather_object(after_fit),
        "peak_rss_mb": world.all_gather_object(memory_mb("VmHWM")),
        "file_mb": sum(path.stat().st_size for path in Path(spec["folder"]).glob("whole*")) // 10**6,
    }


def steps(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Milliseconds of a step, with both tables in one process and in turn."""
    calls = {}
    for name, above_mb in (("sharded", 0.0), ("whole", None)):
        model = Model(Tables(world, above_mb), spec["rows"])
        calls[name] = _step(model, spec["rows"], world)
    found: dict[str, Any] = dict(middle_ms(calls, spec["rounds"]))
    found["losses"] = {name: round(call(), 5) for name, call in calls.items()}
    return found


def _step(model: Model, rows: int, world: World) -> Any:
    optimizers = build_optimizers(model, FitSettings(embedding_learning_rate=0.1))
    synchroniser = Synchroniser(model, world)
    batches = Draws(rows, 10**9, world).epoch(0)
    torch.manual_seed(0)
    nn.init.normal_(model.layer.weight)

    def call() -> float:
        loss, weight = model.loss(next(batches))
        loss.backward()
        totals = synchroniser.synchronise(float(loss.detach()), float(weight))
        optimizers.step()
        optimizers.zero_grad()
        return totals.loss / totals.weight

    return call


def main() -> None:
    table_mb, limit_mb, count, rounds = arguments(8000, 6000, 20, 15)
    spec = {"rows": table_mb * 10**6 // (4 * DIMENSION), "limit_mb": limit_mb, "steps": count}
    try:
        with tempfile.TemporaryDirectory() as folder:
            given = {**spec, "folder": folder, "above_mb": 1.0}
            sharded = launch("train_sharded:train", given, ranks=RANKS, timeout_s=1800)
        with tempfile.TemporaryDirectory() as folder:
            given = {**spec, "folder": folder, "above_mb": None}
            try:
                whole = launch("train_sharded:train", given, ranks=RANKS, timeout_s=1800)["peak_rss_mb"]
            except LaunchError as error:
                whole = str(error).splitlines()[0]
    finally:
        remove_cgroups()
    small = {"rows": spec["rows"] // 16, "rounds": rounds}
    times = {str(n): launch("train_sharded:steps", small, ranks=n, timeout_s=600) for n in (1, RANKS)}
    assert sharded["losses"][-1] < 0.9 * sharded["losses"][0], sharded["losses"]
    assert isinstance(whole, str), f"the whole table fits into the limit: {whole}"
    detail = {"table_mb": table_mb, "limit_mb": limit_mb, **sharded, "whole_table": whole}
    detail |= {"step_table_mb": table_mb // 16, "step_ms_by_ranks": times}
    ratio = table_mb / max(sharded["peak_rss_mb"])
    report("train_sharded", ratio, GOAL, "x the largest peak RSS of 2 ranks is what the table may be", detail)


if __name__ == "__main__":
    main()
