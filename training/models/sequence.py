"""Sequences: what a customer buys next, from all that was bought before, in its order.

    item vectors -> blocks (training/models/blocks.py) -> at each place a query; query . item vector = score

An example is a stretch of a customer's lines, and every line with something before it is a target: one pass over the
tokens learns from all of them. A line's query is the token of the last line that was known before the line's moment
(`history_before`): lines of one moment say nothing of each other, and a line that arrived late nothing of those before
its arrival. Item vectors are the same in the input and in the score.

Where the schema says something of items, an item's vector is its own and its content (training/models/content.py); one
that was not sold before the training cut is content alone and no candidate, as in two towers.

Shape suffixes: L lines of the batch, T tokens (lines that a query looks at), N targets, C candidates, U distinct items,
D dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.batch import Batch, Ragged
from training.configs import ModelConfig, SequenceConfig
from training.models.base import RetrievalModel, matrix_of
from training.models.blocks import BLOCKS, EPS, SasrecBlock, turns_of
from training.models.content import ItemContent, known_by_ids
from training.models.draws import dropped
from training.models.losses import draw_candidates, sampled_softmax, softmax_piece
from training.models.packed import packed
from training.schema import Schema
from training.tables.sharded import Tables, look_up

TOKENS_PIECE = 16_384  # of queries, that are encoded at a time: 90 MB at 64 dimensions


class Sequence(RetrievalModel):
    """The sequence model of the `recommend` task.

    Reads the columns history, history_age and history_before of a batch, and history_weight where the schema has it; a
    query needs the first two. Of a query's history every line is looked at. Lines of unknown items are passed over.
    Item features: `user_count`, purchases before the training cut: how often an item is a target; and what the schema
    says of items.

    Attributes:
        CAUSAL: whether a token looks at itself and those before it alone, or at all of its sequence.
    """

    Config: ClassVar[type[ModelConfig]] = SequenceConfig
    FEATURES: ClassVar[tuple[str, ...]] = ("user_count",)
    COMPILED: ClassVar[tuple[str, ...]] = ("_softmax_piece",)
    CAUSAL: ClassVar[bool] = True

    _softmax_piece = staticmethod(softmax_piece)

    config: SequenceConfig
    target_shares: Tensor

    def __init__(
        self,
        config: ModelConfig,
        schema: Schema,
        item_features: Mapping[str, Tensor] | None = None,
        tables: Tables | None = None,
    ) -> None:
        super().__init__(config, schema, item_features, tables)
        dim, block = self.config.dim, BLOCKS[self.config.blocks]
        items = cast(int, schema["history"].size)
        self.items = self.table("items", items, dim, std=dim**-0.5)
        self.content: ItemContent | None = None
        if schema.of_items:
            self.content = ItemContent(
                schema.of_items, items, dim, item_features, self.table, self.config.modality_dropout
            )
        self.has_weights = "history_weight" in schema
        self.blocks = nn.ModuleList(
            block(dim, self.config.heads, self.config.dropout) for _ in range(self.config.layers)
        )
        self.places = nn.Parameter(0.02 * torch.randn(self.config.places, dim)) if block is SasrecBlock else None
        self.norm = nn.LayerNorm(dim, EPS) if block is SasrecBlock else nn.RMSNorm(dim, EPS)
        counts = F.pad(self.item_features[1:, 0] + 1, (1, 0))  # add one, so that no item is thought impossible
        self.register_buffer("target_shares", counts / counts.sum())

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Sampled softmax of each line that is a target, weighted by what the line is worth."""
        history, days = cast(Ragged, batch["history"]), cast(Ragged, batch["history_age"]).values
        learnt = self._learnt(history, cast(Ragged, batch["history_before"]).values, generator)
        tokens = learnt.tokens
        candidates = draw_candidates(
            learnt.targets, self.target_shares, self.config.negatives, generator, self.config.batch_negatives
        )
        if self.content is not None:
            candidates = candidates.only(self._sold[candidates.items])
        ids = torch.cat([candidates.items, learnt.targets, history.values[tokens.kept]])
        distinct, where = torch.unique(ids, return_inverse=True)
        where_C, where_N, where_T = where.split([len(candidates.items), len(learnt.targets), int(tokens.offsets[-1])])
        items_UD = self._vectors(distinct, generator)
        drop = generator if self.training else None
        seen_TD = self._seen(items_UD[where_T], learnt)
        query_ND = self._encoded(seen_TD, -days[tokens.kept], tokens.offsets, drop)[learnt.queries]
        weight = self._weights(batch)[learnt.lines]
        loss = sampled_softmax(
            query_ND,
            items_UD[where_C],
            (query_ND * items_UD[where_N]).sum(dim=1),
            learnt.targets,
            candidates,
            weight,
            piece=self._softmax_piece,
        )
        return loss, weight.sum()

    def queries(self, batch: Batch) -> Tensor:
        items_TD, days, offsets = self._asked(batch)  # at once: each rank must ask sharded tables as often as others
        found = [self._next(items_TD[part], days[part], of_rows) for part, of_rows in _in_pieces(offsets)]
        return F.pad(torch.cat(found).float(), (0, 1), value=1.0)

    def _next(self, items_TD: Tensor, days: Tensor, offsets: Tensor) -> Tensor:
        """(rows, D): of each sequence, what comes next; 0 where it has no token."""
        encoded_TD = self._encoded(items_TD, days, offsets, None)
        none = encoded_TD.new_zeros(1, self.config.dim)
        return torch.cat([encoded_TD, none])[torch.where(offsets.diff() > 0, offsets[1:] - 1, len(encoded_TD))]

    def item_matrix(self) -> Tensor:
        """(items, D + 1): the last column is 0 but for the unknown item."""

        def rows(ids: Tensor) -> Tensor:
            return F.pad(self._vectors(ids, None), (0, 1))

        return matrix_of(rows, self.items.num_embeddings, self.config.dim, self.item_features.device)

    def _vectors(self, ids: Tensor, generator: torch.Generator | None) -> Tensor:
        """(U, D) of items, with what their content adds; in one exchange."""
        asked = [] if self.content is None else self.content.asked(ids)
        rows_UD, *of_content = look_up((self.items, ids), *((own.table, own.values) for own in asked))
        if self.content is None:
            return rows_UD
        own = known_by_ids(self._sold[ids], self.config.id_dropout if self.training else 0.0, generator)
        content_UD: Tensor = self.content(ids, asked, of_content, generator)
        return own.to(rows_UD) * rows_UD + content_UD

    @property
    def _sold(self) -> Tensor:
        """(items,) bool: sold to a customer before the training cut, so that there was something to learn."""
        return self.item_features[:, 0] > 0

    def _asked(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Of the known items of queries' histories: (T, D) vectors, (T,) times in days, (rows + 1,) offsets."""
        history, days = cast(Ragged, batch["history"]), cast(Ragged, batch["history_age"]).values
        tokens = tokens_of(history, history.values > 0)
        distinct, where = torch.unique(history.values[tokens.kept], return_inverse=True)
        return self._vectors(distinct, None)[where], -days[tokens.kept], tokens.offsets

    def _learnt(self, history: Ragged, known_before: Tensor, generator: torch.Generator | None) -> Learnt:  # noqa: ARG002
        """What a batch teaches; see `learnt_forwards`."""
        return learnt_forwards(history, known_before)

    def _seen(self, items_TD: Tensor, learnt: Learnt) -> Tensor:  # noqa: ARG002
        """(T, D): what blocks see of the tokens while training, of their item vectors."""
        return items_TD

    def _encoded(self, items_TD: Tensor, days: Tensor, offsets: Tensor, drop: torch.Generator | None) -> Tensor:
        """(T, D): what each token knows of itself and of those of its sequence that it looks at.

        Args:
            items_TD: the tokens' item vectors.
            days: (T,) their times.
            offsets: of the sequences.
            drop: generator of what is dropped, if anything is.
        """
        layout = packed(offsets, self.CAUSAL)
        x_TD = items_TD[layout.order] * self.config.dim**0.5
        if self.places is not None:
            x_TD = x_TD + self.places[(layout.length - 1 - layout.position).clamp(max=len(self.places) - 1)]
        x_TD = dropped(x_TD, self.config.dropout, drop)
        turns = turns_of(layout.position, days[layout.order], self.config.heads, self.config.dim // self.config.heads)
        for block in self.blocks:
            x_TD = block(x_TD, layout, turns, drop)
        return cast(Tensor, self.norm(x_TD))[layout.place]

    def _weights(self, batch: Batch) -> Tensor:
        """(L,): what each line is worth."""
        if self.has_weights:
            return cast(Ragged, batch["history_weight"]).values
        return torch.ones_like(cast(Ragged, batch["history_age"]).values)


class Tokens(NamedTuple):
    """The lines that are looked at.

    Attributes:
        kept: (L,) bool, which.
        before: (L + 1,) int64, how many of them come before each line of the batch, and before its end.
        offsets: (rows + 1,) int64, of each row's tokens.
    """

    kept: Tensor
    before: Tensor
    offsets: Tensor


class Learnt(NamedTuple):
    """What a batch teaches.

    Attributes:
        tokens: the lines that are looked at.
        lines: (N,) int64, the lines of the batch that are targets.
        targets: (N,) int64, their items.
        queries: (N,) int64, of each target the token whose sight it is predicted from.
    """

    tokens: Tokens
    lines: Tensor
    targets: Tensor
    queries: Tensor


def tokens_of(history: Ragged, kept: Tensor) -> Tokens:
    """The lines that are looked at, by whether each is."""
    before = F.pad(kept.cumsum(0), (1, 0))
    return Tokens(kept, before, before[history.offsets])


def learnt_forwards(history: Ragged, known_before: Tensor) -> Learnt:
    """Targets are known items with a known item before; lines that no target's query sees are no tokens.

    Args:
        history: the batch's lines.
        known_before: (L,) how many of a row's lines were known before each; below 0 of a line that is no target.
    """
    items, starts = history.values, history.offsets[:-1]
    row = torch.repeat_interleave(history.offsets.diff())
    known = tokens_of(history, items > 0)
    seen = starts[row] + known_before.long().clamp(min=0)  # where the lines end that its query sees
    lines = torch.nonzero((known_before > 0) & (items > 0) & (known.before[seen] > known.before[starts[row]]))[:, 0]
    last = starts.clone().scatter_reduce(0, row[lines], seen[lines], "amax")
    tokens = tokens_of(history, known.kept & (torch.arange(len(items), device=items.device) < last[row]))
    return Learnt(tokens, lines, items[lines], tokens.before[seen[lines]] - 1)


def _in_pieces(offsets: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The tokens of some whole rows at a time, about TOKENS_PIECE of them, and these rows' own offsets."""
    first, piece = 0, offsets[:-1] // TOKENS_PIECE
    for rows in torch.unique_consecutive(piece, return_counts=True)[1].tolist() or [0]:
        own = offsets[first : first + rows + 1]
        yield slice(int(own[0]), int(own[-1])), own - own[0]
        first += rows
