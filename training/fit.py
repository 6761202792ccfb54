"""Fitting a model: one call, the same on every rank. The loop itself is training/loop.py.

    result = fit(model, loader, FitSettings(epochs=3), world=World.current(), checkpoint_dir="out/checkpoints")

Call it with the same arguments on every rank. Where the folder has a checkpoint of this training it goes on from there,
with the same result as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from training.checks import check_settings
from training.data.memory import reuse_memory
from training.loop import FitResult, Loader, Training, Validate
from training.preemption import Notice
from training.settings import FitSettings, step_seed
from training.state.bundle import Bundle
from training.state.checkpoint import Checkpoints
from training.state.lock import only_writer
from training.step.device import matmul_precision
from training.watch.record import Event, Pruned
from training.watch.telling import Telling
from training.world import World

__all__ = ["Event", "FitResult", "FitSettings", "Loader", "Pruned", "fit", "step_seed"]


def fit(
    model: nn.Module,
    loader: Loader,
    settings: FitSettings,
    *,
    world: World,
    checkpoint_dir: str | None = None,
    validate: Validate | None = None,
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
        training = Training(
            model,
            loader,
            settings,
            world,
            folder=folder,
            saver=saver,
            validate=validate,
            telling=telling,
            notice=notice,
            start_from=start_from,
        )
        return training.run()
