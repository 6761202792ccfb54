"""An index of a bundle's items: made by one executor, for all to map, and whom it does not suffice for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.answers import cold_rows, named, to_batch
from spark_udfs.item_files import ItemFile, keep_newest, on_this_host, scratch_folder
from spark_udfs.item_index import IndexFile, build_index, open_index
from spark_udfs.lists import Batches, seen_of
from spark_udfs.scoring import ROWS, asked_columns, bundle_schema, check_queries, opened, ranking_of
from spark_udfs.top_k import rows_of, take

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

NAME, FILE = "index", "lists"


def save_index(
    spark: SparkSession, bundle_path: str, allowed: ItemFile, folder: Path, *, lists: int | None, probes: int
) -> IndexFile | None:
    """Have an executor make the index of a bundle's vectors of some items, where it is not there yet.

    Args:
        spark: its executors can read the bundle.
        bundle_path: a bundle's folder, readable on every executor.
        allowed: the items, in a file.
        folder: where that lies: the same one on the driver and on every executor.
        lists: how many, one an item at most; None: by the number of items.
        probes: how many of them are looked at for a query.

    Returns:
        Where it lies; None: the bundle knows none of the items.
    """
    place = str(folder.absolute())

    def make(batches: Batches) -> Iterator[pa.RecordBatch]:
        if not any(batch.num_rows for batch in batches):
            return
        ranking = ranking_of(bundle_path, allowed)
        if len(ranking.ids):
            target = Path(place) / f"{NAME}-{opened(bundle_path)[0]}-{allowed.name}-{lists or 'default'}"
            if not target.is_dir():
                with scratch_folder(Path(place), NAME) as scratch:
                    build_index(ranking.matrix, lists, scratch / FILE)
                    with suppress(OSError):  # a task that Spark ran twice has made it
                        scratch.rename(target)
            os.utime(target)
            held = open_index(target / FILE, ranking.matrix, probes)
            columns = [[str(target / FILE)], [len(held.sizes)], [held.probes], [held.least]]
            yield pa.record_batch([pa.array(column) for column in columns], ["path", "lists", "probes", "least"])

    one_task = spark.range(1).repartition(1)
    told = one_task.mapInArrow(make, "path string, lists bigint, probes bigint, least bigint").collect()
    keep_newest(folder, NAME)
    return IndexFile(**told[0].asDict()) if told else None


def users_searched_whole(
    queries: DataFrame, bundle_path: str, *, k: int, allowed: ItemFile, index: IndexFile, exclude_seen: bool
) -> int:
    """For how many users all items are compared, since the lists that are looked at have fewer than K that are not
    seen. Users who have seen too few items for that are not looked at.

    Args:
        queries: as `recommend` takes them.
        bundle_path, k, allowed, index, exclude_seen: as there.
    """
    schema = bundle_schema(bundle_path)
    columns = asked_columns(schema)
    check_queries(queries, schema, columns, bundle_path)
    wanted = [schema[name] for name in columns]

    def count(batches: Batches) -> Iterator[pa.RecordBatch]:
        ranking = ranking_of(bundle_path, allowed)
        held, found = open_index(on_this_host(index.path), ranking.matrix, index.probes), 0
        for whole in batches:
            for start in range(0, whole.num_rows, ROWS):
                rows = whole.slice(start, ROWS)
                batch = to_batch(rows, wanted)
                warm = np.flatnonzero(~cold_rows(batch["history"]))
                seen = rows_of(seen_of(named(rows, "seen"), exclude_seen), ranking.ids, len(ranking.ids))
                found += int(held.is_short(ranking.model.queries(batch).numpy()[warm], k, take(seen, warm)).sum())
        yield pa.record_batch([pa.array([found])], ["users"])

    seen = F.size("seen") if exclude_seen else F.lit(0)
    asked = queries.where(seen + F.lit(k) > F.lit(index.least)).select(*dict.fromkeys((*columns, "seen")))
    return int(asked.mapInArrow(count, "users bigint").agg(F.coalesce(F.sum("users"), F.lit(0))).collect()[0][0])
