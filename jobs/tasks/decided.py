"""What tasks have in common that say yes or no of a row by a threshold: how they learn, and what is shown of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jobs.task import Headline

if TYPE_CHECKING:
    from training.schema import Schema
    from training.world import World

METRICS = ("auc", "average_precision")
SHOWN = ("loss", *METRICS)


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Fit a model of rows on this rank; rank 0 writes the bundle. `jobs.learn_spec.learn_spec` makes the spec."""
    from jobs.learning import fit_task, model_of_rows

    return fit_task(spec, world, make_model=model_of_rows, make_validation=validation, shown=SHOWN)


def validation(spec: Mapping[str, Any], columns: Schema, world: World) -> Callable[[Any], dict[str, float]] | None:
    """AUC and average precision of the rows held out, counted on each rank and added up; None where none is asked."""
    from jobs.validation import validation_of_probabilities

    return validation_of_probabilities(spec, columns, world, names=METRICS)


def headline(rows: str, decided: Mapping[str, str]) -> Headline:
    """How well rows are put in order and told apart, and how true the probabilities are.

    Args:
        rows: what they are, in the plural.
        decided: the metric of what the threshold decides, by what it is called.
    """
    return Headline(
        judged={"AUC": "auc", "average precision": "average_precision", **decided},
        beside={
            "precision": "precision",
            "recall": "recall",
            "log loss": "log_loss",
            "calibration error": "calibration_error",
            "predicted / actual": "predicted_to_actual",
        },
        rows=rows,
        lower=("log_loss", "calibration_error"),
    )
