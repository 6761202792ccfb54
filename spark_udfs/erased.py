"""Persons who were erased: their ids' keyed hashes, and the rows that are theirs.

The hash is HMAC-SHA256 (RFC 2104). The key travels to the workers inside the function: a query's plan, which Spark's
pages and event logs show, has its name alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


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
        return F.udf(lambda text: None if text is None else digest(key, text), "string")(user_id)

    def mark(self, rows: DataFrame, user_id: str, name: str) -> DataFrame:
        """The rows with a boolean column `name`: whether `user_id` is of a person who was erased."""
        ours = self.hashes.select(F.col("hash").alias("_erased_hash"))
        hashed = rows.withColumn("_hash", self.hashed(F.col(user_id)))
        marked = hashed.join(ours, on=F.col("_hash") == F.col("_erased_hash"), how="left")
        return marked.withColumn(name, F.col("_erased_hash").isNotNull()).drop("_hash", "_erased_hash")

    def without(self, rows: DataFrame, user_id: str) -> DataFrame:
        """The rows of all others."""
        return self.mark(rows, user_id, "_is_erased").where(~F.col("_is_erased")).drop("_is_erased")

    def unmentioned(self, rows: DataFrame, row: str) -> DataFrame:
        """The rows whose JSON in the column `row` has no erased id as a value of any key.

        Args:
            rows: any, few: each value of each row is hashed.
            row: a column of JSON objects.
        """
        key = self.key

        def values(text: str) -> list[str]:
            return [digest(key, str(value).strip(" ")) for value in json.loads(text).values()]

        hashes = rows.select(row).distinct().select(row, F.explode(F.udf(values, "array<string>")(row)).alias("hash"))
        mentioned = hashes.join(self.hashes, on="hash", how="left_semi").select(row)
        return rows.join(mentioned, on=row, how="left_anti")
