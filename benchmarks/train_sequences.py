"""Sequences over a million items on 2 local ranks, one thread each: tokens/s of both together over 20,000.

    python benchmarks/train_sequences.py [ITEMS SEQUENCES STEPS]

The model is as shipped, with bfloat16 products. A rank's step has so many sequences, of 21 lines on the average and at
most 100, whose items are drawn by Zipf's law; the first half of the steps warms up; `detail` has both ranks'
peak memory in all, of which 6 GB are the goal, and the share of the time in collectives.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from _train import arguments, memory_mb, report

import numpy as np  # isort: skip  after _train has set the number of threads
import torch

from cluster.launch import launch
from training.batch import Batch, Ragged
from training.fit import FitSettings, fit
from training.models.sequence import Sequence
from training.schema import Column, Kind, Schema
from training.world import World

GOAL, TOKENS_PER_S, MEAN, LONGEST = 1.0, 20_000, 20, 100


class Draws:
    """Batches of sequences, others on each rank, and the targets and seconds of the second half of the steps."""

    def __init__(self, shares: np.ndarray, sequences: int, steps: int, world: World) -> None:
        self._bounds, self._sequences, self.steps_per_epoch = np.cumsum(shares), sequences, steps
        self._world, self._draw = world, np.random.default_rng(world.rank)
        self.targets, self.seconds, self.comm_s = 0, 0.0, 0.0

    def epoch(self, epoch: int) -> Iterator[Batch]:  # noqa: ARG002
        started, comm = time.perf_counter(), self._world.comm_s
        for step in range(self.steps_per_epoch):
            if step == self.steps_per_epoch // 2:
                started, comm, self.targets = time.perf_counter(), self._world.comm_s, 0
            lengths = np.minimum(self._draw.geometric(1 / MEAN, self._sequences) + 1, LONGEST)
            self.targets += int(lengths.sum()) - self._sequences
            yield self._batch(lengths)
        self.seconds, self.comm_s = time.perf_counter() - started, self._world.comm_s - comm

    def _batch(self, lengths: np.ndarray) -> Batch:
        ends = np.cumsum(lengths)
        offsets = torch.from_numpy(np.concatenate([[0], ends]))
        place = torch.from_numpy((np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)).astype(np.float32))
        items = np.searchsorted(self._bounds, self._draw.random(ends[-1])).clip(max=len(self._bounds) - 1) + 1
        return {
            "history": Ragged(torch.from_numpy(items), offsets),
            "history_age": Ragged(LONGEST - place, offsets),
            "history_before": Ragged(place, offsets),
        }

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def measure(spec: dict[str, int], world: World) -> dict[str, Any]:
    """Of all ranks, tokens/s and peak memory."""
    items = spec["items"]
    shares = 1 / np.arange(1, items + 1) ** 0.8
    shares /= shares.sum()
    schema = Schema(
        (
            Column("history", Kind.IDS, "items", items + 1),
            Column("history_age", Kind.DENSE, ragged=True),
            Column("history_before", Kind.DENSE, ragged=True),
        )
    )
    torch.manual_seed(0)
    counts = torch.cat([torch.zeros(1), torch.from_numpy(shares * 20 * items).float()])
    model = Sequence(Sequence.Config(), schema, {"user_count": counts})
    loader = Draws(shares, spec["sequences"], spec["steps"], world)
    settings = FitSettings(batch_size=spec["sequences"] * world.size, precision="bf16", embedding_learning_rate=0.01)
    fit(model, loader, settings, world=world)  # type: ignore[arg-type]
    mine = torch.tensor([loader.targets, loader.seconds, loader.comm_s, memory_mb("VmHWM")], dtype=torch.float64)
    targets, seconds, comm_s, peak_mb = (world.all_reduce_sum(mine, "figures")).tolist()
    rate = targets / (seconds / world.size)
    return {"tokens_per_s": round(rate), "peak_mb": round(peak_mb), "comm_share": round(comm_s / seconds, 3)}


def main() -> None:
    items, sequences, steps = arguments(1_000_000, 128, 120)
    spec = {"items": items, "sequences": sequences, "steps": steps}
    found = {ranks: launch("train_sequences:measure", spec, ranks=ranks, timeout_s=900) for ranks in (1, 2)}
    detail = {"one_rank": found[1], "two_ranks": found[2]}
    report("train_sequences", found[2]["tokens_per_s"] / TOKENS_PER_S, GOAL, "x 20,000 tokens/s", detail)


if __name__ == "__main__":
    main()
