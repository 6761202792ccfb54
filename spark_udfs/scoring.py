"""Answers from a bundle: histories in, the top K items of the whole catalogue out; or rows in, predictions out.

The bundle is opened on the executors, once per Python worker; torch is imported there and nowhere else. Its item matrix
is computed by the first worker of a host and memory-mapped by all (spark_udfs/shared_matrix.py). The bundle's folder
must be readable on every executor at the path given, or be shipped first (`spark_udfs.item_files.on_this_host`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spark_udfs.arrow import RANKED_TYPE, fixed_lists, float_lists, ids_of, lists, ranked
from spark_udfs.item_files import ItemFile, on_this_host
from spark_udfs.lists import Batches, Order, ranking_scores, require_columns, seen_of
from spark_udfs.shared_matrix import shared_matrix
from spark_udfs.top_k import Floats, Ints, Lists, Mask, first_unseen, one_thread, take, top_k
from training.errors import ArtefactError, BundleError, SchemaError
from training.schema import Column, Kind, Schema
from training.state.json_files import read_json

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from training.batch import Batch, Value

ROWS = 2048  # rows of one forward pass: 2,048 histories of 100 items are vectors of 52 MB at 64 dimensions

_loaded: dict[str, Any] = {}
QUERY_COLUMNS = ("user", "history", "history_age")
IF_ANY = ("history_weight",)  # a part of a query where the bundle's schema has it
SPARK_TYPES = {"user": "bigint", "seen": "array<bigint>"}


def recommend(
    queries: DataFrame,
    bundle_path: str,
    *,
    k: int,
    allowed: ItemFile,
    exclude_seen: bool = True,
    fallback: Order | None = None,
    columns: Sequence[str] = QUERY_COLUMNS,
) -> DataFrame:
    """The K best allowed items of each user, by a bundle's model.

    Args:
        queries: a row per user: `user`, `seen`, and `columns` as the bundle's schema has them. Ids beyond the bundle's
            vocabularies count as unknown (`unknown_ids` tells how many).
        bundle_path: a bundle's folder, readable on every executor.
        k: at least 1.
        allowed: the items that may be recommended, e.g. the catalogue's; none that the bundle does not know is.
        exclude_seen: leave out each row's `seen`.
        fallback: some of these in one order for users without one known item in their history, deep enough for K and
            the longest `seen`; None: no rows for them.
        columns: the columns of the bundle's schema that make a query; with IF_ANY, where it has those.

    Returns:
        user, rank (from 1), item, score, fallback (whether the row comes from `fallback`, whose scores are places).

    Raises:
        BundleError: the bundle has none of the columns that make a query, or is torn.
        SchemaError: `queries` lacks columns of the bundle's schema, or has them of another type.
    """
    schema = bundle_schema(bundle_path)
    columns = (*columns, *(name for name in IF_ANY if name in schema and name not in columns))
    check_queries(queries, schema, columns, bundle_path)
    order = Order(np.zeros(0, np.int64), 0) if fallback is None else fallback
    wanted = [schema[name] for name in columns]

    def score(batches: Batches) -> Iterator[pa.RecordBatch]:
        one_thread()
        scorer = _Scorer(bundle_path, allowed, order, k)
        for whole in batches:
            for start in range(0, whole.num_rows, ROWS):
                rows = whole.slice(start, ROWS)
                seen = seen_of(_named(rows, "seen"), exclude_seen)
                yield from scorer.ranked(ids_of(_named(rows, "user")), to_batch(rows, wanted), seen)

    return queries.select(*dict.fromkeys((*columns, "user", "seen"))).mapInArrow(score, RANKED_TYPE)


def predict(rows: DataFrame, bundle_path: str, *, key: str) -> DataFrame:
    """`key` and p (double): the probability that a bundle's model gives to each row; see `predicted`."""
    return predicted(rows, bundle_path, key=key, names=["p"]).selectExpr(key, "CAST(p[0] AS double) AS p")


def predicted(rows: DataFrame, bundle_path: str, *, key: str, names: Sequence[str]) -> DataFrame:
    """What a bundle's model predicts of each row.

    Args:
        rows: `key` (string or bigint) and the inputs of the bundle's schema: its ids and numbers; also the place at
            which a row was shown, where that is to count. Ids beyond the bundle's vocabularies count as unknown.
        bundle_path: a bundle's folder, readable on every executor.
        key: the column that tells rows apart; it may be an input too.
        names: of the answers of the model's `predict`.

    Returns:
        `key` and each answer (array<float>), a row's numbers one after the other; null where the model has none such.

    Raises:
        BundleError: the bundle is torn.
        SchemaError: `rows` lacks columns of the bundle's schema, or has them of another type.
    """
    wanted = [
        column
        for column in bundle_schema(bundle_path)
        if column.kind in (Kind.ID, Kind.IDS, Kind.DENSE)
        or (column.kind is Kind.POSITION and column.name in rows.columns)
    ]
    types = {column.name: _spark_type(column) for column in wanted}
    require_columns(rows, f"rows for bundle '{Path(bundle_path).name}'", types)
    given = rows.select(*dict.fromkeys((key, *types)))

    def answer(batches: Batches) -> Iterator[pa.RecordBatch]:
        one_thread()
        _, model = _open(bundle_path)
        for whole in batches:
            for start in range(0, whole.num_rows, ROWS):
                part = whole.slice(start, ROWS)
                found = model.predict(to_batch(part, wanted))
                lists_of = [_rows_of(found.get(name), part.num_rows) for name in names]
                yield pa.record_batch([_named(part, key), *lists_of], [key, *names])

    held = given.schema[key].dataType.simpleString()
    return given.mapInArrow(answer, ", ".join([f"{key} {held}", *(f"{name} array<float>" for name in names)]))


def _rows_of(answer: Any, rows: int) -> pa.Array:
    if answer is None:
        return pa.nulls(rows, pa.list_(pa.float32()))
    return fixed_lists(answer.float().numpy().reshape(rows, -1))


class _Scorer:
    """A bundle's model and item matrix in one worker."""

    def __init__(self, bundle_path: str, allowed: ItemFile, order: Order, k: int) -> None:
        name, self.model = _open(bundle_path)
        ids = allowed.open("item")
        known = self.model.schema["history"].size or 0
        self.ids: Ints = ids[np.searchsorted(ids, 1) : np.searchsorted(ids, known)]
        self.matrix = shared_matrix(f"{name}-{allowed.name}", self._item_vectors)
        self.order = order
        self.place = ranking_scores(order)
        self.k = k

    def _item_vectors(self) -> Floats:
        return np.asarray(self.model.item_matrix().numpy()[self.ids], np.float32)

    def ranked(self, users: Ints, batch: Batch, seen: Lists) -> Iterator[pa.RecordBatch]:
        cold = cold_rows(batch["history"])
        found = np.full((len(users), self.k), -1, np.int64)
        scores = np.full((len(users), self.k), -np.inf, np.float32)
        warm = np.flatnonzero(~cold)
        if len(warm):
            vectors = self.model.queries(batch).numpy()[warm]
            found[warm], scores[warm] = top_k(vectors, self.matrix, self.k, seen=take(seen, warm), ids=self.ids)
        if cold.any():
            rows = np.flatnonzero(cold)
            found[rows] = first_unseen(self.order.first, self.k, take(seen, rows))
            scores[rows] = self.place(found[rows])
        yield from ranked(users, found, scores, cold)


@dataclass(frozen=True)
class _Described:
    """What of bundle.json is wanted before torch is loaded."""

    schema: list[dict[str, Any]]


def bundle_schema(bundle_path: str) -> Schema:
    """The schema that a bundle carries.

    Raises:
        BundleError: there is no bundle, or its description is torn.
    """
    description = Path(bundle_path) / "bundle.json"
    if not description.is_file():
        raise BundleError(f"no bundle at '{bundle_path}': {description.name} is missing; run `millrace train`")
    try:
        return Schema.from_json(read_json(description, _Described).schema)
    except (ArtefactError, SchemaError) as error:
        raise BundleError(f"bundle '{bundle_path}' is torn or of another format: {error}; train it again") from error


def check_queries(queries: DataFrame, schema: Schema, columns: Sequence[str], bundle_path: str) -> None:
    """Compare queries with the schema of the bundle that is to answer them.

    Raises:
        BundleError: the bundle's schema has not all of `columns`.
        SchemaError: `queries` has not all of `columns` as the schema says.
    """
    missing = [name for name in columns if name not in schema]
    if missing:
        raise BundleError(
            f"bundle '{bundle_path}' was trained without {', '.join(missing)}; it has {', '.join(schema.names)}. "
            "Score with the bundle of these queries' task"
        )
    types = {name: _spark_type(schema[name]) for name in columns} | {"user": "bigint", "seen": "array<bigint>"}
    require_columns(queries, f"queries for bundle '{Path(bundle_path).name}'", types)


def unknown_ids(schema: Schema, column: str = "history") -> str:
    """A Spark SQL expression: how many ids of a row's list the bundle does not know (0, or past its vocabulary)."""
    return f"size(filter({column}, id -> id <= 0 OR id >= {schema[column].size} OR id IS NULL))"


def to_batch(rows: pa.RecordBatch, columns: Sequence[Column]) -> Batch:
    """Arrow columns as a model takes them, whole columns at a time; ids out of range become 0."""
    return {column.name: _value(_named(rows, column.name), column) for column in columns}


def cold_rows(history: Any) -> Mask:
    """Rows without one known item in their history."""
    values, offsets = history.values.numpy(), history.offsets.numpy()
    known = np.concatenate([[0], np.cumsum(values > 0)])
    return np.asarray(known[offsets[1:]] == known[offsets[:-1]], np.bool_)


def _value(array: pa.Array, column: Column) -> Value:
    import torch

    from training.batch import Ragged

    if column.kind is Kind.IDS:
        values, offsets = lists(array)
        return Ragged(torch.from_numpy(_known(values, column)), torch.from_numpy(offsets))
    if column.kind is Kind.POSITION:  # below the last place that differs all are as it
        places = array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        return torch.from_numpy(places.clip(0, (column.size or 1) - 1))
    if column.kind is Kind.ID:
        return torch.from_numpy(_known(array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64), column))
    if column.is_ragged:
        floats, offsets = float_lists(array)
        return Ragged(torch.from_numpy(_finite(floats, column)), torch.from_numpy(offsets))
    if column.length is not None:
        floats, _ = float_lists(array)
        return torch.from_numpy(_finite(floats, column).reshape(len(array), -1))
    return torch.from_numpy(_finite(array.cast(pa.float32()).to_numpy(zero_copy_only=False), column))


def _known(values: Ints, column: Column) -> Ints:
    size = column.size or 0
    return np.where((values >= 0) & (values < size), values, 0)


def _finite(values: Floats, column: Column) -> Floats:
    bad = ~np.isfinite(values)
    if bad.any() and column.fill is None:
        raise SchemaError(
            f"column '{column.name}' must be finite and not null; it is not in {int(bad.sum())} places: "
            "fill them, or give the column a fill in the task's schema"
        )
    return np.where(bad, np.float32(column.fill or 0), values)


def _spark_type(column: Column) -> str:
    if column.kind in (Kind.ID, Kind.IDS, Kind.POSITION):
        return "array<bigint>" if column.is_ragged else "bigint"
    return "array<float>" if column.is_ragged or column.length is not None else "float"


def _named(rows: pa.RecordBatch, name: str) -> pa.Array:
    return rows.column(rows.schema.get_field_index(name))


def _open(bundle_path: str) -> tuple[str, Any]:
    """A bundle's name and model, opened once per worker and kept for its next tasks."""
    import torch

    from training.state.bundle import load_bundle

    if bundle_path not in _loaded:
        torch.set_num_threads(1)  # one task a core already
        torch.set_grad_enabled(False)
        bundle = load_bundle(on_this_host(bundle_path))
        _loaded.clear()
        _loaded[bundle_path] = (bundle.name, bundle.model())
    name, model = _loaded[bundle_path]
    return name, model
