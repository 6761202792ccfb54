"""What a training says: events to whoever calls `fit`, and to the run record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from training.settings import FitSettings
from training.state.progress import Progress
from training.watch.record import Event, Kind, Pruned, Record
from training.world import World


class Telling:
    """Passes events on, on rank 0 alone, and remembers that `report` wants to stop until all ranks can agree on it."""

    def __init__(self, report: Callable[[Event], None] | None, world: World) -> None:
        self._report, self._rank = report, world.rank
        self._at = Progress()
        self._early: list[Event] | None = []  # said before the run record was open
        self._record: Record | None = None
        self.pruned: Pruned | None = None

    def open_record(self, record: Record | None, progress: Progress) -> None:
        """Write what was said so far into the run record, and what will be said; the training stands at `progress`."""
        self._record, self._at = record, progress
        early, self._early = self._early or [], None
        for event in early:
            self._keep(replace(event, step=progress.step, epoch=progress.epoch))

    def warn(self, message: str) -> None:
        """Say what somebody should look at."""
        self("warning", self._at, message)

    def __call__(self, kind: Kind, progress: Progress, message: str, values: Mapping[str, float] | None = None) -> None:
        if self._rank != 0:
            return
        self._at = progress
        event = Event(kind, progress.step, progress.epoch, message, values or {})
        self._keep(event)
        try:
            if self._report:
                self._report(event)
        except Pruned as pruned:
            self.pruned = pruned

    def _keep(self, event: Event) -> None:
        if self._early is not None:
            self._early.append(event)
        elif self._record:
            self._record.add(event, time.time())

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
