"""What stops a training before it begins, or in its midst, because it cannot go on."""

from __future__ import annotations

from torch import nn

from training.errors import CheckpointError, NonFiniteError, SettingsError
from training.models.base import Model
from training.settings import FitSettings
from training.state.checkpoint import Checkpoints
from training.state.progress import Progress
from training.step.buffers import check_running_statistics
from training.tables.sharded import sharded_tables
from training.world import World

OF_STEPS = ("accumulate", "clip_norm", "compression", "precision", "compile")


def check_settings(settings: FitSettings, model: nn.Module, *, has_validation: bool) -> None:
    """Before the folder is touched.

    Raises:
        SettingsError: the settings do not go together with the model, or with no validation.
    """
    if not has_validation and settings.metric != "loss":
        raise SettingsError(
            f"training.metric must be 'loss' where there is no validation; got '{settings.metric}'; give fit `validate`"
        )
    check_running_statistics(model)
    if isinstance(model, Model) and model.alternation(World()) is not None:
        _check_solved(settings)
    if settings.compile and sharded_tables(model):
        raise SettingsError(
            "training.compile must be false where tables are sharded: it is tried on one rank at a time, and a lookup "
            f"needs all of them; got true, with {', '.join(sharded_tables(model))} in shards; turn one of them off"
        )


def _check_solved(settings: FitSettings) -> None:
    """See that nothing is asked of steps where there are none."""
    asked = {name: getattr(settings, name) for name in OF_STEPS}
    plain = {name: FitSettings.model_fields[name].default for name in OF_STEPS}
    if others := [f"training.{name} = {value}" for name, value in asked.items() if value != plain[name]]:
        raise SettingsError(
            "a model that is solved takes no steps, so settings that say how these are computed must be left out; got "
            f"{', '.join(others)}; leave them out, or take another model.loss"
        )


def check_epochs(progress: Progress, settings: FitSettings, saver: Checkpoints | None) -> None:
    """Before anything is done.

    Raises:
        CheckpointError: the checkpoint has gone further than the settings ask for.
    """
    begun = progress.epoch + (progress.loader is not None)
    if saver and begun > settings.epochs:
        raise CheckpointError(
            f"training.epochs must be at least {begun}, for the checkpoint in '{saver.directory}' is from epoch "
            f"{begun}; got {settings.epochs}; ask for as many, or remove the folder to start afresh"
        )


def check_skipped(progress: Progress, settings: FitSettings, steps_in_all: int, loss: float, norm: float) -> None:
    """Stop where too many steps were skipped.

    Raises:
        NonFiniteError: more than the share of all steps that the settings allow.
    """
    if progress.skipped > settings.max_nonfinite_share * steps_in_all:
        raise NonFiniteError(
            f"at most {settings.max_nonfinite_share:.2%} of the {steps_in_all} steps may have a loss or gradient that "
            f"is not finite; {progress.skipped} had, the last with loss {loss} and gradient norm {norm}; lower the "
            "learning rates, clip the gradient (training.clip_norm), or look for NaN in the features"
        )
