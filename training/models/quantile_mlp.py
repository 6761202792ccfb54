"""A network for numbers to come, one or a panel's next steps: quantiles that do not cross, or a count's distribution.

    output = W . input + MLP(input), a few numbers a step      (training/models/inputs.py)
    head `quantile`:           scale * (first + sums of softplus(gaps)), one number a level; pinball loss
    head `negative_binomial`:  mean scale * exp(a), variance mean + softplus(b) * mean^2; its likelihood, and as answer
                               its quantiles, whole numbers

`scale` is a column that the label is in units of (what a series sells on the average), so that one network serves
series of any size. It is one number a row, which is an input too, or one a step, which is none: there a row to learn
from may say what was known later, such as how the shop as a whole went on. The pinball loss stays in the label's own
units: what is minimised is the weighted quantile loss.

Shape suffixes: B rows, H steps, Q levels.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from training.batch import Batch
from training.configs import ModelConfig, QuantileMlpConfig
from training.errors import SchemaError
from training.models.base import Model
from training.models.inputs import Inputs, WideAndDeep, matrix, only_label, only_weight
from training.schema import Schema
from training.tables.sharded import Tables

LEAST_SCALE = 1e-6
LEAST_DISPERSION = 1e-4
COUNTED = 1024  # counts below are summed up exactly, those above come from the gamma distribution of the same moments
LIFTED = 700.0  # log: the chance of no count at all is below a float's smallest number where counts lie near COUNTED
HALVINGS = 50


class QuantileMlp(Model):
    """The model of rows or panels whose label is a number; answers `quantiles` (batch, steps, levels).

    Reads all columns of the schema but times: of kind ID, IDS and DENSE (a number, or a fixed list) as input, the one
    of kind LABEL (a number, or a fixed list of steps), and that of kind WEIGHT if there is one, of a row or of each of
    its steps: a step that nobody knows yet has the weight 0, and any number as label.

    Raises:
        SchemaError: the schema has no label or several, several weights, a weight or a scale of another length, a list
            of numbers of any length, or nothing to learn from.
    """

    Config: ClassVar[type[ModelConfig]] = QuantileMlpConfig
    COMPILED: ClassVar[tuple[str, ...]] = ()  # its draws break a graph, and it is small

    config: QuantileMlpConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        label, weight = only_label(schema, "quantile_mlp"), only_weight(schema, "quantile_mlp")
        self._label, self._weight = label.name, weight.name if weight else None
        self.steps = label.length or 1
        if weight and weight.length not in (None, label.length):
            raise SchemaError(
                f"weight '{weight.name}' must be one number a row or one a step of '{label.name}', {self.steps}; it "
                f"has the length {weight.length}; give both the same"
            )
        scale = next((column for column in schema if column.name == self.config.scale), None)
        if scale is not None and (scale.ragged or scale.length not in (None, self.steps)):
            raise SchemaError(
                f"scale '{scale.name}' must be one number a row or one a step of '{label.name}', {self.steps}; it "
                f"has the length {scale.length}; give both the same"
            )
        self._scale = scale.name if scale else None
        known = [column for column in schema if column is not scale or scale.length is None]
        self.inputs = Inputs(Schema(tuple(known)), self.table, self.config.dim)
        if self.config.head == "quantile":  # those between nothing and twice the scale, all alike likely
            levels = self.config.levels
            start = [2 * levels[0], *(_softplus_inverse(2 * (high - low)) for low, high in pairwise(levels))]
        else:
            start = [0.0, _softplus_inverse(0.5)]
        self.network = WideAndDeep(self.inputs.width, self.config.hidden, self.config.dropout, start * self.steps)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        label_BH = matrix(batch[self._label])
        weight_BH = torch.ones_like(label_BH)
        if self._weight is not None:
            weight_BH = matrix(batch[self._weight]).expand_as(label_BH)
        output, scale = self._output(batch, generator)
        label_BH = torch.where(weight_BH > 0, label_BH, 0.0)
        if self.config.head == "quantile":
            each_BH = self._pinball(_quantiles(output, scale), label_BH)
        else:
            each_BH = _likelihood(*_moments(output, scale), label_BH)
        return (each_BH * weight_BH).sum(), weight_BH.sum()

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`quantiles` (batch, steps, levels), ascending; of counts `mean` (batch, steps) too."""
        output, scale = self._output(batch, None)
        if self.config.head == "quantile":
            return {"quantiles": _quantiles(output, scale)}
        mean_BH, dispersion_BH = _moments(output, scale)
        return {"quantiles": count_quantiles(mean_BH, dispersion_BH, self.config.levels), "mean": mean_BH.float()}

    def _output(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """(B, H, numbers a step) float32, and scale, (B, 1) or (B, H)."""
        rows = self.inputs(batch)
        flat: Any = self.network(rows, generator)
        output: Tensor = flat.float().unflatten(1, (self.steps, -1))
        if self._scale is None:
            return output, torch.full((len(rows), 1), self.config.unit, device=rows.device)
        return output, matrix(batch[self._scale]).clamp(min=LEAST_SCALE)

    def _pinball(self, quantiles_BHQ: Tensor, label_BH: Tensor) -> Tensor:
        """(B, H): the mean over levels."""
        levels = torch.tensor(self.config.levels, device=label_BH.device)
        error = label_BH[..., None] - quantiles_BHQ
        return torch.maximum(levels * error, (levels - 1) * error).mean(dim=2)


def _quantiles(output_BHQ: Tensor, scale: Tensor) -> Tensor:
    rising = torch.cat([output_BHQ[..., :1], F.softplus(output_BHQ[..., 1:])], dim=2).cumsum(dim=2)
    return rising * scale[..., None]


def _moments(output: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """(B, H) mean and dispersion, float64: differences of large log-gammas cancel in float32."""
    mean = scale.double() * torch.exp(output[..., 0].double().clamp(-15, 15))
    return mean, F.softplus(output[..., 1].double()) + LEAST_DISPERSION


def _likelihood(mean: Tensor, dispersion: Tensor, count: Tensor) -> Tensor:
    """Minus the log likelihood of counts, float32."""
    shape, count = 1 / dispersion, count.double()
    ways = torch.lgamma(count + shape) - torch.lgamma(shape) - torch.lgamma(count + 1)
    log_odds = torch.log(mean) - torch.log(shape)
    return -(ways + count * F.logsigmoid(log_odds) + shape * F.logsigmoid(-log_odds)).float()


@torch.no_grad()
def count_quantiles(mean: Tensor, dispersion: Tensor, levels: tuple[float, ...]) -> Tensor:
    """(..., levels) float32: the least count whose cumulative probability reaches a level, of negative binomials.

    Exact below 1,024. A quantile above is that of the gamma distribution with the same mean and variance, less than a
    count and .2 % away.

    Args:
        mean: any shape.
        dispersion: of the same shape; the variance is mean + dispersion * mean^2.
        levels: ascending.
    """
    mean, shape = mean.double(), 1 / dispersion.double()
    wanted = torch.tensor(levels, dtype=torch.float64, device=mean.device).expand(*mean.shape, len(levels))
    found = torch.full(wanted.shape, -1.0, dtype=torch.float64, device=mean.device)
    log_none = -shape * torch.log1p(mean / shape)
    lift = (-log_none).clamp(max=LIFTED)  # chances are walked through times its exponential
    chance, lifted = torch.exp(log_none + lift), wanted * torch.exp(lift)[..., None]
    growth, below = mean / (mean + shape), torch.zeros_like(mean)
    for count in range(COUNTED):
        below = below + chance
        found = torch.where((found < 0) & (below[..., None] >= lifted), float(count), found)
        if bool((found >= 0).all()):
            return found.float()
        chance = chance * growth * (count + shape) / (count + 1)
    variance = mean + mean**2 / shape
    large = _gamma_quantiles(mean**2 / variance, wanted) * (variance / mean)[..., None]
    return torch.where(found < 0, large.round().clamp(min=COUNTED), found).float()


def _gamma_quantiles(shape: Tensor, wanted: Tensor) -> Tensor:
    """Quantiles of gamma distributions of scale 1, by halving an interval."""
    shape = shape[..., None].expand_as(wanted)
    low = torch.zeros_like(wanted)
    high = shape + 40 * shape.sqrt() + 40  # beyond the level .999999 of any shape
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_below = torch.special.gammainc(shape, middle) < wanted
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return (low + high) / 2


def _softplus_inverse(value: float) -> float:
    return math.log(math.expm1(value))
