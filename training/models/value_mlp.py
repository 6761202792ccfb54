"""A network for what a customer does in the days to come: whether they order, for how much, and how often.

    output = W . input + MLP(input), four numbers a row        (training/models/inputs.py)
    p              = sigmoid(first)                            that there is an order at all
    amount, if any:  log(amount / scale) ~ Normal(second, softplus(third)^2)
    count, if any:   1 + Poisson(exp(fourth))

Zeros and amounts together are the zero-inflated lognormal of Wang, Liu and Miao 2019, "A deep probabilistic model for
customer lifetime value prediction"; answered are the means. `scale` is a column that amounts are in units of, such as
what a customer's orders were worth so far, so that the network learns a ratio.
"""

from __future__ import annotations

import math
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from training.batch import Batch
from training.configs import ModelConfig
from training.errors import SchemaError
from training.models.inputs import Inputs, WideAndDeep, number_of_a_row, only_weight
from training.models.rows import LabelModel, yes_or_no_loss
from training.parts import Part
from training.row_configs import ValueMlpConfig
from training.schema import Kind, Schema
from training.tables.sharded import Tables

LEAST_SCALE, LEAST_SIGMA = 1e-6, 0.01
LARGEST = 15.0  # of a logarithm: e^15 orders, or times the scale, are nobody's
BETWEEN = 0.8
START = (0.0, math.log(math.expm1(1.0)), -1.0)  # before training: amounts as before, e.g. within a factor of e


class ValueMlp(LabelModel):
    """A model of rows whose labels are, in the schema's order, whether (0 or 1), how much, and how often.

    Answers `p`, `amount` and `count`, (batch,) each: the probability, and the two means, zeros among them; and
    `amount_low` and `amount_high`, between which the amount lies in BETWEEN of all cases: the zero-inflated lognormal's
    own quantiles, as true as it is. Amounts of 0 and less teach nothing of amounts. The loss has a part for each label.

    Raises:
        SchemaError: the schema has not three labels, or a label or a weight that is a list, several weights, a list of
            numbers of any length, or nothing to learn from.
    """

    Config: ClassVar[type[ModelConfig]] = ValueMlpConfig

    config: ValueMlpConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        self._event, self._amount, self._count = _labels(schema)
        self._scale = next((column.name for column in schema if column.name == self.config.scale), None)
        self.inputs = Inputs(schema, self.table, self.config.dim)
        start = [self.config.first_logit, *START]
        self.network = WideAndDeep(self.inputs.width, self.config.hidden, self.config.dropout, start)

    @classmethod
    def labels_of(cls, schema: Schema) -> dict[str, str | None]:
        """The first label alone is 0 or 1."""
        weight = only_weight(schema, cls.__name__)
        if weight is not None:
            number_of_a_row(weight, cls.__name__)
        return {_labels(schema)[0]: None if weight is None else weight.name}

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Part]:
        output = self._output(batch, generator if self.training else None)
        [logit] = self.as_learnt([output[:, 0]], batch)
        came, weight = cast("Tensor", batch[self._event]), self.weight(batch, self._event)
        amount, count = cast("Tensor", batch[self._amount]), cast("Tensor", batch[self._count])
        paid, ordered = weight * (amount > 0), weight * (count > 0)
        ratio = torch.log(torch.where(amount > 0, amount, 1.0) / self._unit(batch))
        mean, sigma = _moments(output)
        of_amount = torch.log(sigma) + ((ratio - mean) / sigma).square() / 2
        more = output[:, 3].clamp(max=LARGEST)
        of_count = torch.exp(more) - (count - 1) * more
        return {
            self._event: Part(*yes_or_no_loss(logit, came, weight, self.config)),
            self._amount: Part((of_amount * paid).sum(), paid.sum()),
            self._count: Part((of_count * ordered).sum(), ordered.sum()),
        }

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`p`, `amount`, `amount_low`, `amount_high` and `count` (batch,)."""
        output = self._output(batch, None)
        [p] = self.calibrated(self.as_learnt([output[:, 0]], batch))
        mean, sigma = _moments(output)
        ratio = torch.exp((mean + sigma.square() / 2).clamp(max=LARGEST))
        count = 1 + torch.exp(output[:, 3].clamp(max=LARGEST))
        unit = self._unit(batch)
        low, high = (_quantile(at, p, mean, sigma) * unit for at in ((1 - BETWEEN) / 2, (1 + BETWEEN) / 2))
        return {"p": p, "amount": p * ratio * unit, "amount_low": low, "amount_high": high, "count": p * count}

    def own_logits(self, batch: Batch, generator: torch.Generator | None) -> list[Tensor]:
        return [self._output(batch, generator)[:, 0]]

    def _output(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        """(batch, 4) float32."""
        return cast("Tensor", self.network(self.inputs(batch), generator)).float()

    def _unit(self, batch: Batch) -> Tensor:
        """What amounts are in units of: (batch,), or 1."""
        if self._scale is None:
            return torch.ones(())
        return cast("Tensor", batch[self._scale]).clamp(min=LEAST_SCALE)


def _moments(output: Tensor) -> tuple[Tensor, Tensor]:
    """(batch,) mean and standard deviation of an amount's logarithm."""
    return output[:, 1], F.softplus(output[:, 2]) + LEAST_SIGMA


def _quantile(at: float, p: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    """The amount, in its units, that is not passed with this probability: 0 where so many have none."""
    of_paying = (at - (1 - p)) / p
    amount = torch.exp((mean + sigma * torch.special.ndtri(of_paying.clamp(1e-6, 1 - 1e-6))).clamp(max=LARGEST))
    return torch.where(of_paying > 0, amount, 0.0)


def _labels(schema: Schema) -> tuple[str, str, str]:
    labels = [column for column in schema if column.kind is Kind.LABEL]
    if len(labels) != 3:
        raise SchemaError(
            "value_mlp needs three labels, whether, how much and how often; the schema has the labels "
            f"{[label.name for label in labels]}; take another model, or other columns"
        )
    for label in labels:
        number_of_a_row(label, "value_mlp")
    event, amount, count = (label.name for label in labels)
    return event, amount, count
