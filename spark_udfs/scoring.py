"""Answers from a bundle: histories in, the top K items of the whole catalogue out; or rows in, predictions out.

The bundle is opened on the executors, once per Python worker; torch is imported there and nowhere else. Its item matrix
is computed by the first worker of a host and memory-mapped by all (spark_udfs/shared_matrix.py). The bundle's folder
must be readable on every executor at the path given, or be shipped first (`spark_udfs.item_files.on_this_host`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spark_udfs.answers import (
    IF_ANY,
    QUERY_COLUMNS,
    Order,
    Ranking,
    known_rows,
    named,
    one_thread_each,
    to_batch,
    vectors_of,
)
from spark_udfs.arrow import RANKED_TYPE, fixed_lists, ids_of, ranked
from spark_udfs.item_files import ItemFile, on_this_host
from spark_udfs.item_index import IndexFile, open_index
from spark_udfs.lists import Batches, require_columns, seen_of
from spark_udfs.reasons import REASONS, REASONS_SQL, Reasons, check_reasons, items_of
from spark_udfs.rules import NO_RULES, Rules
from spark_udfs.shared_matrix import shared_matrix
from spark_udfs.top_k import Ints
from training.errors import ArtefactError, BundleError, SchemaError
from training.schema import Column, Kind, Schema
from training.state.json_files import read_json

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ROWS = 2048  # rows of one forward pass: 2,048 histories of 100 items are vectors of 52 MB at 64 dimensions
NUMBERS = 1 << 19  # of rows without ragged lists: 16,384 rows of 32 numbers, fields of 16 numbers each are 34 MB

INPUTS = (Kind.ID, Kind.IDS, Kind.DENSE, Kind.POSITION, Kind.IMAGE)
NOBODYS = Order(np.zeros(0, np.int64), 0)  # an order of nothing
_loaded: dict[str, Any] = {}
CATEGORY, SEGMENT, SEGMENTS, FIRST = "category", "segment", "segments", "first"  # columns that rules look at


def recommend(
    queries: DataFrame,
    bundle_path: str,
    *,
    k: int,
    allowed: ItemFile,
    exclude_seen: bool = True,
    fallback: Order | ItemFile | None = None,
    columns: Sequence[str] = QUERY_COLUMNS,
    rules: Rules = NO_RULES,
    index: IndexFile | None = None,
    reasons: int = 0,
) -> DataFrame:
    """The K best allowed items of each user, by a bundle's model.

    Args:
        queries: a row per user: `user`, `seen`, and `columns` as the bundle's schema has them. Ids beyond the bundle's
            vocabularies count as unknown (`unknown_ids` tells how many). `segment` too, where `allowed` has segments:
            a number whose bit says what the user may be shown. Users of one segment should lie side by side.
        bundle_path: a bundle's folder, readable on every executor.
        k: at least 1.
        allowed: the items that may be recommended, e.g. the catalogue's; none that the bundle does not know is. With
            `segments` and `category` (bigint) as an `Offer` has them, where there are such rules.
        exclude_seen: leave out each row's `seen`.
        fallback: some of these in one order for users without one known item in their history, deep enough for K and
            the longest `seen`; or in a file, as deep as it is, whose `item` is the place, with the item as `first` and
            the other columns of `allowed`; None: no rows for them.
        columns: the columns of the bundle's schema that make a query; with IF_ANY, where it has those.
        rules: what is ruled of lists.
        index: of the bundle's vectors of `allowed`, by which they are searched (`indexed.save_index`); None: all are.
        reasons: of each item so many of the history's that add most to its score, at most.

    Returns:
        user, rank (from 1), item, score, fallback (whether the row comes from `fallback`, whose scores are places);
        where reasons are asked, `reasons`, most first (spark_udfs/reasons.py).

    Raises:
        BundleError: the bundle has none of the columns that make a query, or is torn; or reasons are asked, and it does
            not carry its items' ids.
        SchemaError: `queries` lacks columns of the bundle's schema, or has them of another type.
        SettingsError: reasons are asked, and the bundle's model cannot split its scores.
    """
    schema = bundle_schema(bundle_path)
    if reasons:
        check_reasons(bundle_path)
    columns = asked_columns(schema, columns)
    check_queries(queries, schema, columns, bundle_path)
    order = NOBODYS if fallback is None else fallback
    wanted, of_segment = [schema[name] for name in columns], [SEGMENT] if SEGMENTS in allowed.columns else []
    require_columns(queries, "queries of segments", dict.fromkeys(of_segment, "bigint"))

    def score(batches: Batches) -> Iterator[pa.RecordBatch]:
        ranking = ranking_of(bundle_path, allowed, order, rules, index)
        because = Reasons(items_of(on_this_host(bundle_path)), reasons) if reasons else None
        for whole in batches:
            for start in range(0, whole.num_rows, ROWS):
                rows = whole.slice(start, ROWS)
                seen = seen_of(named(rows, "seen"), exclude_seen)
                segment = ids_of(named(rows, SEGMENT), SEGMENT) if of_segment else None
                batch = to_batch(rows, wanted)
                best = ranking.best(batch, seen, k, segment)
                why = {} if because is None else {REASONS: because.of(ranking, batch, best)}
                yield from ranked(ids_of(named(rows, "user")), *best, why)

    given = queries.select(*dict.fromkeys((*columns, "user", "seen", *of_segment)))
    return given.mapInArrow(score, f"{RANKED_TYPE}, {REASONS} {REASONS_SQL}" if reasons else RANKED_TYPE)


def asked_columns(schema: Schema, columns: Sequence[str] = QUERY_COLUMNS) -> tuple[str, ...]:
    """The columns of a bundle's schema that make a query: these, and with them IF_ANY where it has those."""
    return (*columns, *(name for name in IF_ANY if name in schema and name not in columns))


def predict(rows: DataFrame, bundle_path: str, *, key: str) -> DataFrame:
    """`key` and p (double): the probability that a bundle's model gives to each row; see `predicted`."""
    return predicted(rows, bundle_path, key=key, names=["p"]).selectExpr(key, "CAST(p[0] AS double) AS p")


def predicted(rows: DataFrame, bundle_path: str, *, key: str, names: Sequence[str]) -> DataFrame:
    """What a bundle's model predicts of each row.

    Args:
        rows: `key` (string or bigint) and the inputs of the bundle's schema: its ids, numbers and pictures; also the
            place at which a row was shown, where that is to count. Ids beyond the bundle's vocabularies count as
            unknown.
        bundle_path: a bundle's folder, readable on every executor.
        key: the column that tells rows apart; it may be an input too.
        names: of the answers of the model's `predict`.

    Returns:
        `key` and each answer (array<float>), a row's numbers one after the other; null where the model has none such.

    Raises:
        BundleError: the bundle is torn.
        SchemaError: `rows` lacks columns of the bundle's schema, or has them of another type.
    """
    schema = bundle_schema(bundle_path)
    wanted = [one for one in inputs_of(schema) if one.kind is not Kind.POSITION or one.name in rows.columns]
    types = {column.name: _spark_type(column) for column in wanted}
    require_columns(rows, f"rows for bundle '{Path(bundle_path).name}'", types)
    given = rows.select(*dict.fromkeys((key, *types)))

    def answer(batches: Batches) -> Iterator[pa.RecordBatch]:
        _, model = opened(bundle_path)
        for whole in batches:
            for part in parts_of(whole, wanted):
                yield answers_to(part, model, wanted, key, names)

    held = given.schema[key].dataType.simpleString()
    return given.mapInArrow(answer, ", ".join([f"{key} {held}", *(f"{name} array<float>" for name in names)]))


def parts_of(rows: pa.RecordBatch, wanted: Sequence[Column]) -> Iterator[pa.RecordBatch]:
    """As many rows at a time as go through a model of these inputs at once."""
    step = ROWS
    if not any(column.is_ragged for column in wanted):
        step = max(1, NUMBERS // max(32, sum(math.prod(column.shape or (column.length or 1,)) for column in wanted)))
    for start in range(0, rows.num_rows, step):
        yield rows.slice(start, step)


def answers_to(
    rows: pa.RecordBatch, model: Any, wanted: Sequence[Column], key: str, names: Sequence[str]
) -> pa.RecordBatch:
    """`key` and a model's answers by these names to some rows of its inputs."""
    found = model.predict(to_batch(rows, wanted))
    lists_of = [_rows_of(found.get(name), rows.num_rows) for name in names]
    return pa.record_batch([named(rows, key), *lists_of], [key, *names])


def inputs_of(schema: Schema) -> list[Column]:
    """The columns that answers are made of; the place at which a row was shown may be missing."""
    return [column for column in schema if column.kind in INPUTS]


def _rows_of(answer: Any, rows: int) -> pa.Array:
    if answer is None:
        return pa.nulls(rows, pa.list_(pa.float32()))
    return fixed_lists(answer.float().numpy().reshape(rows, -1))


def ranking_of(
    bundle_path: str,
    allowed: ItemFile,
    order: Order | ItemFile = NOBODYS,
    rules: Rules = NO_RULES,
    index: IndexFile | None = None,
) -> Ranking:
    """A bundle's model with the items that it may recommend, in one worker."""
    name, model = opened(bundle_path)
    items = allowed.open("item")
    known = known_rows(model, items)
    ids = items[known]
    matrix = shared_matrix(f"{name}-{allowed.name}", lambda: vectors_of(model, ids))
    if isinstance(order, ItemFile):
        order = Order(order.open(FIRST), order.rows, _if_any(order, CATEGORY), _if_any(order, SEGMENTS))
    category, segments = (_if_any(allowed, column, known) for column in (CATEGORY, SEGMENTS))
    held = None if index is None else open_index(on_this_host(index.path), matrix, index.probes)
    return Ranking(model, ids, matrix, order, rules, category, segments, held)


def _if_any(items: ItemFile, column: str, rows: slice = slice(None)) -> Ints | None:
    return items.open(column)[rows] if column in items.columns else None


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


def _spark_type(column: Column) -> str:
    if column.kind is Kind.IMAGE:
        return "binary"
    if column.kind in (Kind.ID, Kind.IDS, Kind.POSITION):
        return "array<bigint>" if column.is_ragged else "bigint"
    return "array<float>" if column.is_ragged or column.length is not None else "float"


def opened(bundle_path: str) -> tuple[str, Any]:
    """A bundle's name and model, opened once per worker and kept for its next tasks."""
    import torch

    from training.state.bundle import load_bundle

    if bundle_path not in _loaded:
        one_thread_each()
        torch.set_grad_enabled(False)
        bundle = load_bundle(on_this_host(bundle_path))
        _loaded.clear()
        _loaded[bundle_path] = (bundle.name, bundle.model())
    name, model = _loaded[bundle_path]
    return name, model
