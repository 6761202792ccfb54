"""Texts to the numbers of their terms, as columns; what a term is stands in spark_udfs/text_terms.py."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

from spark_udfs import text_terms
from spark_udfs.texts import apply


def terms(text: Column, most: int, buckets: int) -> Column:
    """array<bigint>, each once, of the first words of a text; empty of null.

    Args:
        text: a column of texts.
        most: words that are read.
        buckets: terms have numbers from 1 up to this.
    """

    def of(value: object) -> list[int]:
        return text_terms.terms(value, most, buckets) if isinstance(value, str) else []

    return F.udf(of, "array<bigint>", useArrow=True)(text)


def alike(text: Column) -> Column:
    """`text_terms.alike` of each text; null for null."""
    return apply(text_terms.alike, text)
