"""How sure a model of texts in classes may be, and what it takes for in scope: from validation rows, after training.

Imports no Spark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from jobs.held_out import added_up, refuse_rows_that_were_learnt
from training.errors import SettingsError
from training.schema import Kind, Schema

if TYPE_CHECKING:
    from training.batch import Batch
    from training.data.snapshot import Snapshot
    from training.models.base import Model
    from training.models.text_classes import TextClasses
    from training.world import World

Sums = npt.NDArray[np.float64]

TEMPERATURES = 2.0 ** np.linspace(-4, 4, 129)
CELLS, LIMIT = 4_096, 64.0  # of log-odds, from -LIMIT to LIMIT
LEAST_ROWS = 30  # of a kind, to choose by


@dataclass(frozen=True)
class ClassCalibrator:
    """Sets a model's temperature and threshold by rows that it does not learn from.

    Attributes:
        model: on its device, the same on every rank.
        held_out: the rows.
        columns: the model's.
        world: the ranks.
    """

    model: TextClasses
    held_out: Snapshot
    columns: Schema
    world: World

    def check(self) -> None:
        """See that the rows are enough, before anything is learnt.

        Raises:
            SettingsError: there are too few with a class.
        """
        label = Schema(tuple(column for column in self.columns if column.kind is Kind.LABEL))
        found = 0.0
        if self.held_out.rows:
            found = float(added_up(self.held_out, label, self.world, self._with_class, 1, "rows with a class")[0])
        if found < LEAST_ROWS:
            raise SettingsError(
                f"model.calibration=temperature needs {LEAST_ROWS} validation rows that have a class; there are "
                f"{found:,.0f}; raise examples.validation_days and build the examples again, or set "
                "model.calibration=none"
            )

    def calibrate(self, _: Callable[[str], None]) -> dict[str, dict[str, float]]:
        """Set the model's temperature and threshold.

        Returns:
            `confidence`: rows with a class, the temperature, and their log loss without and with it; `scope`: rows
            without a class, the threshold, and the shares of both kinds that it takes for in scope.
        """
        import torch

        self.model.eval()
        width = len(TEMPERATURES) + 2 * CELLS
        found = added_up(self.held_out, self.columns, self.world, self._counted, width, "rows by confidence")
        losses, (outside, inside) = found[: len(TEMPERATURES)], found[len(TEMPERATURES) :].reshape(2, CELLS)
        best = int(np.argmin(losses))
        cell = threshold_cell(inside, outside, self.model.config.kept)
        threshold = -LIMIT + cell * (2 * LIMIT / CELLS)
        self.model.temperature.copy_(torch.tensor(TEMPERATURES[best]))
        self.model.threshold.copy_(torch.tensor(threshold))
        rows, others = float(inside.sum()), float(outside.sum())
        return {
            "confidence": {
                "rows": rows,
                "temperature": float(TEMPERATURES[best]),
                "log_loss_before": float(losses[len(TEMPERATURES) // 2] / rows),
                "log_loss_after": float(losses[best] / rows),
            },
            "scope": {
                "rows_without_class": others,
                "threshold": threshold,
                "kept": float(inside[cell:].sum() / rows),
                "taken_in_without_class": float(outside[cell:].sum() / others) if others else 0.0,
            },
        }

    def _with_class(self, batch: Batch) -> Sums:
        return np.asarray([float((self.model.labels(batch) > 0).sum())])

    def _counted(self, batch: Batch) -> Sums:
        """Log losses of rows with a class by temperature; rows without one, and with one, by log-odds of the scope."""
        import torch
        from torch.nn.functional import cross_entropy

        from training.batch import to_device
        from training.models.text_classes import scope

        with torch.no_grad():
            logits = self.model.logits(to_device(batch, self.model.temperature.device)).cpu().double()
        label = self.model.labels(batch)
        has_class = label > 0
        own, target = logits[has_class][:, 1:], label[has_class] - 1
        losses = [float(cross_entropy(own / of, target, reduction="sum")) for of in TEMPERATURES]
        cells = ((scope(logits).numpy() + LIMIT) * (CELLS / (2 * LIMIT))).clip(0, CELLS - 1).astype(np.int64)
        counts = [np.bincount(cells[of], minlength=CELLS) for of in (~has_class.numpy(), has_class.numpy())]
        return np.concatenate([losses, *counts]).astype(np.float64)


def threshold_cell(inside: Sums, outside: Sums, kept: float) -> int:
    """The cell from which on rows are in scope.

    The highest that keeps a share of those with a class; where there are enough without one, that of those up to it
    at which the share of the one kept less the share of the other taken in is largest.

    Args:
        inside: (cells,) rows with a class, by rising log-odds.
        outside: (cells,) those without one.
        kept: the share.
    """
    stay = np.cumsum(inside[::-1])[::-1] / inside.sum()
    highest = int(np.flatnonzero(stay >= kept)[-1])
    if outside.sum() < LEAST_ROWS:
        return highest
    taken_in = np.cumsum(outside[::-1])[::-1] / outside.sum()
    return int(np.argmax((stay - taken_in)[: highest + 1]))


def calibrator_of_classes(
    spec: Mapping[str, Any], model: Model, columns: Schema, world: World, open_queries: Callable[[], Snapshot]
) -> ClassCalibrator | None:
    """What calibrates a model of classes once it has learnt, checked; None where that is not asked for, or nothing
    published; arguments as for `jobs.held_out.calibrator_of`.

    Raises:
        SettingsError: there are no such rows, or too few.
    """
    from training.models.text_classes import TextClasses

    if not isinstance(model, TextClasses) or model.config.calibration == "none" or spec["bundle_dir"] is None:
        return None
    refuse_rows_that_were_learnt(spec)
    calibrator = ClassCalibrator(model, open_queries(), columns, world)
    calibrator.check()
    return calibrator
