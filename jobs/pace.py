"""How long bundles take to answer: some of the rows that are asked, in this process alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spark_udfs.answers import IF_ANY, QUERY_COLUMNS, Order, Ranking, known_to, to_batch, vectors_of
from spark_udfs.arrow import arrow_type
from spark_udfs.scoring import ROWS, inputs_of
from spark_udfs.top_k import Lists
from training.schema import Column, Kind

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from training.batch import Batch
    from training.state.bundle import Bundle

LIST = 20  # items of a list
ROUNDS = 3  # of which the fastest counts


def seconds_per_thousand(bundles: Sequence[Bundle], asked: DataFrame) -> list[float]:
    """Of each bundle the seconds for 1,000 answers, once it is open; the bundles take turns.

    Args:
        bundles: of one schema.
        asked: rows that they can answer; ROWS of them come here.
    """
    asks = [_asks(bundle) for bundle in bundles]
    rows = _some(asked, asks[0][1])
    batch = to_batch(rows, asks[0][1])
    fastest = [float("inf")] * len(bundles)
    for _ in range(ROUNDS):
        for place, (answer, _) in enumerate(asks):
            started = time.perf_counter()
            answer(batch)
            fastest[place] = min(fastest[place], time.perf_counter() - started)
    return [1_000 * seconds / max(1, rows.num_rows) for seconds in fastest]


def _asks(bundle: Bundle) -> tuple[Callable[[Batch], Any], list[Column]]:
    """What answers a batch, and the columns that this has."""
    from training.models.base import RetrievalModel

    model, schema = bundle.model(), bundle.schema
    if not isinstance(model, RetrievalModel):
        return model.predict, [column for column in inputs_of(schema) if column.kind is not Kind.POSITION]
    ids = known_to(model, np.arange(schema["history"].size or 0))
    ranking = Ranking(model, ids, vectors_of(model, ids), Order(np.zeros(0, np.int64), 0))

    def best(batch: Batch) -> Any:
        rows = len(batch["user"])
        return ranking.best(batch, Lists(np.zeros(0, np.int64), np.zeros(rows + 1, np.int64)), LIST)

    return best, [schema[name] for name in (*QUERY_COLUMNS, *(name for name in IF_ANY if name in schema))]


def _some(asked: DataFrame, columns: Sequence[Column]) -> pa.RecordBatch:
    names = [column.name for column in columns]
    rows = asked.select(*names).limit(ROWS).collect()
    arrays = [pa.array([row[column.name] for row in rows], arrow_type(column)) for column in columns]
    return pa.record_batch(arrays, names)
