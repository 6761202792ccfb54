"""What the models of rows with a label of 0 and 1 share: the label, the weights, the loss and the answer."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.batch import Batch
from training.configs import ModelConfig
from training.models.base import Model
from training.models.inputs import only_label, only_position, only_weight
from training.row_configs import RowConfig
from training.schema import Schema
from training.tables.sharded import Tables

SURELY = 100.0  # the log-odds of a look at the first place: 1 in float32


class RowModel(Model):
    """A model of rows with a label of 0 and 1; answers `p`, the label's probability.

    Reads all columns of the schema but times: of kind ID, IDS and DENSE (a number, or a fixed list) as input, the one
    of kind LABEL, and those of kind WEIGHT and POSITION if there are such.

    A place (POSITION) is no input of the network. What was shown at a place can have the label only where somebody
    looked there (Guo et al. 2019, PAL; Richardson et al. 2007):

        p = look(place) x attraction(row)

    with a look for each place, of which the first is 1. So the attraction is learned free of where rows were shown, and
    it is the answer where no place is given. A place that is not known counts as the first.

    Raises:
        SchemaError: the schema has no label or several, or a list of numbers of any length, or nothing to learn from.
    """

    COMPILED: ClassVar[tuple[str, ...]] = ()  # its draws break a graph, and it is small

    config: RowConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        self._label, weight = only_label(schema, type(self).__name__).name, only_weight(schema)
        self._weight = weight.name if weight else None
        place = only_position(schema)
        self._place = place.name if place else None
        if place:  # log-odds of a look at the second place and those below
            self.looks = nn.Parameter(torch.zeros(cast("int", place.size) - 2))

    @abstractmethod
    def logit(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        """(batch,) log-odds of the label; what is dropped is drawn from the generator, and nothing is without one."""

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        logit = self.logit(batch, generator if self.training else None)
        label = cast("Tensor", batch[self._label])
        weight = torch.ones_like(label) if self._weight is None else cast("Tensor", batch[self._weight])
        return yes_or_no_loss(self._where_shown(logit, batch), label, weight, self.config)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`p` (batch,): the probability that the label is 1, as if all rows counted alike.

        It is that at the row's place where the batch has it, else at the first.
        """
        return {"p": probability(self._where_shown(self.logit(batch, None), batch), self.config)}

    def _where_shown(self, logit: Tensor, batch: Batch) -> Tensor:
        """(batch,) log-odds of a look and an attraction, of those of the attraction; what a row with label 1 counts is
        in both."""
        if self._place is None or self._place not in batch:
            return logit
        counts = math.log(self.config.positive_weight)
        sure = F.pad(self.looks, (2, 0), value=SURELY)
        both = F.logsigmoid(logit - counts) + F.logsigmoid(sure[cast("Tensor", batch[self._place])])
        return both - torch.log(-torch.expm1(both.clamp(max=-1e-7))) + counts


def yes_or_no_loss(logit: Tensor, label: Tensor, weight: Tensor, config: RowConfig) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross entropies, or focal losses (Lin et al. 2017), of (batch,), and the sum of weights."""
    weight = weight * torch.where(label > 0.5, config.positive_weight, 1.0)
    each = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
    if config.focal:
        missed = -torch.expm1(-each)  # of a row that is surely right, 0: a root's slope there is no number
        each = each * missed.clamp(min=1e-12) ** config.focal
    return (each * weight).sum(), weight.sum()


def probability(logit: Tensor, config: RowConfig) -> Tensor:
    """(batch,) that the label is 1; what `positive_weight` added to the odds is taken out."""
    return torch.sigmoid(logit - math.log(config.positive_weight))
