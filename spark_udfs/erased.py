"""Persons who were erased: their ids' keyed hashes, and the rows that are theirs.

The hash is HMAC-SHA256 (RFC 2104). The key travels to the workers inside the function: a query's plan, which Spark's
pages and event logs show, has its name alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_udfs import texts
from spark_udfs.occurrences import may_name


def digest(key: bytes, user_id: str) -> str:
    """An id's keyed hash: 64 hex digits."""
    return hmac.digest(key, user_id.encode(), hashlib.sha256).hex()


@dataclass(frozen=True)
class Erased:
    """All persons who were erased.

    Attributes:
        key: of the hash.
        hashes: a column `hash`, without repeats.
    """

    key: bytes
    hashes: DataFrame

    def hashed(self, user_id: Column) -> Column:
        """The keyed hash of an id; null for null."""
        key = self.key
        return texts.apply(lambda text: digest(key, text), user_id)

    def among(self, rows: DataFrame, user_id: str) -> DataFrame:
        """The column `user_id` of these rows, cut down to persons who were erased, each once."""
        ids = rows.where(F.col(user_id).isNotNull()).select(user_id).distinct()
        hashed = ids.withColumn("hash", self.hashed(F.col(user_id)))
        return hashed.join(self.hashes, on="hash", how="left_semi").select(user_id)

    def mark(self, rows: DataFrame, user_id: str, name: str) -> DataFrame:
        """The rows with a boolean column `name`: whether `user_id` is of a person who was erased.

        The rows are read twice: first for their ids, each of which is hashed once. Those of erased persons go to every
        task, so that no row moves: rows without a user would all move to one.
        """
        theirs = self.among(rows, user_id).select(F.col(user_id).alias("_erased_id"))
        marked = rows.join(F.broadcast(theirs), on=F.col(user_id) == F.col("_erased_id"), how="left")
        return marked.withColumn(name, F.col("_erased_id").isNotNull()).drop("_erased_id")

    def without(self, rows: DataFrame, user_id: Column) -> DataFrame:
        """The rows of all others; `user_id` is the id as ingest would keep it."""
        marked = self.mark(rows.withColumn("_user_id", user_id), "_user_id", "_is_erased")
        return marked.where(~F.col("_is_erased")).drop("_user_id", "_is_erased")

    def unmentioned(self, rows: DataFrame, row: str, aside: Collection[str], clean: Callable[[str], str]) -> DataFrame:
        """The rows whose JSON in the column `row` has no erased id as a value that `may_name` a person.

        Args:
            rows: any, few: each value of each row is hashed.
            row: a column of JSON objects.
            aside: keys whose values say nothing of a person.
            clean: makes of a value the id that ingest makes of it.
        """
        key = self.key

        def values(text: str) -> list[str]:
            return [digest(key, clean(value)) for value in may_name(text, aside)]

        of_row = F.udf(values, "array<string>", useArrow=True)
        hashes = rows.select(row).distinct().select(row, F.explode(of_row(row)).alias("hash"))
        mentioned = hashes.join(self.hashes, on="hash", how="left_semi").select(row)
        return rows.join(mentioned, on=row, how="left_anti")
