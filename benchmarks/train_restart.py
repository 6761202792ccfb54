"""Restart after SIGKILL of a rank: seconds from the kill until training stands at its last checkpoint again, less the
start-up that any launch pays; 2 local ranks. The result must equal an unbroken run's, bit for bit.

python benchmarks/train_restart.py [TABLE_ROWS ROUNDS]
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _train import arguments, report

import torch  # isort: skip  after _train has set the number of threads
from torch import nn
from train_plain_horovod import Model

from cluster.launch import launch
from training.batch import Batch
from training.fit import Event, FitSettings, fit
from training.watch.record import read_record
from training.world import World

GOAL, ROWS, STEPS, KILL_AT, EVERY = 15.0, 4096, 60, 50, 20


class Drawn:
    """Batches that the step decides; kills its process once, in one step, and notes when."""

    def __init__(self, rank: int, table: int, kill: str | None) -> None:
        self._rank, self._table, self._kill = rank, table, Path(kill) if kill else None
        self.steps_per_epoch, self._step = STEPS, 0

    def epoch(self, epoch: int) -> Iterator[Batch]:  # noqa: ARG002
        while self._step < STEPS:
            if self._kill and self._rank == 1 and self._step == KILL_AT and not self._kill.exists():
                self._kill.write_text(str(time.time()))
                os.kill(os.getpid(), signal.SIGKILL)
            generator = torch.Generator().manual_seed(1000 * self._step + self._rank)
            ids = {name: torch.randint(self._table, (ROWS,), generator=generator) for name in ("user", "item")}
            self._step += 1
            yield {**ids, "label": torch.randn(ROWS, generator=generator)}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]


def train(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A launch target; the run record keeps when each step was reached."""
    settings = FitSettings(batch_size=ROWS * world.size, checkpoint_every_steps=EVERY, report_every_s=0.0)
    model: nn.Module = Model(spec["table"])
    loader = Drawn(world.rank, spec["table"], spec.get("kill"))
    result = fit(model, loader, settings, world=world, checkpoint_dir=spec["folder"])
    weights = [float(tensor.double().sum()) for tensor in model.state_dict().values()]
    return {"loss": result.final_loss, "weights": weights}


def one_round(table: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder, noticed = Path(name), list[float]()

        def log(line: str) -> None:
            print(line, flush=True)
            if "starting all 2 ranks again" in line:
                noticed.append(time.time())

        target, spec = "train_restart:train", {"table": table, "folder": str(folder / "unbroken")}
        started = time.time()
        unbroken = launch(target, spec, ranks=2, timeout_s=300)
        start_s = _first(folder / "unbroken", lambda event: event.kind == "start") - started
        mark = folder / "killed"
        spec = {"table": table, "folder": str(folder / "killed-run"), "kill": str(mark)}
        resumed = launch(target, spec, ranks=2, restarts=1, timeout_s=300, log=log)
        if resumed != unbroken:
            raise SystemExit(f"the results must be equal: {resumed} after the restart, {unbroken} unbroken")
        killed = float(mark.read_text())
        at_checkpoint = _first(folder / "killed-run", lambda event: event.kind == "resume")
        at_kill = _first(folder / "killed-run", lambda event: event.kind == "progress" and event.step > KILL_AT)
        return {
            "start_s": start_s,
            "noticed_s": noticed[0] - killed,
            "at_checkpoint_s": at_checkpoint - killed,
            "at_killed_step_s": at_kill - killed,
            "beyond_start_s": at_checkpoint - killed - start_s,
            "loss": unbroken["loss"],
        }


def _first(folder: Path, wanted: Any) -> float:
    for line in read_record(folder):
        time_s = line.pop("time_s")
        if wanted(Event(**line)):
            return float(time_s)
    raise SystemExit(f"the run record in {folder} lacks an event that was waited for")


def main() -> None:
    table, rounds = arguments(1_000_000, 3)
    found = [one_round(table) for _ in range(rounds)]
    middle = {name: round(statistics.median(one[name] for one in found), 3) for name in found[0]}
    unit = "s from the kill to the last checkpoint, less start-up (at most)"
    report("train_restart", middle["beyond_start_s"], GOAL, unit, {**middle, "all_rounds": found})


if __name__ == "__main__":
    main()
