"""What a training says: events to whoever calls `fit`, and to the run record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from training.fit_settings import FitSettings
from training.progress import Progress
from training.record import Event, Kind, Pruned, Record
from training.world import World


class Telling:
    """Passes events on, on rank 0 alone, and remembers that `report` wants to stop until all ranks can agree on it."""

    def __init__(self, report: Callable[[Event], None] | None, world: World) -> None:
        self._report, self._rank = report, world.rank
        self.pruned: Pruned | None = None
        self.record: Record | None = None

    def __call__(self, kind: Kind, progress: Progress, message: str, values: Mapping[str, float] | None = None) -> None:
        if self._rank != 0:
            return
        event = Event(kind, progress.step, progress.epoch, message, values or {})
        if self.record:
            self.record.add(event, time.time())
        try:
            if self._report:
                self._report(event)
        except Pruned as pruned:
            self.pruned = pruned

    def progress(self, progress: Progress, settings: FitSettings, steps: int, values: Mapping[str, float]) -> None:
        message = (
            f"epoch {progress.epoch + 1} of {settings.epochs}, step {progress.step} of {steps}: "
            f"loss {values['loss']:.5g}, {values['samples_per_s']:,.0f} samples/s, "
            f"{values['wait_share']:.0%} waiting for data, {values['comm_share']:.0%} for other ranks, "
            f"{values['seconds_left']:,.0f} s left"
        )
        self("progress", progress, message, values)

    def epoch(self, progress: Progress, loaded: Mapping[str, float]) -> None:
        """Say how the epoch went that `progress` has just closed, and what the loaders did in it."""
        entry = progress.history[-1]
        figures = ", ".join(f"{name} {value:.5g}" for name, value in entry.items() if name not in ("epoch", "step"))
        event = replace(progress, epoch=progress.epoch - 1)
        self("epoch", event, f"epoch {progress.epoch} ended at step {progress.step}: {figures}", {**entry, **loaded})
