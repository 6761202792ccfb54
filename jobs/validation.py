"""A model judged after an epoch by what it predicts of held-out rows, each rank its share. Imports no Spark."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, cast

from jobs.pinned import place
from training.schema import Kind, Schema

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from training.batch import Batch
    from training.world import World

    Validate = Callable[[Any], dict[str, float]]


def validation_of_rows(
    spec: Mapping[str, Any],
    columns: Schema,
    world: World,
    *,
    width: int,
    sums: Callable[[Mapping[str, Tensor], Batch], npt.NDArray[np.float64]],
    finish: Callable[[npt.NDArray[np.float64]], dict[str, float]],
) -> Validate | None:
    """Judge a model by what it predicts of the side table `queries`, each rank its share; None where none is asked.

    Args:
        spec: from `jobs.learn_spec.learn_spec`.
        columns: of the queries.
        world: the ranks.
        width: of the sums.
        sums: (what the model predicts of a batch, on the CPU; the batch) -> sums that add up over batches and ranks.
        finish: all sums -> metrics.
    """
    import torch

    from jobs.held_out import added_up
    from training.batch import to_device
    from training.data.snapshot import open_snapshot

    if not spec["validate"]:
        return None
    held_out = open_snapshot(**place(spec, "queries"), columns=columns.names, world=world)

    @torch.no_grad()
    def validate(model: Any) -> dict[str, float]:
        device = next(model.parameters()).device

        def of_batch(batch: Batch) -> npt.NDArray[np.float64]:
            found = model.predict(to_device(batch, device))
            return sums({name: value.cpu() for name, value in found.items()}, batch)

        return finish(added_up(held_out, columns, world, of_batch, width, "validation metrics"))

    return validate


def validation_of_probabilities(
    spec: Mapping[str, Any], columns: Schema, world: World, *, names: Collection[str]
) -> Validate | None:
    """Judge a model by the probabilities that it gives to the queries' labels; None where none is asked.

    Of one label that is `p`; of several `p_LABEL` of each, and metrics of those after the first have its name behind
    them, as in `auc_cart`.

    Args:
        spec, columns, world: as for `validation_of_rows`.
        names: of the metrics that are wanted, of `training.metrics.probabilities.Binary`.
    """
    import numpy as np

    from training.metrics.probabilities import Binary

    metric, labels = Binary(), [column.name for column in columns if column.kind is Kind.LABEL]
    answers = ["p"] if len(labels) == 1 else [f"p_{label}" for label in labels]

    def sums(found: Mapping[str, Tensor], batch: Batch) -> npt.NDArray[np.float64]:
        each = [
            metric.sums(found[answer].numpy(), cast("Tensor", batch[label]).numpy())
            for answer, label in zip(answers, labels, strict=True)
        ]
        return np.concatenate(each)

    def finish(sums: npt.NDArray[np.float64]) -> dict[str, float]:
        return {
            name if label == labels[0] else f"{name}_{label}": value
            for label, own in zip(labels, np.split(sums, len(labels)), strict=True)
            for name, value in metric.finish(own).items()
            if name in names
        }

    return validation_of_rows(spec, columns, world, width=metric.width * len(labels), sums=sums, finish=finish)
