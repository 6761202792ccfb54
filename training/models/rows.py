"""What the models of rows with labels of 0 and 1 share: the labels, their weights, the loss and the answer."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.batch import Batch
from training.configs import ModelConfig
from training.errors import SettingsError
from training.models.base import Model
from training.models.calibration import KNOTS, Calibration
from training.models.inputs import number_of_a_row, only_label, only_position, only_weight
from training.models.negatives import INVERSE_CHANCE, thinned
from training.row_configs import RowConfig
from training.schema import Schema
from training.tables.sharded import Tables

FEWEST_NEGATIVES = 30  # of a step, where most are left out
SURELY = 100.0  # the log-odds of a look at the first place: 1 in float32


class LabelModel(Model):
    """A model of rows with one label of 0 and 1, or several.

    Reads all columns of the schema but times: of kind ID, IDS and DENSE (a number, or a fixed list) as input, those of
    kind LABEL, and those of kind WEIGHT. What a batch's column INVERSE_CHANCE says is multiplied into the weights.

    Reads a column of kind POSITION too, if there is one. A place is no input of the network. What was shown at a place
    can have a label only where somebody looked there (Guo et al. 2019, PAL; Richardson et al. 2007):

        p = look(place) x attraction(row)

    with a look for each place, of which the first is 1. So the attraction is learned free of where rows were shown, and
    it is the answer where no place is given. A place that is not known counts as the first. All labels have the same
    looks: that somebody looked is one event, before any of them, and a rare label would tell too little of it.
    Calibration is of the product, as rows were shown.

    Attributes:
        labels: each label's weight column, if it has one, in the order of the schema.
        calibrations: what puts each label's log-odds right; none where the config asks for none.
        log_prior_odds: (labels,) of 1, as the loss counts rows; there with `logit_adjustment` alone, and no numbers
            until `set_priors` has them. Kept with the weights.
    """

    log_prior_odds: Tensor

    COMPILED: ClassVar[tuple[str, ...]] = ()  # its draws break a graph, and it is small

    config: RowConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        self.labels = self.labels_of(schema)
        place = only_position(schema)
        self._place = place.name if place else None
        if place:  # log-odds of a look at the second place and those below
            self.looks = nn.Parameter(torch.zeros(cast("int", place.size) - 2))
        knots = KNOTS.get(self.config.calibration)
        self.calibrations = nn.ModuleList(Calibration(knots) for _ in self.labels if knots)
        if self.config.logit_adjustment:
            self.register_buffer("log_prior_odds", torch.full((len(self.labels),), math.nan))

    @classmethod
    @abstractmethod
    def labels_of(cls, schema: Schema) -> dict[str, str | None]:
        """The labels that it learns, and the column that each one's weights are in.

        Raises:
            SchemaError: they are not such as it learns from.
        """

    @abstractmethod
    def own_logits(self, batch: Batch, generator: torch.Generator | None) -> list[Tensor]:
        """(batch,) of each label, the network's own; what is dropped is drawn from the generator, nothing without."""

    def logits(self, batch: Batch, generator: torch.Generator | None) -> list[Tensor]:
        """(batch,) of each label as it is learnt: its own, and with `logit_adjustment` the prior's beside it (Menon et
        al. 2021), which then stands where `start_logit` did."""
        return self.as_learnt(self.own_logits(batch, generator), batch)

    def as_learnt(self, own: list[Tensor], batch: Batch) -> list[Tensor]:
        """What `logits` makes of the network's own."""
        config = self.config
        if config.logit_adjustment:
            priors = config.logit_adjustment * self.log_prior_odds
            own = [logit + prior for logit, prior in zip(own, priors, strict=True)]
        return [self._where_shown(logit, batch) for logit in own]

    def set_priors(self, ones: Tensor, zeros: Tensor) -> None:
        """Say how often labels are 1: (labels,) sums of the weights of all rows of 1, and of 0, all above 0."""
        odds = self.config.positive_weight * ones.double() / zeros.double()
        self.log_prior_odds.copy_(odds.log())

    def sums(self, batch: Batch, generator: torch.Generator | None) -> list[tuple[Tensor, Tensor]]:
        """Of each label the weighted sum of its losses, and the sum of its weights."""
        logits = self.logits(batch, generator if self.training else None)
        return [
            yes_or_no_loss(logit, cast("Tensor", batch[label]), self.weight(batch, label), self.config)
            for label, logit in zip(self.labels, logits, strict=True)
        ]

    def _where_shown(self, logit: Tensor, batch: Batch) -> Tensor:
        """(batch,) log-odds of a look and an attraction, of those of the attraction; what a row with label 1 counts is
        in both."""
        if self._place is None or self._place not in batch:
            return logit
        counts = math.log(self.config.positive_weight)
        sure = F.pad(self.looks, (2, 0), value=SURELY)
        place, logit = cast("Tensor", batch[self._place]), logit.float()
        both = F.logsigmoid(logit - counts) + F.logsigmoid(sure[place])
        seen = both - torch.log(-torch.expm1(both.clamp(max=-1e-7))) + counts
        return torch.where(place > 1, seen, logit)  # a look at the first is sure

    def weight(self, batch: Batch, label: str) -> Tensor:
        """(batch,) of a label's rows."""
        own = self.labels[label]
        weight = torch.ones_like(cast("Tensor", batch[label])) if own is None else cast("Tensor", batch[own])
        return weight * cast("Tensor", batch[INVERSE_CHANCE]) if INVERSE_CHANCE in batch else weight

    def log_odds(self, batch: Batch) -> list[Tensor]:
        """(batch,) of each label, before calibration: what `focal` and `positive_weight` did to the odds is taken
        out."""
        return self._counted_alike(self.logits(batch, None))

    def _counted_alike(self, logits: list[Tensor]) -> list[Tensor]:
        config = self.config
        found = [unfocused(logit, config.focal) for logit in logits] if config.focal else logits
        return [log_odds - math.log(config.positive_weight) for log_odds in found]

    def probabilities(self, batch: Batch) -> list[Tensor]:
        """(batch,) of each label: that it is 1, as if all rows counted alike."""
        return self.calibrated(self.logits(batch, None))

    def calibrated(self, logits: list[Tensor]) -> list[Tensor]:
        """The `probabilities` that logits stand for."""
        found = self._counted_alike(logits)
        if self.calibrations:
            found = [own(log_odds) for own, log_odds in zip(self.calibrations, found, strict=True)]
        return [torch.sigmoid(log_odds).float() for log_odds in found]


def thinning(model: Model, batch_size: int) -> Callable[[Batch, NDArray[np.int64], int], Batch] | None:
    """The loader's transform that leaves out the negatives that a model of rows is not to learn from, if any.

    Raises:
        SettingsError: so few would be left in a step that its mean says little of all: a step without any has ones
            alone, and probabilities would be several times too high.
    """
    if not isinstance(model, LabelModel) or model.config.negatives_kept == 1:
        return None
    share = model.config.negatives_kept
    if share * batch_size < FEWEST_NEGATIVES:
        raise SettingsError(
            f"model.negatives_kept must leave {FEWEST_NEGATIVES} negatives of a step or more, and {share:g} of "
            f"{batch_size:,} rows leaves {share * batch_size:.3g}; set it to {FEWEST_NEGATIVES / batch_size:.2g} or "
            "more, or a larger training.batch_size"
        )
    return partial(thinned, labels=tuple(model.labels), share=share)


class RowModel(LabelModel):
    """A model of rows with one label; answers `p`, the label's probability.

    Raises:
        SchemaError: the schema has no label or several, several weights, a label or a weight that is a list, a list of
            numbers of any length, or nothing to learn from.
    """

    @classmethod
    def labels_of(cls, schema: Schema) -> dict[str, str | None]:
        label, weight = only_label(schema, cls.__name__), only_weight(schema, cls.__name__)
        for column in (label, weight):
            if column is not None:
                number_of_a_row(column, cls.__name__)
        return {label.name: None if weight is None else weight.name}

    @abstractmethod
    def logit(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        """(batch,) log-odds at the first place; what is dropped is drawn from the generator, nothing without one."""

    def own_logits(self, batch: Batch, generator: torch.Generator | None) -> list[Tensor]:
        return [self.logit(batch, generator)]

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return self.sums(batch, generator)[0]

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`p` (batch,): the probability that the label is 1, at the place that the batch has, else at the first."""
        return {"p": self.probabilities(batch)[0]}


def yes_or_no_loss(logit: Tensor, label: Tensor, weight: Tensor, config: RowConfig) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross entropies, or focal losses (Lin et al. 2017), of (batch,), and the sum of weights."""
    weight = weight * torch.where(label > 0.5, config.positive_weight, 1.0)
    each = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
    if config.focal:
        missed = -torch.expm1(-each)  # of a row that is surely right, 0: a root's slope there is no number
        each = each * missed.clamp(min=1e-12) ** config.focal
    return (each * weight).sum(), weight.sum()


def unfocused(logit: Tensor, power: float) -> Tensor:
    """The log-odds of a label whose expected focal loss is least at a logit: they lie further out than the logit
    (Charoenphakdee et al. 2021, "On focal loss for class-posterior probability estimation").

    With q = sigmoid(logit) the slope of the loss is 0 where the odds are

        (q / (1 - q))^power x (q - power (1 - q) log (1 - q)) / (1 - q - power q log q)

    Args:
        logit: (batch,)
        power: of the focal loss.
    """
    exact = logit.double()
    q, rest = torch.sigmoid(exact), torch.sigmoid(-exact)
    of_one = torch.log(q + power * rest * F.softplus(exact))
    of_zero = torch.log(rest + power * q * F.softplus(-exact))
    return (power * exact + of_one - of_zero).to(logit.dtype)
