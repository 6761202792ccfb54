"""How long bundles take to answer: some of the rows that are asked, in one task of one executor, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spark_udfs.answers import (
    IF_ANY,
    QUERY_COLUMNS,
    Order,
    Ranking,
    known_to,
    one_thread_each,
    to_batch,
    vectors_of,
)
from spark_udfs.item_files import on_this_host
from spark_udfs.lists import Batches
from spark_udfs.scoring import ROWS, bundle_schema, inputs_of
from spark_udfs.top_k import Lists
from training.schema import Column, Kind, Schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from training.batch import Batch

LIST = 20  # items of a list
ROUNDS = 7  # of which the fastest counts: what else runs on the machine makes others slower


def seconds_per_thousand(asked: DataFrame, bundles: Sequence[Path]) -> list[float]:
    """Of each bundle the seconds for 1,000 answers, once it is open; the bundles take turns.

    Args:
        asked: rows that they can answer; ROWS of them are.
        bundles: folders, readable on every executor; of one schema.
    """
    paths, columns = [str(path) for path in bundles], _asked(bundle_schema(str(bundles[0])))

    def timed(batches: Batches) -> Iterator[pa.RecordBatch]:
        if rows := [batch for batch in batches if batch.num_rows]:
            one_thread_each()
            whole = pa.Table.from_batches(rows).combine_chunks().to_batches()[0]
            yield pa.record_batch([pa.array(paced(paths, to_batch(whole, columns), whole.num_rows))], ["seconds"])

    rows = asked.select(*(column.name for column in columns)).limit(ROWS).coalesce(1)
    return [row["seconds"] for row in rows.mapInArrow(timed, "seconds double").collect()]


def paced(bundles: Sequence[str], batch: Batch, rows: int) -> list[float]:
    """The seconds of 1,000 answers by the time of a batch, in this process."""
    answers = [_answerer(bundle, rows) for bundle in bundles]
    fastest = [float("inf")] * len(bundles)
    for _ in range(ROUNDS):
        for place, answer in enumerate(answers):
            started = time.perf_counter()
            answer(batch)
            fastest[place] = min(fastest[place], time.perf_counter() - started)
    return [1_000 * seconds / rows for seconds in fastest]


def _asked(schema: Schema) -> list[Column]:
    """The columns of a question: of lists, or of rows at no place."""
    if all(name in schema for name in QUERY_COLUMNS):
        return [schema[name] for name in (*QUERY_COLUMNS, *(name for name in IF_ANY if name in schema))]
    return [column for column in inputs_of(schema) if column.kind is not Kind.POSITION]


def _answerer(path: str, rows: int) -> Callable[[Batch], Any]:
    from training.models.base import RetrievalModel
    from training.state.bundle import load_bundle

    model = load_bundle(on_this_host(path)).model()
    if not isinstance(model, RetrievalModel):
        return model.predict
    ids = known_to(model, np.arange(model.schema["history"].size or 0))
    ranking = Ranking(model, ids, vectors_of(model, ids), Order(np.zeros(0, np.int64), 0))
    nothing = Lists(np.zeros(0, np.int64), np.zeros(rows + 1, np.int64))
    return lambda batch: ranking.best(batch, nothing, LIST)
