"""Matrix factorisation: a customer and an item are a vector each, and their product is the score.

    query = own_share x customer + (1 - own_share) x W (mean of the history's items)
    score = cosine(query, item) / temperature, or their inner product over it; + popularity x log(item's share)

With an own share of 1 it is matrix factorisation by ids alone; less is SimpleX's customer (Mao et al. 2021). Cosines
need no weight decay, which a sparse table cannot have cheaply. Who has no vector of their own, or one that nothing
was learnt of, is answered by the history alone. With the loss `ials` the same vectors are solved by alternating least
squares (training/models/alternating.py); their inner product is the score as it is.

Examples are purchases, or stretches of a customer's purchases (`examples.form: sequences`), all of which are targets. A
stretch has one query, so that the sum over other items, where the work is, is formed once for all of its targets. Its
history is all of its lines, targets included (as in SimpleX); their order is not looked at.

Shape suffixes: B rows of the batch, N targets, C candidates, U distinct items of the batch, D dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.batch import Batch, Ragged
from training.configs import MatrixFactorisationConfig, ModelConfig
from training.errors import SettingsError
from training.models.alternating import Alternation, Weights
from training.models.base import RetrievalModel, matrix_of
from training.models.losses import Piece, draw_candidates, log_sum_piece, sampled_loss, softmax_piece
from training.models.pairs import bpr, cosine_contrastive
from training.schema import Schema
from training.tables.sharded import Tables, look_up
from training.world import World

# Shorter queries are taken as they are: customers begin at zero, where a direction would turn with the slightest step.
LEAST_LENGTH = 0.1
LEAST_SHARE = 1e-20  # of the unknown item, which has none


class _Targets(NamedTuple):
    """What a batch teaches.

    Attributes:
        items: (N,) int64.
        row: (N,) int64, of the batch.
        weight: (N,), 0 of unknown items.
    """

    items: Tensor
    row: Tensor
    weight: Tensor


class MatrixFactorisation(RetrievalModel):
    """A retrieval model of the `recommend` task.

    Reads the columns user, history, target and weight of a batch, and history_weight where the schema has it; of
    stretches user, history, history_weight and history_before. A query needs the user and the history. Item
    feature: `user_count`, purchases before the training cut: how often an item is a target.
    """

    Config: ClassVar[type[ModelConfig]] = MatrixFactorisationConfig
    FEATURES: ClassVar[tuple[str, ...]] = ("user_count",)
    COMPILED: ClassVar[tuple[str, ...]] = ("_piece",)

    config: MatrixFactorisationConfig
    target_shares: Tensor

    def __init__(
        self,
        config: ModelConfig,
        schema: Schema,
        item_features: Mapping[str, Tensor] | None = None,
        tables: Tables | None = None,
    ) -> None:
        super().__init__(config, schema, item_features, tables)
        dim = self.config.dim
        users, items = cast(int, schema["user"].size), cast(int, schema["history"].size)
        self.users = self.table("users", users, dim, padding_idx=0)
        self.items = self.table("items", items, dim, std=dim**-0.5)
        self.has_weights = "history_weight" in schema
        self.of_stretches = "history_before" in schema
        if self.of_stretches and self.config.loss != "softmax":
            raise SettingsError(
                f"model.loss must be softmax where examples are sequences; got '{self.config.loss}'; build with "
                "examples.form=purchases"
            )
        self.mix = nn.Linear(dim, dim, bias=False) if self._pools else nn.Identity()
        if isinstance(self.mix, nn.Linear):  # a history says at once what its items do
            nn.init.eye_(self.mix.weight)
        counts = F.pad(self.item_features[1:, 0] + 1, (1, 0))  # add one, so that no item is thought impossible
        self.register_buffer("target_shares", counts / counts.sum())
        self._piece = self._piece_of(items - 1)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The targets' losses against the candidates, by their weights; unknown targets weigh nothing.

        Raises:
            SettingsError: the factors are solved, and have no gradients.
        """
        if self.config.loss == "ials":
            raise SettingsError("model.loss must be one of gradients for a step; got 'ials', which `fit` solves")
        user, targets = cast(Tensor, batch["user"]), self._targets(batch)
        drawn_by = self._drawn_by(targets.items, generator)
        candidates = draw_candidates(drawn_by, self.target_shares, self.config.negatives, generator)
        history, worth = self._history(batch, (user == 0) | self._pools)
        distinct, where = torch.unique(
            torch.cat([candidates.items, targets.items, history.values]), return_inverse=True
        )
        where_C, where_N, where_history = where.split([len(candidates.items), len(targets.items), len(history.values)])
        users_BD, rows_UD = look_up((self.users, user), (self.items, distinct))
        items_UD = self._items(rows_UD, distinct)
        query_BD = F.pad(self._query(users_BD, rows_UD, Ragged(where_history, history.offsets), worth), (0, 1), value=1)
        logits_N = (query_BD.index_select(0, targets.row) * items_UD.index_select(0, where_N)).sum(dim=1)
        weight_B = targets.weight.new_zeros(len(user)).index_add(0, targets.row, targets.weight)
        logits_B = torch.zeros_like(weight_B).index_add(0, targets.row, logits_N * targets.weight)
        loss = sampled_loss(
            query_BD,
            items_UD[where_C],
            logits_B / torch.where(weight_B > 0, weight_B, 1.0),
            torch.zeros_like(user) if self.of_stretches else targets.items,
            candidates,
            weight_B,
            self._piece,
            exact=1,
        )
        if self.config.l2:
            lengths_N = users_BD.square().sum(1)[targets.row] + rows_UD[where_N].square().sum(1)
            loss = loss + self.config.l2 / 2 * (lengths_N * targets.weight).sum()
        return loss, targets.weight.sum()

    def alternation(self, world: World) -> Alternation | None:
        own = self.config
        if own.loss != "ials":
            return None
        return Alternation(
            self.users, self.items, Weights(own.unobserved_weight, own.l2, own.frequency_exponent), world
        )

    def queries(self, batch: Batch) -> Tensor:
        (users_BD,) = look_up((self.users, cast(Tensor, batch["user"])))
        history, worth = self._history(batch, ~users_BD.any(dim=1) | self._pools)
        distinct, where = torch.unique(history.values, return_inverse=True)
        (rows_UD,) = look_up((self.items, distinct))
        query_BD = self._query(users_BD, rows_UD, Ragged(where, history.offsets), worth)
        return F.pad(query_BD.float(), (0, 1), value=1.0)

    def item_matrix(self) -> Tensor:
        """(items, D + 1): the last column is an item's popularity."""

        def rows(ids: Tensor) -> Tensor:
            return self._items(look_up((self.items, ids))[0], ids)

        return matrix_of(rows, self.items.num_embeddings, self.config.dim, self.item_features.device)

    @property
    def _pools(self) -> bool:
        """Whether a customer is their history too."""
        return self.config.own_share < 1

    def _targets(self, batch: Batch) -> _Targets:
        if not self.of_stretches:
            target = cast(Tensor, batch["target"])
            row = torch.arange(len(target), device=target.device)
            return _Targets(target, row, cast(Tensor, batch["weight"]) * (target > 0))
        history, before = cast(Ragged, batch["history"]), cast(Ragged, batch["history_before"]).values
        taught = (before >= 0) & (history.values > 0)
        row = torch.repeat_interleave(history.offsets.diff())[taught]
        return _Targets(history.values[taught], row, cast(Ragged, batch["history_weight"]).values[taught])

    def _drawn_by(self, targets: Tensor, generator: torch.Generator | None) -> Tensor:
        """What is drawn by frequency beside the uniform draws.

        A row's own target is among the candidates whenever the batch's targets are; where it counts as they do, by its
        chance, others have to be drawn.
        """
        if self.config.loss != "softmax":
            return targets[:0]
        if not self.of_stretches or self.config.negatives >= len(self.target_shares) - 1:
            return targets
        device = targets.device if generator is None else generator.device
        drawn = torch.rand(self.config.negatives, dtype=torch.float64, generator=generator, device=device)
        up_to = self.target_shares.double().cumsum(0)  # torch.multinomial draws from 2^24 at most
        return torch.searchsorted(up_to, drawn.to(targets.device) * up_to[-1], right=True).clamp(max=len(up_to) - 1)

    def _piece_of(self, items: int) -> Piece:
        if self.of_stretches:
            return log_sum_piece
        if self.config.loss == "bpr":
            return bpr(items)
        if self.config.loss == "cosine_contrastive":
            return cosine_contrastive(items, self.config.margin, self.config.negative_weight)
        return softmax_piece

    def _history(self, batch: Batch, looked_at: Tensor) -> tuple[Ragged, Tensor]:
        """The known items of these rows' histories, and what they are worth.

        Args:
            looked_at: (B,) bool, the rows.
        """
        history = cast(Ragged, batch["history"])
        row = torch.repeat_interleave(history.offsets.diff())
        kept = (history.values > 0) & looked_at[row]
        offsets = F.pad(kept.cumsum(0), (1, 0))[history.offsets]
        values = history.values[kept]
        if self.has_weights:
            return Ragged(values, offsets), cast(Ragged, batch["history_weight"]).values[kept]
        return Ragged(values, offsets), self.target_shares.new_ones(len(values))

    def _query(self, users_BD: Tensor, rows_UD: Tensor, history: Ragged, worth: Tensor) -> Tensor:
        """(B, D) of customers' vectors and their histories, rows of `rows_UD`; a history may be empty."""
        row = torch.repeat_interleave(history.offsets.diff())
        total = worth.new_zeros(len(users_BD)).index_add(0, row, worth)
        pooled_BD = F.embedding_bag(
            history.values, rows_UD, history.offsets, mode="sum", per_sample_weights=worth, include_last_offset=True
        )
        pooled_BD = pooled_BD / torch.where(total > 0, total, 1.0)[:, None]
        history_share = 1 - self.config.own_share if self._pools else 1.0
        taste_BD: Tensor = self.config.own_share * users_BD + history_share * self.mix(pooled_BD)
        if self._cosines:
            taste_BD = F.normalize(taste_BD, dim=1, eps=LEAST_LENGTH)
        return taste_BD / self.config.temperature if self.config.loss in ("softmax", "bpr") else taste_BD

    def _items(self, rows_UD: Tensor, ids: Tensor) -> Tensor:
        """(U, D + 1)"""
        directions_UD = F.normalize(rows_UD, dim=1) if self._cosines else rows_UD
        prior_U = self.config.popularity * self.target_shares[ids].clamp(min=LEAST_SHARE).log()
        return torch.cat([directions_UD, prior_U[:, None]], dim=1)

    @property
    def _cosines(self) -> bool:
        """Whether a score is a cosine: a margin is of cosines, and what is solved is of products."""
        return self.config.loss == "cosine_contrastive" or (self.config.loss != "ials" and self.config.cosines)
