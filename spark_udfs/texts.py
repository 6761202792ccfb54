"""Python functions of texts, applied to columns."""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import Column
from pyspark.sql import functions as F


def apply(function: Callable[[str], str], text: Column) -> Column:
    """A function of each text of a column; null for null."""
    return F.udf(or_null(function), "string", useArrow=True)(text)


def or_null(function: Callable[[str], str]) -> Callable[[object], str | None]:
    """The function with None for null, as which None and NaN count.

    Spark before 4.1 hands Arrow's columns to Python functions through pandas, and later ones do where their setting
    spark.sql.legacy.execution.pythonUDF.pandas.conversion.enabled says so: a null of pandas 3 then comes as NaN.
    """
    return lambda text: function(text) if isinstance(text, str) else None
