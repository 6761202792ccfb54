"""Two towers: a customer is an embedding plus a time-decayed history, an item an embedding plus a bias that drifts.

    query = normalise(user + W [decayed mean of the history's items, log of its length])
    score = query . normalise(item) / temperature + bias(item, age)

Where the schema has `history_weight`, an item of the history counts so often as its weight says, in the mean and in the
length: what a view is worth beside a purchase.

Embeddings on the sphere with a temperature need no weight decay, which a sparse table cannot have cheaply. The bias is
a linear function of the item's log counts plus a learned residual, and for each of `drift_days` a further one that
fades with the row's age as exp(-age / days): rows of long ago are explained by what sold then, and a query as of now
(age 0) gets what sells now ("example age" of Covington et al. 2016). All of it is one inner product.

Where the schema says something of items, their attributes add to both (training/models/content.py):

    item = embedding + content        bias = prior of its log counts + residual + content's

An item that was not sold before the training cut is content alone, with the prior of a usual item; so are some of a
step's items while training, whichever they are (as in DropoutNet, Volkovs et al. 2017), so that content learns to stand
alone. What was not sold is no candidate: it could not be bought.

Shape suffixes: B rows of the batch, C candidates, U distinct items of the batch, D dim, K number of biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.batch import Batch, Ragged
from training.configs import ModelConfig, TwoTowerConfig
from training.models.base import RetrievalModel, matrix_of
from training.models.content import ItemContent, known_by_ids
from training.models.draws import uniform
from training.models.losses import draw_candidates, sampled_loss, softmax_piece
from training.models.pairs import bpr
from training.models.pooled import LENGTH_SCALE, PRIOR_WEIGHT, Lines, shares_of_lines
from training.schema import Schema
from training.tables.sharded import Table, Tables, look_up

LEAST_LENGTH = 0.1  # shorter content is taken as it is: it begins at zero, where a slight step would turn a direction


class _Added(NamedTuple):
    """What content makes of items.

    Attributes:
        own: 1 where an item's own rows count, 0 where it is content alone.
        biases: what is added to the biases.
    """

    own: Tensor
    biases: Tensor


class TwoTower(RetrievalModel):
    """The retrieval model of the `recommend` task.

    Reads the columns user, history, history_age, target, new, age and weight of a batch; a query needs the first three.
    One more, history_weight, finite and at least 0, is read and needed where the schema has it.
    Item features: `user_count` and `recent_count`, purchases before the training cut, in all and of late; and what the
    schema says of items.
    """

    Config: ClassVar[type[ModelConfig]] = TwoTowerConfig
    FEATURES: ClassVar[tuple[str, ...]] = ("user_count", "recent_count")
    COMPILED: ClassVar[tuple[str, ...]] = ("_piece",)  # the (B, C) part, where the time goes

    config: TwoTowerConfig
    target_shares: Tensor
    drift_days: Tensor
    usual_features: Tensor

    def __init__(
        self,
        config: ModelConfig,
        schema: Schema,
        item_features: Mapping[str, Tensor] | None = None,
        tables: Tables | None = None,
    ) -> None:
        super().__init__(config, schema, item_features, tables)
        dim, self.biases_each = self.config.dim, 1 + len(self.config.drift_days)
        users, items = cast(int, schema["user"].size), cast(int, schema["target"].size)
        # A user without rows stays at zero, the history alone; an item starts at the log of its count.
        self.users = self.table("users", users, dim, padding_idx=0)
        self.items = self.table("items", items, dim, std=dim**-0.5)
        self.biases = self.table("biases", items, self.biases_each)
        self.has_weights = "history_weight" in schema
        self.mix = nn.Linear(dim + 1, dim)
        self.feature_weights = nn.Linear(len(self.FEATURES), 1, bias=False)
        self.log_history_days = nn.Parameter(torch.tensor(self.config.history_days).log())
        counts = F.pad(self.item_features[1:, 0] + 1, (1, 0))  # add one, so that no item is thought impossible
        self.register_buffer("target_shares", counts / counts.sum())
        self.register_buffer("drift_days", torch.tensor(self.config.drift_days))
        self.content: ItemContent | None = None
        if schema.of_items:
            self.content = ItemContent(
                schema.of_items,
                items,
                dim + self.biases_each,
                item_features,
                self.table,
                self.config.modality_dropout,
            )
            sold = self._sold[:, None].float()
            usual = (torch.log1p(self.item_features) * sold).sum(dim=0) / sold.sum().clamp(min=1)
            self.register_buffer("usual_features", usual)
        others = items - 1
        if self.content is not None and not self.item_features.is_meta:  # unsold items are no candidates
            others = int(self._sold.sum())
        self._piece = bpr(others) if self.config.loss == "bpr" else softmax_piece
        nn.init.zeros_(self.feature_weights.weight)
        with torch.no_grad():
            self.feature_weights.weight[0, 0] = 1.0

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Each row's loss against the candidates, weighted by the row's weight, its age and whether it is a repeat."""
        target = cast(Tensor, batch["target"])
        history, days, worth = self._history(batch, generator)
        drawn_by = target if self.config.loss == "softmax" else target[:0]
        candidates = draw_candidates(drawn_by, self.target_shares, self.config.negatives, generator)
        if self.content is not None:
            candidates = candidates.only(self._sold[candidates.items])
        ids = torch.cat([candidates.items, target, history.values])
        distinct, where = torch.unique(ids, return_inverse=True)
        where_C, where_B, where_history = where.split([len(candidates.items), len(target), len(history.values)])
        asked = (self.users, cast(Tensor, batch["user"])), (self.biases, distinct)
        (users_BD, biases_UK), directions_UD, added = self._looked_up(distinct, generator, *asked)
        taste_BD = self._taste(users_BD, directions_UD, Ragged(where_history, history.offsets), days, worth, generator)
        query_BD = self._query(taste_BD, cast(Tensor, batch["age"]))
        items_UD = self._items(distinct, directions_UD, biases_UK, added)
        target_BD = items_UD[where_B]
        weight = self._row_weights(batch)
        loss = sampled_loss(
            query_BD,
            items_UD[where_C],
            (query_BD * target_BD).sum(dim=1),
            target,
            candidates,
            weight,
            self._piece,
            exact=self.biases_each,
        )
        return loss, weight.sum()

    def queries(self, batch: Batch) -> Tensor:
        history, days, worth = self._history(batch, None)
        distinct, where = torch.unique(history.values, return_inverse=True)
        (users_BD,), directions_UD, _ = self._looked_up(distinct, None, (self.users, cast(Tensor, batch["user"])))
        taste_BD = self._taste(users_BD, directions_UD, Ragged(where, history.offsets), days, worth, None)
        return self._query(taste_BD, taste_BD.new_zeros(len(taste_BD)))

    def shares(self, batch: Batch, vectors: Tensor) -> Tensor:
        history, days, worth = self._history(batch, None)
        distinct, where = torch.unique(history.values, return_inverse=True)
        (users_BD,), directions_UD, _ = self._looked_up(distinct, None, (self.users, cast(Tensor, batch["user"])))
        lines = Lines(Ragged(where, history.offsets), directions_UD, self._decay(days, worth), worth)
        known = shares_of_lines(lines, self.mix, users_BD, vectors[:, :, : self.config.dim])
        is_known = cast(Ragged, batch["history"]).values > 0
        return known.new_zeros(len(is_known), known.shape[1]).index_copy(0, is_known.nonzero()[:, 0], known)

    def item_matrix(self) -> Tensor:
        def rows(ids: Tensor) -> Tensor:
            (biases_UK,), directions_UD, added = self._looked_up(ids, None, (self.biases, ids))
            return self._items(ids, directions_UD, biases_UK, added)

        return matrix_of(rows, self.items.num_embeddings, self.config.dim, self.item_features.device)

    def _looked_up(
        self, ids: Tensor, generator: torch.Generator | None, *others: tuple[Table, Tensor]
    ) -> tuple[list[Tensor], Tensor, _Added | None]:
        """Rows of other tables, (U, D) directions of items, and what their content makes of them; in one exchange."""
        asked = [] if self.content is None else self.content.asked(ids)
        found = look_up(*others, (self.items, ids), *((own.table, own.values) for own in asked))
        besides, rows_UD, of_content = found[: len(others)], found[len(others)], found[len(others) + 1 :]
        if self.content is None:
            return besides, F.normalize(rows_UD, dim=1), None
        content_UD, biases_UK = self.content(ids, asked, of_content, generator).tensor_split([self.config.dim], dim=1)
        own = known_by_ids(self._sold[ids], self.config.id_dropout if self.training else 0.0, generator).to(rows_UD)
        directions_UD = F.normalize(own * rows_UD + content_UD, dim=1, eps=LEAST_LENGTH)
        return besides, directions_UD, _Added(own, biases_UK)

    @property
    def _sold(self) -> Tensor:
        """(items,) bool: sold to a customer before the training cut, so that there was something to learn."""
        return self.item_features[:, 0] > 0

    def _history(self, batch: Batch, generator: torch.Generator | None) -> tuple[Ragged, Tensor, Tensor]:
        """The known items of the history, thinned out while training, their ages in days, and what they are worth."""
        history, ages = cast(Ragged, batch["history"]), cast(Ragged, batch["history_age"])
        kept = history.values > 0
        if self.training and self.config.history_dropout > 0:
            kept = kept & (uniform(kept.shape, generator, kept.device) >= self.config.history_dropout)
        offsets = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])[history.offsets]
        days = ages.values[kept]
        worth = cast(Ragged, batch["history_weight"]).values[kept] if self.has_weights else torch.ones_like(days)
        return Ragged(history.values[kept], offsets), days, worth

    def _decay(self, days: Tensor, worth: Tensor) -> Tensor:
        return worth * torch.exp(-days / self.log_history_days.exp())

    def _taste(
        self,
        users_BD: Tensor,
        directions_UD: Tensor,
        history: Ragged,
        days: Tensor,
        worth: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """(B, D), on the sphere. `history` holds rows of `directions_UD`, `days` their ages, `worth` their weights."""
        decay = self._decay(days, worth)
        row = torch.repeat_interleave(history.offsets[1:] - history.offsets[:-1])
        total = decay.new_zeros(len(users_BD)).index_add(0, row, decay)
        length = worth.new_zeros(len(users_BD)).index_add(0, row, worth)
        pooled_BD = F.embedding_bag(
            history.values,
            directions_UD,
            history.offsets,
            mode="sum",
            per_sample_weights=decay,
            include_last_offset=True,
        )
        length_B1 = LENGTH_SCALE * torch.log1p(length)[:, None]
        pooled_BD = torch.cat([pooled_BD / (total + PRIOR_WEIGHT)[:, None], length_B1], dim=1)
        if self.training and self.config.dropout > 0:
            kept = uniform(pooled_BD.shape, generator, pooled_BD.device) >= self.config.dropout
            pooled_BD = pooled_BD * kept / (1 - self.config.dropout)
        return F.normalize(self.mix(pooled_BD) + users_BD, dim=1)

    def _query(self, taste_BD: Tensor, age: Tensor) -> Tensor:
        """(B, D + K): the taste, a one for the bias, and what is left of each drift at this age in days."""
        return torch.cat([taste_BD, torch.ones_like(age)[:, None], torch.exp(-age[:, None] / self.drift_days)], dim=1)

    def _items(self, ids: Tensor, directions_UD: Tensor, biases_UK: Tensor, added: _Added | None) -> Tensor:
        """(U, D + K): directions over the temperature, the bias, the drifting biases."""
        features = torch.log1p(self.item_features[ids])
        if added is not None:
            features = torch.where(added.own > 0, features, self.usual_features)
            biases_UK = added.own * biases_UK + added.biases
        with torch.autocast(features.device.type, enabled=False):  # as scoring adds it: it is the items' popularity
            prior = F.pad(self.feature_weights(features), (0, self.biases_each - 1))
        return torch.cat([directions_UD / self.config.temperature, biases_UK + prior], dim=1)

    def _row_weights(self, batch: Batch) -> Tensor:
        """(B,): a row whose target is unknown weighs nothing."""
        weight, age = cast(Tensor, batch["weight"]), cast(Tensor, batch["age"])
        repeat = torch.where(cast(Tensor, batch["new"]) > 0, 1.0, self.config.repeat_weight)
        return weight * repeat * torch.exp2(-age / self.config.half_life_days) * (cast(Tensor, batch["target"]) > 0)
