"""What every model is: a module with a loss, made from its config (training/configs.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.batch import Batch
from training.configs import ModelConfig
from training.errors import SchemaError, SettingsError
from training.models.alternating import Alternation
from training.parts import Loss
from training.schema import Schema
from training.tables.sharded import Tables
from training.world import World

UNKNOWN_BIAS = -1e4  # far below every score, yet exact in bfloat16's range
MATRIX_PIECE = 65_536  # items whose rows are read at a time


class Model(nn.Module, ABC):
    """A network with its loss; `fit` needs nothing else of it. To answer rows it has `predict` as well.

    A model is built from its config and the schema, so that a bundle's JSON rebuilds it before its weights are loaded.
    Everything drawn at random while training comes from the generator that `loss` is given.

    Embedding tables come from `table(name, rows, dimension, std=...)`, whole or sharded as the training wants it. A
    lookup in a sharded table is a collective: `loss` and `queries` make the same lookups in the same order whatever the
    batch holds, nothing included, and read no table's `weight` directly. `training.tables.sharded.look_up` asks several
    tables in one exchange.

    Attributes:
        COMPILED: the methods that `training.compile` hands to torch.compile. Worth naming are those that only compute:
            a generator, or an operation whose result's size depends on the data (unique, masks), breaks the graph.
        table: makes the model's tables.
    """

    Config: ClassVar[type[ModelConfig]]
    COMPILED: ClassVar[tuple[str, ...]] = ("loss",)

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__()
        self.config = config
        self.schema = schema
        self.table = tables or Tables()

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> Loss:
        """Weighted sum of the rows' losses and the sum of their weights, both scalars; or parts of that by name.

        Sums, so that ranks with unequal rows reduce to the global mean exactly. A batch of no rows gives 0 and 0, and
        gradients of zero. Parts (`training.parts.Part`) are for heads whose rows or weights are not the same: each has
        its own global mean. They cost ranks one more small exchange a step.
        """

    def alternation(self, world: World) -> Alternation | None:  # noqa: ARG002
        """What solves the model's tables, where it is not trained by gradients; `fit` then asks for no `loss`."""
        return None

    def predict(self, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Named answers, each (batch, ...) float32: what rows and panels are scored with. Optional.

        The same names whatever the batch holds, no rows included; labels and weights are not looked at and may be
        missing. Called in eval mode. A model for lists answers by `RetrievalModel.queries` instead.

        Raises:
            SettingsError: the model does not answer rows.
        """
        raise SettingsError(
            f"model.name must be a model that answers rows; {type(self).__name__} has no `predict`; take another "
            "model, or give it one"
        )


def matrix_of(rows: Callable[[Tensor], Tensor], items: int, bias_at: int, device: torch.device) -> Tensor:
    """(items, D), read in pieces; the unknown item's row is 0 but for a bias far below every score.

    Args:
        rows: ids to their rows (n, D).
        items: how many there are, the unknown one included.
        bias_at: the column that queries have 1 in.
        device: where the rows are.
    """
    pieces = [rows(ids) for ids in torch.split(torch.arange(items, device=device), MATRIX_PIECE)]
    matrix = torch.cat(pieces)
    unknown = torch.zeros_like(matrix[:1])
    unknown[0, bias_at] = UNKNOWN_BIAS
    return torch.cat([unknown, matrix[1:]])


class RetrievalModel(Model):
    """A model whose score is an inner product, so that an index can find the top items.

    Attributes:
        FEATURES: the per-item columns that the model wants, of the catalogue as of the training cut.
        item_features: (items, features) float32, kept with the weights, so that scoring needs no table.
    """

    FEATURES: ClassVar[tuple[str, ...]] = ()
    item_features: Tensor

    def __init__(
        self,
        config: ModelConfig,
        schema: Schema,
        item_features: Mapping[str, Tensor] | None = None,
        tables: Tables | None = None,
    ) -> None:
        """Build the model; no features leaves them zero, for weights that are loaded afterwards.

        Raises:
            SchemaError: a feature is missing, or is not one finite number per item of the vocabulary.
        """
        super().__init__(config, schema, tables)
        items = schema["history"].size or 1
        given = {} if item_features is None else {name: item_features.get(name) for name in self.FEATURES}
        for name, values in given.items():
            if values is None or values.shape != (items,) or not bool(torch.isfinite(values).all()):
                found = "nothing" if values is None else f"shape {tuple(values.shape)}, or NaN among them"
                raise SchemaError(
                    f"item feature '{name}' must be {items} finite numbers, one per index of the items' vocabulary; "
                    f"got {found}; build the catalogue and the examples from the same vocabulary"
                )
        columns = [values.float() for values in given.values() if values is not None] or [torch.zeros(items)] * len(
            self.FEATURES
        )
        self.register_buffer("item_features", torch.stack(columns, dim=1) if columns else torch.zeros(items, 0))

    @abstractmethod
    def queries(self, batch: Batch) -> Tensor:
        """(batch, dim) float32: one query a row, from the user and the history; the target is not looked at."""

    @abstractmethod
    def item_matrix(self) -> Tensor:
        """(items, dim) float32: `queries @ item_matrix.T` is the score. Row 0, the unknown item, scores below all.

        Whole on every rank, since ranking needs all of it; read from the tables in pieces.
        """

    def shares(self, batch: Batch, vectors: Tensor) -> Tensor:  # noqa: ARG002
        """What each line of each row's history adds to its scores. Optional.

        Args:
            batch: as for `queries`.
            vectors: (B, C, dim) of each row some rows of the item matrix.

        Returns:
            (lines, C): a line of an unknown item adds 0. Over all lines they add up to the scores, less those without
            a history.

        Raises:
            SettingsError: the model's scores cannot be split so.
        """
        raise SettingsError(
            f"only a model that pools a history can say what each line of it adds; {type(self).__name__} cannot: "
            "explain with a bundle of model.name two_tower"
        )
