"""Texts: words and pairs of neighbours with weights, which the words about them shift; a label that is yes or no.

    share of a word = SCALE (weight e^turn + push + half of the weights of both its pairs) / sqrt(words of the text)
    turn, push      = W relu(what the vectors of the word and of those up to `reach` places away give)
    logit           = start + the sum of all shares

At the start nothing is turned or pushed: it is a logistic regression of words and pairs. What is learnt beside that is
what a neighbour does to a word ("not", "too", "wanted to"), also where the two never stood together. As the logit is a
sum over words, what each of them says is exact and needs no further pass.

Shape suffixes: B texts, N words of all of them, D dim, H hidden.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.batch import Batch, Ragged
from training.configs import ModelConfig
from training.errors import DataError
from training.models.draws import dropped
from training.models.rows import RowModel
from training.row_configs import WordWeightsConfig
from training.schema import Schema
from training.tables.sharded import Tables, look_up

SCALE = 5.0  # a weight is so many times the number in its table: one learning rate then suits weights and vectors
START_STD = 0.1  # of the words' vectors
MOST_TURN = 2.0  # a weight is multiplied by e^2 at most, and by e^-2 at least


class WordWeights(RowModel):
    """A model of texts. Reads `words` and `pairs`, lists of one length: a word's place has its pair with the next."""

    Config: ClassVar[type[ModelConfig]] = WordWeightsConfig

    config: WordWeightsConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        words, pairs = (cast("int", schema[name].size) for name in self.config.READS)
        dim, hidden = self.config.dim, self.config.hidden
        self.vectors = self.table("vectors", words, dim, std=START_STD, padding_idx=0)
        self.weights = self.table("weights", words, 1, padding_idx=0)
        self.pair_weights = self.table("pair_weights", pairs, 1, padding_idx=0)
        self.near = nn.Linear((2 * self.config.reach + 1) * dim, hidden)
        self.shift = nn.Linear(hidden, 2)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.shift.bias)
        self.start = nn.Parameter(torch.tensor([self.config.first_logit]))

    def logit(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        shares_N, row_N = self._shares(batch, generator)
        texts = len(cast("Ragged", batch["words"]).offsets) - 1
        return self.start + shares_N.new_zeros(texts).index_add(0, row_N, shares_N)

    def shares(self, batch: Batch) -> Tensor:
        """(N,) what each word adds to the log-odds that the network itself gives a text: without `start`, and before
        what weights, priors and calibration make of them."""
        return self._shares(batch, None)[0]

    def _shares(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """(N,) float32 shares, and (N,) the text of each word."""
        words, pairs = (cast("Ragged", batch[name]) for name in self.config.READS)
        _refuse_unequal(words, pairs)
        asked = ((self.vectors, words.values), (self.weights, words.values), (self.pair_weights, pairs.values))
        vectors_ND, weight_N1, pair_N1 = look_up(*asked)
        lengths = words.offsets.diff()
        row_N = torch.repeat_interleave(lengths)
        vectors_ND = dropped(vectors_ND, self.config.dropout, generator)
        hidden_NH = torch.relu(self._about(vectors_ND, words.offsets, row_N))
        turn_N, push_N = self.shift(dropped(hidden_NH, self.config.dropout, generator)).float().unbind(1)
        half_N = pair_N1.float().squeeze(1) / 2
        is_first_N = row_N != F.pad(row_N, (1, 0), value=-1)[:-1]
        before_N = F.pad(half_N, (1, 0))[:-1].masked_fill(is_first_N, 0.0)
        own_N = weight_N1.float().squeeze(1) * torch.exp(turn_N.clamp(-MOST_TURN, MOST_TURN))
        told_N = own_N + push_N / SCALE + half_N + before_N
        return SCALE * told_N * lengths.clamp(min=1).rsqrt()[row_N], row_N

    def _about(self, vectors_ND: Tensor, offsets: Tensor, row_N: Tensor) -> Tensor:
        """(N, H) of each word what it and its neighbours give: a convolution, without filling texts up to a length."""
        reach, own_N = self.config.reach, torch.arange(len(row_N), device=row_N.device)
        filled = torch.cat([vectors_ND, vectors_ND.new_zeros(1, vectors_ND.shape[1])])
        found: Tensor = self.near.bias
        for away, part_HD in zip(range(-reach, reach + 1), self.near.weight.chunk(2 * reach + 1, dim=1), strict=True):
            place_N = own_N + away
            there_N = (place_N >= offsets[row_N]) & (place_N < offsets[row_N + 1])
            found = found + filled[torch.where(there_N, place_N, len(row_N))] @ part_HD.T
        return found


def _refuse_unequal(words: Ragged, pairs: Ragged) -> None:
    if not torch.equal(words.offsets, pairs.offsets):
        differing = int((words.offsets.diff() != pairs.offsets.diff()).nonzero()[0])
        held = [int(lists.offsets.diff()[differing]) for lists in (words, pairs)]
        raise DataError(
            f"words and pairs must be lists of one length, a pair for each word; row {differing} of a batch has "
            f"{held[0]} words and {held[1]} pairs; build the examples again"
        )
