"""The training loop, read top to bottom: the same start on every rank, steps, the end of an epoch, the best weights.

`training.fit.fit` checks what it is given, holds the folder, and runs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from training.batch import Batch, batch_size
from training.checks import check_epochs, check_skipped
from training.models.alternating import Alternation
from training.models.base import Model
from training.preemption import Notice, leave
from training.settings import FitSettings, step_seed
from training.state.bundle import Bundle
from training.state.checkpoint import Checkpoints
from training.state.progress import Meter
from training.state.resume import restore_best, resume, state_of
from training.step.buffers import Buffers
from training.step.compute import Compute
from training.step.device import Feed
from training.step.optimizers import build_optimizers
from training.step.sync import Synchroniser, Totals, global_norm, scale_gradients
from training.tables.sharded import used_rows
from training.watch.record import Kind, Pruned, Record
from training.watch.telling import Telling
from training.world import World

Validate = Callable[[Any], Mapping[str, float]]


class Loader(Protocol):
    """What `fit` needs of a loader; `training.data.loader.Loader` is the one that streams.

    One that keeps `stats` (`training.state.progress.LoaderStats`) has them told with the progress and each epoch.
    """

    @property
    def steps_per_epoch(self) -> int: ...
    def epoch(self, epoch: int) -> Iterator[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class FitResult:
    """How a training went.

    Attributes:
        steps: optimizer steps done, those before a resume included.
        epochs: epochs done.
        final_loss: mean loss over the rows of the last epoch, over all ranks; of a loss in parts the weighted sum of
            their means.
        history: one dict an epoch: epoch, step, loss, loss_NAME of each part and the validation's metrics.
        best: the entry of `history` that the metric names best; the last where the best one's checkpoint was damaged.
        skipped: steps left out because something in them was not finite.
        resumed_at: the step of the checkpoint that this call went on from; 0 without one.
    """

    steps: int
    epochs: int
    final_loss: float
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    resumed_at: int = 0


class Training:
    """One training on this rank; every rank makes one and runs it. Arguments as those of `fit`.

    Args:
        model: trained in place.
        loader: this rank's batches.
        settings: how to train.
        world: the ranks.
        folder: where rank 0 keeps the run record, if anything is kept.
        saver: of checkpoints, on all ranks, if anything is kept.
        validate: judges the model after each epoch, if it is to be judged.
        telling: where events go.
        notice: of the request to end.
        start_from: the bundle whose weights are the first ones, if there is one.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        settings: FitSettings,
        world: World,
        *,
        folder: Path | None,
        saver: Checkpoints | None,
        validate: Validate | None,
        telling: Telling,
        notice: Notice,
        start_from: Bundle | None,
    ) -> None:
        """The same start on every rank, or the newest checkpoint."""
        self._model, self._settings, self._world = model, settings, world
        self._saver, self._validate, self._telling, self._notice = saver, validate, telling, notice
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizers = build_optimizers(model, settings)
        self._synchroniser, self._buffers = Synchroniser(model, world, settings.compression), Buffers(model, world)
        progress = self._progress = resume(model, self._optimizers, saver, world, start_from)
        self._resumed_at = progress.step
        check_epochs(progress, settings, saver)
        self._synchroniser.load(progress.exchange)
        if progress.loader is not None:
            loader.load_state_dict(progress.loader)
        record = Record(folder, resumed_at=self._resumed_at, say=telling.warn) if folder else None
        telling.open_record(record, progress)
        self._alternation = model.alternation(world) if isinstance(model, Model) else None
        steps_per_epoch = 1 if self._alternation else -(-loader.steps_per_epoch // settings.accumulate)
        self._steps_in_all = steps_per_epoch * settings.epochs
        self._meter = Meter(world, self._steps_in_all, progress.step, getattr(loader, "stats", None))
        self._best_weights: dict[str, Tensor] = {}
        self._due = _Due(settings.checkpoint_every_s if folder else None)  # rank 0's clock counts
        verb: Kind = "resume" if progress.step else "start"
        begun = f", from bundle {start_from.name}" if start_from and not progress.step else ""
        telling(verb, progress, f"{verb} at step {progress.step} of {self._steps_in_all}, {world.size} ranks{begun}")
        self._compute = Compute(model, settings, world, say=lambda text: telling("warning", progress, text))
        self._feed = Feed(loader, self._compute.device)

    def run(self) -> FitResult:
        """All epochs that are left."""
        settings, progress = self._settings, self._progress
        while progress.epoch < settings.epochs and not progress.out_of_patience(settings.early_stopping_patience):
            self._model.train()
            if self._alternation:
                self._sweep(self._alternation)
            else:
                for batches in _groups(self._feed.epoch(progress.epoch), settings.accumulate, self._meter):
                    self._step(batches)
            self._end_epoch()
        return self._end()

    def _sweep(self, alternation: Alternation) -> None:
        """The epoch of a model that is solved, as one step; all rows are read before the first."""
        if not alternation.has_read:
            with self._meter.waiting():
                alternation.read(self._feed.epoch(0))  # the same order after a resume
        if self._saver:
            self._saver.wait()  # all rows of sharded tables are about to change
        totals = Totals(*alternation.sweep(), stop=False, save=False, leave=False)
        self._progress.count(totals, {}, skipped=False)
        self._meter.count(totals, {})

    def _step(self, batches: list[Batch]) -> None:
        """Gradients, an update where they are finite, and whatever is due after it."""
        totals = self._gradients(batches)
        if totals.stop:
            raise self._telling.pruned or Pruned("stopped by rank 0")
        norm = global_norm(self._synchroniser.shared, self._world, self._synchroniser.local)
        if totals.usable and norm < float("inf"):
            self._update(norm)
            self._progress.count(totals, self._compute.parts, skipped=False)
        else:
            self._skip(totals, norm)
        self._optimizers.zero_grad()
        self._meter.count(totals, self._compute.parts)
        self._save_where_due(totals)
        if totals.leave:
            leave(self._progress, self._steps_in_all, self._saver, self._world)
        self._report_where_due()

    def _gradients(self, batches: list[Batch]) -> Totals:
        """Of the mean loss over all ranks' batches, in each parameter's `.grad`."""
        progress, seed = self._progress, self._settings.seed
        seeds = [
            step_seed(seed, progress.epoch, progress.step, self._world.rank, number) for number in range(len(batches))
        ]
        sums = self._compute(batches, seeds)
        with self._meter.waiting():
            self._feed.fetch()  # while the device computes
        loss, weight = sums.tolist()  # the only wait for the device before the gradients travel
        rows = sum(map(batch_size, batches))
        self._buffers.count(rows)
        stop = self._telling.pruned is not None
        return self._synchroniser.synchronise(loss, weight, rows, stop=stop, save=self._due(), leave=self._notice.given)

    def _update(self, norm: float) -> None:
        settings = self._settings
        if settings.clip_norm is not None and norm > settings.clip_norm:
            scale_gradients(self._parameters, settings.clip_norm / norm)
        if self._saver:
            self._saver.before_update(used_rows(self._model))
        self._optimizers.set_rate(settings.rate(self._progress.step, self._steps_in_all))
        self._optimizers.step()

    def _skip(self, totals: Totals, norm: float) -> None:
        """Leave the weights as they are; a step of rows that weigh nothing is none that failed."""
        progress, failed = self._progress, totals.weight != 0
        progress.count(totals, self._compute.parts, skipped=failed)
        if failed:
            text = f"step {progress.step} skipped: loss {totals.loss}, norm {norm}"
            self._telling("skipped", progress, text)
            check_skipped(progress, self._settings, self._steps_in_all, totals.loss, norm)

    def _save_where_due(self, totals: Totals) -> None:
        """A checkpoint in the midst of an epoch: by the clock, by the steps, or because the training is to end."""
        progress = self._progress
        by_steps = progress.step % (self._settings.checkpoint_every_steps or progress.step + 1) == 0
        if self._saver and (totals.save or totals.leave or by_steps):
            self._buffers.share()
            progress.loader = self._feed.state_dict()
            self._save(self._saver)
            self._telling("checkpoint", progress, f"checkpoint at step {progress.step}")

    def _save(self, saver: Checkpoints) -> None:
        saver.save(state_of(self._model, self._optimizers, self._synchroniser, self._progress))

    def _report_where_due(self) -> None:
        settings, progress = self._settings, self._progress
        if self._meter.seconds >= settings.report_every_s:
            rate = settings.learning_rate * settings.rate(progress.step - 1, self._steps_in_all)
            values = {**self._meter.read(progress.step), "learning_rate": rate}
            self._telling.progress(progress, settings, self._steps_in_all, values)

    def _end_epoch(self) -> None:
        """Validate, save, stop early."""
        settings, progress, telling = self._settings, self._progress, self._telling
        self._buffers.share()
        better = progress.end_epoch(self._validated(), settings.metric, settings.metric_mode)
        if self._saver:
            self._save(self._saver)
        elif better and self._validate:
            self._best_weights = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        telling.epoch(progress, self._meter.read_epoch())
        wishes = self._world.all_gather_object([telling.pruned is not None, self._notice.given])
        if any(stop for stop, _ in wishes):
            raise telling.pruned or Pruned("stopped by rank 0")
        if any(leave for _, leave in wishes) and progress.epoch < settings.epochs:
            leave(progress, self._steps_in_all, self._saver, self._world)

    def _validated(self) -> dict[str, float]:
        """Rank 0's metrics, on all ranks; none without a validation."""
        if self._validate is None:
            return {}
        self._model.eval()
        with torch.no_grad():
            metrics = {name: float(value) for name, value in self._validate(self._model).items()}
        shared: dict[str, float] = self._world.broadcast_object(metrics)
        return shared

    def _end(self) -> FitResult:
        """Leave the best weights, and nothing half written."""
        progress, saver, telling = self._progress, self._saver, self._telling
        if saver:
            saver.wait()
        if self._validate and progress.best["epoch"] != progress.history[-1]["epoch"]:
            restore_best(self._model, self._best_weights, progress, saver, self._world, telling.warn)
        loss = progress.history[-1]["loss"]
        telling("end", progress, f"{progress.epoch} epochs, {progress.step} steps, loss {loss:.6g}")
        return FitResult(
            progress.step, progress.epoch, loss, progress.history, progress.best, progress.skipped, self._resumed_at
        )


class _Due:
    """Says when the next checkpoint by the clock is due."""

    def __init__(self, every_s: float | None) -> None:
        self._every_s, self._last = every_s, time.monotonic()

    def __call__(self) -> bool:
        if self._every_s is None or time.monotonic() - self._last < self._every_s:
            return False
        self._last = time.monotonic()
        return True


def _groups(batches: Iterator[Batch], size: int, meter: Meter) -> Iterator[list[Batch]]:
    """Batches of an optimizer step together, with the time that was spent waiting for them; the last may be fewer."""
    group: list[Batch] = []
    while True:
        with meter.waiting():
            batch = next(batches, None)
        if batch is not None:
            group.append(batch)
        if group and (batch is None or len(group) == size):
            yield group
            group = []
        if batch is None:
            return
