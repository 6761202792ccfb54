"""Sequences that are read both ways: hidden lines are predicted from all others (BERT4Rec, Sun et al. 2019).

While training a share of a stretch's targets is hidden behind one vector, and each is predicted from the lines before
and after it. A query is such a hidden line after the last one. So lines of one moment, and those that were known later,
do tell of each other here while training; what is asked of the model lies after all of them.

Shape suffixes: T tokens, D dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.batch import Ragged
from training.configs import Bert4RecConfig, ModelConfig
from training.models.draws import uniform
from training.models.sequence import Learnt, Sequence, tokens_of
from training.schema import Schema
from training.tables.sharded import Tables


class Bert4Rec(Sequence):
    """The sequence model that looks both ways; it reads what `Sequence` reads."""

    Config: ClassVar[type[ModelConfig]] = Bert4RecConfig
    CAUSAL: ClassVar[bool] = False

    config: Bert4RecConfig

    def __init__(
        self,
        config: ModelConfig,
        schema: Schema,
        item_features: Mapping[str, Tensor] | None = None,
        tables: Tables | None = None,
    ) -> None:
        super().__init__(config, schema, item_features, tables)
        self.hidden = nn.Parameter(self.config.dim**-0.5 * torch.randn(self.config.dim))  # as long as an item's vector

    def _next(self, items_TD: Tensor, days: Tensor, offsets: Tensor) -> Tensor:
        lengths = offsets.diff()
        longer = offsets + torch.arange(len(offsets), device=lengths.device)  # a hidden line more each
        place = torch.arange(len(days), device=lengths.device) + torch.repeat_interleave(lengths)
        count = len(days) + len(lengths)
        seen_TD = self.hidden.expand(count, -1).index_copy(0, place, items_TD)
        times = days.new_zeros(count).index_copy(0, place, days)
        return self._encoded(seen_TD, times, longer, None)[longer[1:] - 1]

    def _learnt(self, history: Ragged, known_before: Tensor, generator: torch.Generator | None) -> Learnt:
        """Lines that may be targets are hidden by chance; of a stretch in which none is, the last one."""
        items, offsets = history.values, history.offsets
        row = torch.repeat_interleave(offsets.diff())
        tokens = tokens_of(history, items > 0)
        may_be = tokens.kept & (known_before >= 0)
        is_hidden = may_be & (uniform(items.shape, generator, items.device) < self.config.masked)
        number = torch.arange(len(items), device=items.device)
        nothing = torch.full_like(offsets[1:], -1)
        hidden = torch.zeros_like(nothing).index_add(0, row, is_hidden.long())
        last = nothing.scatter_reduce(0, row[may_be], number[may_be], "amax")
        lines = torch.nonzero(is_hidden | ((hidden[row] == 0) & (number == last[row])))[:, 0]
        return Learnt(tokens, lines, items[lines], tokens.before[lines])

    def _seen(self, items_TD: Tensor, learnt: Learnt) -> Tensor:
        return items_TD.index_copy(0, learnt.queries, self.hidden.expand(len(learnt.queries), -1))
