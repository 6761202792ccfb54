"""Where a training stands (saved with every checkpoint) and how fast it goes (never saved)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Protocol

from training.errors import ArtefactError, TrainingError
from training.parts import add_parts, part_means, whole_mean
from training.state.json_files import parse_json
from training.step.sync import Totals
from training.world import World

# What every checkpoint says; a field that comes later may be missing, and then has its default.
_FIRST = {"step", "epoch", "epoch_loss", "epoch_weight", "skipped", "loader", "history", "best", "exchange"}
_ENTRY = {"epoch", "step", "loss"}  # of the history, besides metrics


@dataclass
class Progress:
    """Where a training stands, JSON-safe.

    Attributes:
        step: optimizer steps done; skipped ones count, so that a step's number always gives the same random draws.
        epoch: the epoch under way, from 0.
        epoch_loss: weighted loss sum of this epoch so far, over all ranks.
        epoch_weight: its weights.
        skipped: steps left out because something in them was not finite.
        loader: the loader's position within the epoch; None at its start.
        history: one dict an epoch: epoch, step, loss, loss_NAME of each part, and the validation's metrics.
        best: the entry of `history` with the best metric.
        exchange: `training.step.sync.Synchroniser.state`.
        epoch_parts: name -> [loss, weight, share], of this epoch so far, of a loss in parts.
    """

    step: int = 0
    epoch: int = 0
    epoch_loss: float = 0.0
    epoch_weight: float = 0.0
    skipped: int = 0
    loader: dict[str, Any] | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    exchange: dict[str, Any] = field(default_factory=dict)
    epoch_parts: dict[str, list[float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Progress:
        """Where a training stood, of `to_json`.

        Raises:
            ArtefactError: a field is missing, unknown or of another type.
        """
        parse_json(json.dumps(value).encode(), cls, "progress")
        missing, unknown = _FIRST - value.keys(), value.keys() - {known.name for known in fields(cls)}
        if missing or unknown:
            raise ArtefactError(f"progress must have the fields of this version; {sorted(missing ^ unknown)} differ")
        found = cls(**value)
        entries = [*found.history, found.best] if found.history or found.best else []
        if any(_ENTRY - entry.keys() for entry in entries):
            raise ArtefactError(f"each epoch of progress must have {', '.join(sorted(_ENTRY))}; it has {entries}")
        return found

    @property
    def best_step(self) -> int | None:
        """The step at which the best epoch ended, whose checkpoint has its weights; None before the first has."""
        return int(self.best["step"]) if self.best else None

    def count(self, totals: Totals, parts: Mapping[str, list[float]], *, skipped: bool) -> None:
        """Take a step into the sums, and its loss' parts where it has any."""
        self.step += 1
        if skipped:
            self.skipped += 1
        elif totals.usable:
            self.epoch_loss += totals.loss
            self.epoch_weight += totals.weight
            add_parts(self.epoch_parts, parts)

    def end_epoch(self, metrics: dict[str, float], metric: str, mode: Literal["min", "max"]) -> bool:
        """Close the epoch; returns whether it is the best so far.

        Raises:
            TrainingError: no row of the epoch had a weight, or the metric that decides is not among those the
                validation gave.
        """
        if not self.epoch_weight:
            raise TrainingError(
                f"rows of an epoch must have weights above 0; those of epoch {self.epoch} add up to 0, so nothing was "
                "learnt: look at the settings that weigh rows (model.half_life_days, model.repeat_weight), or at the "
                "losses, if none of them was finite"
            )
        parts = self.epoch_parts
        loss = whole_mean(parts) if parts else self.epoch_loss / self.epoch_weight
        entry = {"epoch": self.epoch, "step": self.step, "loss": loss, **part_means(parts), **metrics}
        if metric not in entry:
            raise TrainingError(
                f"the metric that decides the best epoch must come from the validation; '{metric}' is not among "
                f"{', '.join(sorted(entry))}; set training.metric to one of them"
            )
        better = not self.best or _is_better(entry[metric], self.best[metric], mode)
        if better:
            self.best = entry
        self.history.append(entry)
        self.epoch, self.epoch_loss, self.epoch_weight, self.loader = self.epoch + 1, 0.0, 0.0, None
        self.epoch_parts = {}
        return better

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether `patience` epochs have gone by without a better one."""
        return patience is not None and bool(self.best) and self.epoch - 1 - self.best["epoch"] >= patience


def _is_better(new: float, old: float, mode: Literal["min", "max"]) -> bool:
    if math.isnan(old):
        return not math.isnan(new)
    return new < old if mode == "min" else new > old


class LoaderStats(Protocol):
    """What a loader may say of itself, counted since it was made; `training.data.loader.LoaderStats` does."""

    @property
    def rows(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def wait_s(self) -> float: ...
    @property
    def seconds(self) -> float: ...


class _Loaded:
    """What a loader delivered since the last look: (rows, bytes, seconds waited for it, seconds)."""

    def __init__(self, stats: LoaderStats) -> None:
        self._stats = stats
        self._before = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        return self._stats.rows, self._stats.bytes, self._stats.wait_s, self._stats.seconds

    def read(self) -> list[float]:
        now = self._now()
        since = [after - before for after, before in zip(now, self._before, strict=True)]
        self._before = now
        return since


class Meter:
    """Rates since the last time they were read, and the time left by the mean of all steps so far.

    Args:
        world: the ranks.
        steps_in_all: of the whole training.
        step: steps done before.
        stats: this rank's loader's, where it keeps any; the same on all ranks.
    """

    def __init__(self, world: World, steps_in_all: int, step: int, stats: LoaderStats | None = None) -> None:
        self._world, self._steps_in_all = world, steps_in_all
        self._loaded = _Loaded(stats) if stats else None
        self._loaded_in_epoch = _Loaded(stats) if stats else None
        self._begun, self._begun_at = time.perf_counter(), step
        self._reset(step)

    def _reset(self, step: int) -> None:
        self._started, self._comm_s, self._step = time.perf_counter(), self._world.comm_s, step
        self._rows, self._loss, self._weight, self.wait_s = 0, 0.0, 0.0, 0.0
        self._parts: dict[str, list[float]] = {}

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count what is done meanwhile as waiting for data."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.wait_s += time.perf_counter() - started

    def count(self, totals: Totals, parts: Mapping[str, list[float]]) -> None:
        self._rows += totals.rows
        if totals.usable:
            self._loss, self._weight = self._loss + totals.loss, self._weight + totals.weight
            add_parts(self._parts, parts)

    def read(self, step: int) -> dict[str, float]:
        """Figures since the last call: loss, samples_per_s, wait_share (for data), comm_share, seconds_left.

        Also loss_NAME of each part of a loss that has any; and loader_rows_per_s and loader_bytes_per_s, of this rank's
        loader, where it counts them.
        """
        seconds = max(self.seconds, 1e-9)
        loss = self._loss / self._weight if self._weight else float("nan")
        values = {
            "loss": whole_mean(self._parts) if self._parts else loss,
            **part_means(self._parts),
            "samples_per_s": self._rows / seconds,
            "wait_share": self.wait_s / seconds,
            "comm_share": (self._world.comm_s - self._comm_s) / seconds,
            "seconds_left": self._seconds_left(step),
        }
        if self._loaded:
            rows, size, _, _ = self._loaded.read()
            values |= {"loader_rows_per_s": rows / seconds, "loader_bytes_per_s": size / seconds}
        self._reset(step)
        return values

    def _seconds_left(self, step: int) -> float:
        """By the mean over the steps since the start or the resume, validations included: it does not jump."""
        steps = step - self._begun_at
        return (self._steps_in_all - step) * (time.perf_counter() - self._begun) / steps if steps else float("nan")

    def read_epoch(self) -> dict[str, float]:
        """What all ranks' loaders did since the last call; every rank must call. Nothing where they do not count.

        Returns:
            loader_rows and loader_bytes, loader_rows_per_s and loader_bytes_per_s (the ranks' rates added up), and
            loader_wait_share: the share of the ranks' time that they waited for data.
        """
        if self._loaded_in_epoch is None:
            return {}
        ranks: list[list[float]] = self._world.all_gather_object(self._loaded_in_epoch.read())
        return {
            "loader_rows": sum(rows for rows, _, _, _ in ranks),
            "loader_bytes": sum(size for _, size, _, _ in ranks),
            "loader_rows_per_s": sum(rows / max(seconds, 1e-9) for rows, _, _, seconds in ranks),
            "loader_bytes_per_s": sum(size / max(seconds, 1e-9) for _, size, _, seconds in ranks),
            "loader_wait_share": sum(wait for _, _, wait, _ in ranks) / max(sum(row[3] for row in ranks), 1e-9),
        }
