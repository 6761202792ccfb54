"""Append-only vocabularies: an id keeps its index for ever; 0 is unknown and in no vocabulary.

An id that was erased keeps its index and loses its name: its row holds null, and the index is never given again.
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

SCHEMA = "index bigint, id string"
# New ids are numbered bucket by bucket, so that no task ever sorts them all.
BUCKETS = 1_024
# One row with an array of a size a bucket, to a row a bucket with the ids of those before it.
_OFFSETS = (
    "inline(transform(sizes, (at, place) -> struct(at.bucket AS bucket, "
    "aggregate(slice(sizes, 1, place), 0L, (sum, each) -> sum + each.ids) AS offset)))"
)


def new_entries(ids: DataFrame, held: DataFrame) -> DataFrame:
    """Number the ids that a vocabulary does not hold, from its highest index on.

    The order is that of a hash of the id, so the same ids get the same indices however they are partitioned, and of two
    indices the greater is not the id that comes later in the alphabet.

    Args:
        ids: a column `id`; null and repeated ones are left out.
        held: the vocabulary: `index`, `id` (null: erased); may be empty.

    Returns:
        `index` (bigint, the first is 1) and `id`, of the new ids alone.
    """
    new = ids.where("id IS NOT NULL").select("id").distinct().join(held.select("id"), on="id", how="left_anti")
    return numbered(new, held)


def numbered(new: DataFrame, held: DataFrame) -> DataFrame:
    """Number ids from a vocabulary's highest index on, as `new_entries` does.

    Args:
        new: `id`, each once, none that the vocabulary holds.
        held: the vocabulary. Its log may tell the highest index, so that no row is read.
    """
    hashed = new.withColumn("hash", F.xxhash64("id"))
    bucketed = hashed.withColumn("bucket", F.pmod("hash", F.lit(BUCKETS)))
    sizes = bucketed.groupBy("bucket").agg(F.count(F.lit(1)).alias("ids"))
    offsets = sizes.agg(F.sort_array(F.collect_list(F.struct("bucket", "ids"))).alias("sizes")).selectExpr(_OFFSETS)
    highest = held.agg(F.max("index").alias("highest"))  # as it stands: Delta answers this of its log
    within = F.row_number().over(Window.partitionBy("bucket").orderBy("hash", "id"))
    placed = bucketed.withColumn("within", within).join(F.broadcast(offsets), on="bucket", how="inner")
    index = F.coalesce("highest", F.lit(0)) + F.col("offset") + F.col("within")
    return placed.crossJoin(F.broadcast(highest)).select(index.cast("bigint").alias("index"), "id")


def digest(vocabulary: DataFrame, upto: int) -> dict[str, Any]:
    """What tells one numbering of ids from another: `ids`, how many have an index up to one, and a `hash` of them.

    Appended ids do not change it. An erased one does: it is for vocabularies of what is no person.
    """
    named = vocabulary.where(F.col("index") <= upto)
    hashed = F.sum(F.xxhash64("index", "id").cast("decimal(38,0)"))
    ids, total = named.agg(F.count("id"), hashed).collect()[0]
    return {"ids": int(ids), "hash": str(total)}


def faults(vocabulary: DataFrame) -> dict[str, int]:
    """What is wrong with a vocabulary, as counts; empty if nothing is.

    Its indices must be 1, 2, ... without a gap, and no id may stand twice: two writers at once could break that. Null
    ids, those erased, may be many.
    """
    found = vocabulary.agg(
        (F.count(F.lit(1)) - F.countDistinct("index")).alias("indices that stand twice"),
        (F.count("id") - F.countDistinct("id")).alias("ids that stand twice"),
        (F.coalesce(F.max("index"), F.lit(0)) - F.countDistinct("index")).alias("indices left out"),
    ).collect()[0]
    return {name: int(count) for name, count in found.asDict().items() if count}
