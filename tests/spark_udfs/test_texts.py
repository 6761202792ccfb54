"""Texts and nulls reach a Python function as such, whichever way Spark and pandas hand them over."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.sessions import session_settings
from spark_udfs import texts
from spark_udfs.order_lines import cleaned

BY_PANDAS = "spark.sql.legacy.execution.pythonUDF.pandas.conversion.enabled"


@pytest.mark.parametrize("by_pandas", ["false", "true"])
def test_null_is_null_whichever_way_it_comes(spark: SparkSession, by_pandas: str) -> None:
    rows = spark.createDataFrame([(" b\u200b",), (None,), ("  ",), ("nan",)], "text string").coalesce(1)
    with session_settings(spark, {BY_PANDAS: by_pandas}):
        found = rows.select(texts.apply(str.upper, F.col("text")), cleaned(F.col("text"), normalise=True)).collect()
    assert [tuple(row) for row in found] == [(" B\u200b", "b"), (None, None), ("  ", None), ("NAN", "nan")]


def test_a_text_is_never_what_a_null_became() -> None:
    upper = texts.or_null(str.upper)
    assert [upper(text) for text in ("a", "", "nan", None, float("nan"))] == ["A", "", "NAN", None, None]
