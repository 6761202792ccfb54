"""The contract of every stage: which columns a table has, what they mean, how large they are.

A schema is written by `build_examples`, checked by the reader, kept in the bundle and checked again when scoring. It is
data (JSON), so an old bundle scores with the schema that it carries. This module knows neither Spark nor torch.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from training.errors import SchemaError

# The fields that every fingerprint holds. One that comes later counts only where it is not its default, so that the
# schemas of old bundles and checkpoints keep their fingerprints.
_FIRST = {"name", "kind", "vocabulary", "size", "length", "ragged", "fill"}


class Kind(enum.StrEnum):
    """What a column means, and thereby its type in a batch."""

    ID = "id"  # int64 vocabulary index; 0 is unknown
    IDS = "ids"  # ragged list of int64 vocabulary indices
    DENSE = "dense"  # float32: a scalar, a fixed list (`length`) or a ragged list
    TEXT = "text"  # string
    IMAGE = "image"  # binary
    LABEL = "label"  # float32, a scalar or a fixed list (`length`), as the steps of a panel; NaN and null are refused
    WEIGHT = "weight"  # float32, finite and >= 0: of a row, or a fixed list (`length`), of each of its steps
    TIME = "time"  # int64 microseconds since 1970-01-01 UTC
    POSITION = "position"  # int64 place, from 1, at which a row was shown; 0 is not known; asked without, as at 1


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: the column's name in the table and in a batch.
        kind: what it means.
        vocabulary: for ids: the vocabulary's name; columns that name the same one share an embedding table.
        size: for ids and positions: number of indices, the unknown index 0 included; values must lie in [0, size).
        length: for dense, label and weight: the length of a fixed list; None is a scalar. For ids of an item: how many
            places its list has, 0 where it has fewer.
        ragged: for dense: a list of any length.
        fill: the value that replaces null in scalars and in lists' elements; None refuses null.
        of_item: whether it says something of an item, in the catalogue, and is no column of rows and batches.
        shape: for images: height, width and channels of pixels, a byte each, row by row; None: bytes of any kind.
        weighed_by: for ids of an item: the column of items, of as many places, by whose ids it is learnt what each of
            its values counts; None: all count alike.
    """

    name: str
    kind: Kind
    vocabulary: str | None = None
    size: int | None = None
    length: int | None = None
    ragged: bool = False
    fill: float | int | None = None
    of_item: bool = False
    shape: tuple[int, int, int] | None = None
    weighed_by: str | None = None

    def __post_init__(self) -> None:
        is_id = self.kind in (Kind.ID, Kind.IDS)
        if is_id and (not self.vocabulary or not self.size or self.size < 1):
            raise SchemaError(
                f"column '{self.name}' of kind {self.kind} needs a vocabulary and a size of at least 1 (0 is unknown); "
                f"got vocabulary={self.vocabulary!r}, size={self.size!r}"
            )
        if self.kind is Kind.POSITION and (self.size or 0) < 2:
            raise SchemaError(
                f"column '{self.name}' of kind {self.kind} needs a size: the number of places, and one; got {self.size}"
            )
        if self.ragged and self.length is not None:
            raise SchemaError(
                f"column '{self.name}' cannot be ragged and have the fixed length {self.length}; drop one"
            )
        if self.shape is not None and (self.kind is not Kind.IMAGE or len(self.shape) != 3 or min(self.shape) < 1):
            raise SchemaError(
                f"column '{self.name}' of kind {self.kind} has the shape {self.shape}; an image alone has one, which "
                "is height, width and channels, each 1 or more"
            )

    @property
    def is_ragged(self) -> bool:
        return self.kind is Kind.IDS or self.ragged


@dataclass(frozen=True)
class Schema:
    """An ordered set of columns: those of rows, which it iterates over and finds by name, and those of items."""

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SchemaError(f"column names must be unique; these stand twice: {', '.join(twice)}")
        lengths = {column.name: column.length for column in self.of_items if column.kind is Kind.IDS}
        for column in self.columns:
            if column.weighed_by is not None and lengths.get(column.weighed_by, 0) != lengths.get(column.name):
                raise SchemaError(
                    f"column '{column.name}' must be weighed by one of ids of items that has as many places; "
                    f"'{column.weighed_by}' is none; build the examples again"
                )

    def __iter__(self) -> Iterator[Column]:
        return (column for column in self.columns if not column.of_item)

    def __getitem__(self, name: str) -> Column:
        for column in self:
            if column.name == name:
                return column
        raise SchemaError(f"no column '{name}' in the schema; it has: {', '.join(self.names)}")

    def __contains__(self, name: object) -> bool:
        return name in self.names

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self)

    @property
    def of_items(self) -> tuple[Column, ...]:
        """The columns that say something of an item."""
        return tuple(column for column in self.columns if column.of_item)

    def without_items(self) -> Schema:
        """The columns of rows alone."""
        return Schema(tuple(self))

    def vocabularies(self) -> dict[str, int]:
        """Size of each vocabulary, by name.

        Raises:
            SchemaError: two columns give one vocabulary different sizes.
        """
        sizes: dict[str, int] = {}
        for column in self.columns:
            if column.vocabulary is None or column.size is None:
                continue
            if sizes.setdefault(column.vocabulary, column.size) != column.size:
                raise SchemaError(
                    f"vocabulary '{column.vocabulary}' has size {sizes[column.vocabulary]} in one column and "
                    f"{column.size} in '{column.name}'; rebuild the examples so that both name one version"
                )
        return sizes

    def to_json(self) -> list[dict[str, Any]]:
        """JSON; of the fields that a column's description began with all, of later ones what is not the default."""
        return [_telling_fields(column) for column in self.columns]

    @classmethod
    def from_json(cls, columns: Sequence[Mapping[str, Any]]) -> Schema:
        """Rebuild a schema from `to_json`'s result.

        Raises:
            SchemaError: a field or a kind is unknown.
        """
        try:
            return cls(tuple(_column(column) for column in columns))
        except (TypeError, KeyError, ValueError) as error:
            raise SchemaError(f"this is not a schema that Millrace wrote: {error}") from error

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change when any column does."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]


def _column(told: Mapping[str, Any]) -> Column:
    shape = {"shape": tuple(told["shape"])} if "shape" in told else {}
    return Column(**{**told, "kind": Kind(told["kind"]), **shape})


def _telling_fields(column: Column) -> dict[str, Any]:
    defaults = {field.name: field.default for field in fields(column)}
    told = {name: value for name, value in asdict(column).items() if name in _FIRST or value != defaults[name]}
    return told | ({"shape": list(column.shape)} if column.shape is not None else {})
