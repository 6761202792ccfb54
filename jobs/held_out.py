"""What the rows of a side table add up to, and what a training takes from such sums: priors of labels, from all its
examples, before it; calibration, from rows of `queries` that it does not learn from, after it.

Imports no Spark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from training.errors import SettingsError
from training.schema import Kind, Schema

ROWS = 4096  # a rank's batch
NUMBERS = 1 << 22  # of its pictures: at 224 x 224 x 3 those of 27, of which a network makes some 200 MB
LEAST_GAIN = 2.0  # in likelihood, over the share of ones as everyone's answer: less comes by chance one time in 20

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from training.batch import Batch
    from training.data.snapshot import Snapshot
    from training.models.base import Model
    from training.models.rows import LabelModel
    from training.world import World

    Sums = npt.NDArray[np.float64]


def added_up(
    table: Snapshot, columns: Schema, world: World, sums: Callable[[Batch], Sums], width: int, what: str
) -> Sums:
    """The sums of all rows, each rank counting its share; the same on every rank.

    Args:
        table: the rows.
        columns: what is read of them.
        world: the ranks.
        sums: of a batch, (width,).
        width: of the sums.
        what: they are, for messages.
    """
    import torch

    from training.data.loader import Loader

    total, rank, size = torch.zeros(width, dtype=torch.float64), world.rank, world.size
    with Loader(table, columns, batch_size=rows_of(columns), seed=0, rank=rank, world_size=size) as loader:
        for batch in loader.epoch(0):
            total += torch.from_numpy(sums(batch))
    return world.all_reduce_sum(total, what).numpy()


def rows_of(columns: Schema) -> int:
    """How many rows a rank asks a model of at once: as many as their pictures allow."""
    numbers = sum(math.prod(column.shape) for column in columns if column.shape is not None)
    return min(ROWS, max(1, NUMBERS // max(1, numbers)))


@dataclass(frozen=True)
class Calibrator:
    """Puts the answers of a model of rows right by rows that it does not learn from.

    Attributes:
        model: on its device, the same on every rank.
        held_out: the rows.
        columns: the model's.
        world: the ranks.
    """

    model: LabelModel
    held_out: Snapshot
    columns: Schema
    world: World

    def check(self) -> None:
        """See that the rows are enough, before anything is learnt.

        Raises:
            SettingsError: a label has too few rows of 0, or of 1.
        """
        from training.metrics.calibration import LEAST_ROWS

        method, labels = self.model.config.calibration, list(self.model.labels)
        told = _told(self.columns)
        counts = [0.0] * (2 * len(labels))
        if self.held_out.rows:
            counts = added_up(self.held_out, told, self.world, self._counts, len(counts), "rows by label").tolist()
        few = [
            f"'{label}' has {counts[2 * place]:,.0f} of 1 and {counts[2 * place + 1]:,.0f} of 0"
            for place, label in enumerate(labels)
            if min(counts[2 * place : 2 * place + 2]) < LEAST_ROWS[method]
        ]
        if few:
            raise SettingsError(
                f"model.calibration={method} needs {LEAST_ROWS[method]} validation rows of each label, 0 and 1; "
                f"{', '.join(few)}; raise examples.validation_days and build the examples again, or set "
                "model.calibration=none"
            )

    def calibrate(self, warn: Callable[[str], None]) -> dict[str, dict[str, float]]:
        """Set the model's calibrations.

        Args:
            warn: is told where a label's rows say nothing of the model's order.

        Returns:
            by label: the weight of the rows and of those of 1, and their log loss before, after, and with their share
            of ones as everyone's answer.
        """
        import numpy as np
        import torch

        from training.metrics import calibration as lines

        self.model.eval()
        fit = {"platt": lines.platt, "isotonic": lines.isotonic}[self.model.config.calibration]
        width = lines.WIDTH * len(self.model.labels)
        found = added_up(self.held_out, self.columns, self.world, self._cells, width, "rows by log-odds")
        measured = {}
        for label, own, sums in zip(
            self.model.labels, self.model.calibrations, found.reshape(-1, lines.WIDTH), strict=True
        ):
            knots = torch.from_numpy(fit(sums))
            own.knots = knots.to(cast("torch.Tensor", own.knots).device)
            with torch.no_grad():
                after = own(torch.from_numpy(lines.MIDDLES).to(own.knots.device)).cpu().numpy()
            weight, ones = float(sums.sum()), float(sums[: lines.CELLS].sum())
            of_share = lines.log_loss(sums, np.full(lines.CELLS, np.log(ones / (weight - ones))))
            found_after = lines.log_loss(sums, after)
            measured[label] = {
                "rows": weight,
                "positives": ones,
                "log_loss_before": lines.log_loss(sums),
                "log_loss_after": found_after,
                "log_loss_of_share": of_share,
            }
            if weight * (of_share - found_after) < LEAST_GAIN:
                warn(
                    f"calibration: the model's order of '{label}' is no better than chance on the {weight:,.0f} "
                    f"validation rows: all answers become nearly the share of ones, {ones / weight:.3g}"
                )
        return measured

    def _counts(self, batch: Batch) -> Sums:
        """(2 x labels,) rows of 1 and of 0 that weigh anything."""
        import torch

        held = []
        for label in self.model.labels:
            is_one, counts = cast("torch.Tensor", batch[label]) > 0.5, self.model.weight(batch, label) > 0
            held += [(is_one & counts).sum(), (~is_one & counts).sum()]
        return torch.stack(held).double().numpy()

    def _cells(self, batch: Batch) -> Sums:
        import numpy as np
        import torch

        from training.batch import to_device
        from training.metrics.calibration import counted

        with torch.no_grad():
            given = self.model.log_odds(to_device(batch, next(self.model.parameters()).device))
        parts = [
            counted(log_odds.cpu(), cast("torch.Tensor", batch[label]), self.model.weight(batch, label))
            for label, log_odds in zip(self.model.labels, given, strict=True)
        ]
        return np.concatenate(parts)


def set_priors(model: Model, examples: Snapshot, columns: Schema, world: World) -> None:
    """Tell a model that adjusts its logits how often its labels are 1 among all examples; nothing to any other.

    One more pass over them, of labels and weights alone.

    Raises:
        SettingsError: rows of a label are all 0, or all 1.
    """
    import torch

    from training.models.rows import LabelModel

    if not isinstance(model, LabelModel) or not model.config.logit_adjustment:
        return

    def weights(batch: Batch) -> Sums:
        held = []
        for label in model.labels:
            weight, is_one = model.weight(batch, label).double(), cast("torch.Tensor", batch[label]) > 0.5
            held.append(torch.stack([weight[is_one].sum(), weight[~is_one].sum()]))
        return torch.cat(held).numpy()

    sums = added_up(examples, _told(columns), world, weights, 2 * len(model.labels), "rows by label").reshape(-1, 2)
    if one_sided := [label for label, own in zip(model.labels, sums.tolist(), strict=True) if min(own) <= 0]:
        raise SettingsError(
            f"model.logit_adjustment={model.config.logit_adjustment:g} needs examples of each label, 0 and 1; those "
            f"that weigh anything are all alike in {', '.join(one_sided)}; set it to 0, or learn from other days"
        )
    model.set_priors(*torch.from_numpy(sums).unbind(1))


def _told(columns: Schema) -> Schema:
    """Labels and weights alone."""
    return Schema(tuple(column for column in columns if column.kind in (Kind.LABEL, Kind.WEIGHT)))


def refuse_rows_that_were_learnt(spec: Mapping[str, Any]) -> None:
    """See that there are rows to calibrate by, and that the training leaves them out.

    Raises:
        SettingsError: there are none, or it learns from them.
    """
    tables = spec["tables"]
    splits = [tables[name]["splits"] if name in tables else [] for name in ("queries", "examples")]
    if splits[0] != ["validation"] or "validation" in splits[1]:
        raise SettingsError(
            f"model.calibration={spec['model']['calibration']} needs validation rows that the training leaves out; it "
            f"learns from {' + '.join(splits[1])}, and what is held out is {' + '.join(splits[0]) or 'nothing'}; set "
            "model.calibration=none"
        )


def calibrator_of(
    spec: Mapping[str, Any], model: Model, columns: Schema, world: World, open_queries: Callable[[], Snapshot]
) -> Calibrator | None:
    """What calibrates the model once it has learnt, checked; None where that is not asked for, or nothing published.

    Raises:
        SettingsError: there are no such rows, or too few.
    """
    from training.models.rows import LabelModel

    if not isinstance(model, LabelModel) or not model.calibrations or spec["bundle_dir"] is None:
        return None
    refuse_rows_that_were_learnt(spec)
    calibrator = Calibrator(model, open_queries(), columns, world)
    calibrator.check()
    return calibrator
