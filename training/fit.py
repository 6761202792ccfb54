"""The training loop, read top to bottom.

    result = fit(model, loader, FitSettings(epochs=3), world=World.current(), checkpoint_dir="out/checkpoints")

Call it with the same arguments on every rank. Where the folder has a checkpoint of this training it goes on from there,
with the same result as if it had never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from training.batch import Batch, batch_size
from training.checks import check_epochs, check_settings, check_skipped
from training.data.memory import reuse_memory
from training.preemption import Notice, leave
from training.settings import FitSettings, step_seed
from training.state.bundle import Bundle
from training.state.checkpoint import Checkpoints
from training.state.lock import only_writer
from training.state.progress import Meter
from training.state.resume import restore_best, resume, state_of
from training.step.buffers import Buffers
from training.step.compute import Compute
from training.step.device import Feed, matmul_precision
from training.step.optimizers import build_optimizers
from training.step.sync import Synchroniser, global_norm, scale_gradients
from training.tables.sharded import used_rows
from training.watch.record import Event, Kind, Pruned, Record
from training.watch.telling import Telling
from training.world import World

__all__ = ["Event", "FitResult", "FitSettings", "Pruned", "fit", "step_seed"]


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


def fit(
    model: nn.Module,
    loader: Loader,
    settings: FitSettings,
    *,
    world: World,
    checkpoint_dir: str | None = None,
    validate: Callable[[Any], Mapping[str, float]] | None = None,
    report: Callable[[Event], None] | None = None,
    identity: Mapping[str, Any] | None = None,
    start_from: Bundle | None = None,
) -> FitResult:
    """Train `model` in place; with `validate` it ends with the weights of the best epoch, else with the last.

    Args:
        model: an `nn.Module` on its device, with `loss(batch, generator) -> (sum of weighted losses, sum of weights)`,
            or name -> `training.parts.Part`.
        loader: this rank's batches; every rank's gives the same number.
        settings: how to train.
        world: the ranks.
        checkpoint_dir: where checkpoints and the run record go; None keeps nothing. Rank 0 writes there, and every
            rank its rows of sharded tables: then it must be the same folder on all of them.
        validate: called on every rank after each epoch, in eval mode without gradients; rank 0's metrics count.
        report: gets events, on rank 0 alone; raising `Pruned` there stops the training on all ranks.
        identity: JSON dict of what else must be equal for a checkpoint to fit: model config, schema, snapshot.
        start_from: a bundle whose weights are the initial ones (training/state/warm_start.py); readable on every rank.
            A checkpoint fits only with the bundle that its training started from.

    Raises:
        Pruned: `report` raised it.
        CheckpointError: the folder's checkpoint is of another training or of a later epoch than the last one asked
            for, one could not be written, or another training writes into the folder.
        SettingsError: the settings do not go together with the model, or with no validation.
        PreemptedError: a rank got SIGTERM; the step was ended, and its checkpoint is on the disk.
        TrainingError: too many steps were not finite, or a rank was lost.
        BundleError: the bundle to start from does not fit the model.
    """
    check_settings(settings, model, has_validation=validate is not None)
    reuse_memory()
    folder = Path(checkpoint_dir) if checkpoint_dir is not None and world.rank == 0 else None
    telling = Telling(report, world)
    with ExitStack() as stack:
        notice = stack.enter_context(Notice())
        stack.enter_context(matmul_precision(settings.matmul_precision))
        saver = None
        if folder:
            stack.enter_context(only_writer(folder, telling.warn))
        if checkpoint_dir is not None:
            made_for = {"settings": settings.identity(), **(identity or {})}
            made_for |= {"start_from": start_from.name} if start_from else {}
            saver = Checkpoints(
                checkpoint_dir, identity=made_for, keep=settings.keep_checkpoints, say=telling.warn, world=world
            )
            stack.enter_context(saver)  # a training that is cut short leaves no thread that writes on
        return _fit(model, loader, settings, world, folder, saver, validate, telling, notice, start_from)


def _fit(
    model: nn.Module,
    loader: Loader,
    settings: FitSettings,
    world: World,
    folder: Path | None,
    saver: Checkpoints | None,
    validate: Callable[[Any], Mapping[str, float]] | None,
    telling: Telling,
    notice: Notice,
    start_from: Bundle | None,
) -> FitResult:
    """The loop itself; on rank 0 the checkpoint folder is locked."""
    # --- The same start on every rank
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = build_optimizers(model, settings)
    synchroniser, buffers = Synchroniser(model, world, settings.compression), Buffers(model, world)
    progress = resume(model, optimizers, saver, world, start_from)
    resumed_at = progress.step
    check_epochs(progress, settings, saver)
    synchroniser.load(progress.exchange)
    if progress.loader is not None:
        loader.load_state_dict(progress.loader)
    record = Record(folder, resumed_at=resumed_at, say=telling.warn) if folder else None
    telling.open_record(record, progress)
    steps_per_epoch = -(-loader.steps_per_epoch // settings.accumulate)
    steps_in_all = steps_per_epoch * settings.epochs
    meter = Meter(world, steps_in_all, progress.step, getattr(loader, "stats", None))
    best_weights: dict[str, Tensor] = {}
    due = _Due(settings.checkpoint_every_s if folder else None)  # rank 0's clock counts
    verb: Kind = "resume" if progress.step else "start"
    begun = f", from bundle {start_from.name}" if start_from and not progress.step else ""
    telling(verb, progress, f"{verb} at step {progress.step} of {steps_in_all}, {world.size} ranks{begun}")
    compute = Compute(model, settings, world, say=lambda text: telling("warning", progress, text))
    feed = Feed(loader, compute.device)

    # --- Train
    while progress.epoch < settings.epochs and not progress.out_of_patience(settings.early_stopping_patience):
        model.train()
        for batches in _groups(feed.epoch(progress.epoch), settings.accumulate, meter):
            seeds = [
                step_seed(settings.seed, progress.epoch, progress.step, world.rank, number)
                for number in range(len(batches))
            ]
            sums = compute(batches, seeds)
            with meter.waiting():
                feed.fetch()  # while the device computes
            loss, weight = sums.tolist()  # the only wait for the device before the gradients travel
            rows = sum(map(batch_size, batches))
            totals = synchroniser.synchronise(
                loss, weight, rows, stop=telling.pruned is not None, save=due(), leave=notice.given
            )
            if totals.stop:
                raise telling.pruned or Pruned("stopped by rank 0")
            norm = global_norm(synchroniser.shared, world, synchroniser.local)
            if totals.usable and norm < float("inf"):
                if settings.clip_norm is not None and norm > settings.clip_norm:
                    scale_gradients(parameters, settings.clip_norm / norm)
                if saver:
                    saver.before_update(used_rows(model))
                optimizers.set_rate(settings.rate(progress.step, steps_in_all))
                optimizers.step()
                progress.count(totals, compute.parts, skipped=False)
            else:
                progress.count(totals, compute.parts, skipped=totals.weight != 0)
                if totals.weight != 0:
                    telling("skipped", progress, f"step {progress.step} skipped: loss {totals.loss}, norm {norm}")
                    check_skipped(progress, settings, steps_in_all, totals.loss, norm)
            optimizers.zero_grad()
            meter.count(totals, compute.parts)
            buffers.count(rows)
            wanted = totals.save or totals.leave
            if saver and (wanted or progress.step % (settings.checkpoint_every_steps or progress.step + 1) == 0):
                buffers.share()
                progress.loader = feed.state_dict()
                saver.save(state_of(model, optimizers, synchroniser, progress))
                telling("checkpoint", progress, f"checkpoint at step {progress.step}")
            if totals.leave:
                leave(progress, steps_in_all, saver, world)
            if meter.seconds >= settings.report_every_s:
                rate = settings.learning_rate * settings.rate(progress.step - 1, steps_in_all)
                values = {**meter.read(progress.step), "learning_rate": rate}
                telling.progress(progress, settings, steps_in_all, values)

        # --- The epoch's end: validate, save, stop early
        buffers.share()
        metrics = _validate(model, validate, world)
        better = progress.end_epoch(metrics, settings.metric, settings.metric_mode)
        if saver:
            saver.save(state_of(model, optimizers, synchroniser, progress))
        elif better and validate:
            best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        telling.epoch(progress, meter.read_epoch())
        wishes = world.all_gather_object([telling.pruned is not None, notice.given])
        if any(stop for stop, _ in wishes):
            raise telling.pruned or Pruned("stopped by rank 0")
        if any(leave for _, leave in wishes) and progress.epoch < settings.epochs:
            leave(progress, steps_in_all, saver, world)

    # --- Leave the best weights, and nothing half written
    if saver:
        saver.wait()
    if validate and progress.best["epoch"] != progress.history[-1]["epoch"]:
        restore_best(model, best_weights, progress, saver, world, telling.warn)
    telling("end", progress, f"{progress.epoch} epochs, {progress.step} steps, loss {progress.history[-1]['loss']:.6g}")
    return FitResult(
        progress.step,
        progress.epoch,
        progress.history[-1]["loss"],
        progress.history,
        progress.best,
        progress.skipped,
        resumed_at,
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


def _validate(
    model: nn.Module, validate: Callable[[Any], Mapping[str, float]] | None, world: World
) -> dict[str, float]:
    if validate is None:
        return {}
    model.eval()
    with torch.no_grad():
        metrics = {name: float(value) for name, value in validate(model).items()}
    shared: dict[str, float] = world.broadcast_object(metrics)
    return shared
