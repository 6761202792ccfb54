"""A bundle's answers as functions of SQL and of DataFrames, registered by one call.

    register(spark, "out/fraud/run/bundles/row_mlp-91c2d0aa7e31")
    spark.sql("SELECT case_id, score(struct(*)).p FROM cases")

    register(spark, "out/shop/run/bundles/two_tower-3f9c0a1b22d4", tables="out/shop/tables")
    spark.sql("SELECT * FROM recommend('17850', 5)")
    spark.sql("SELECT basket, r.* FROM baskets, LATERAL recommend(items, 5, ages) r")

A Python worker opens the bundle once, and keeps it for its next tasks. Whole tables are scored by the job `score`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql.functions import udtf
from pyspark.sql.pandas.functions import pandas_udf

from jobs.recommender import Recommendation, Recommender
from spark_udfs.answers import one_thread_each, to_batch
from spark_udfs.arrow import arrow_type
from spark_udfs.item_files import on_this_host
from spark_udfs.scoring import ROWS, inputs_of
from training.errors import DataError, SchemaError, SettingsError
from training.schema import Column, Kind

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from training.batch import Batch

LISTED = "rank int, item_id string, name string, score float, fallback boolean"
Rows = Iterator[tuple[int, str, str, float, bool]]


def register(spark: SparkSession, bundle: str | Path, *, tables: str | None = None, name: str | None = None) -> str:
    """Make a function of a bundle for a session.

    Of a bundle that ranks items, `recommend(who, k[, ages])`, a table function: `who` is a user id, or an array of the
    ids of items that somebody bought, the oldest first; `ages` says how many days ago each was. NULL is nobody's
    history: a fallback. Of a bundle that answers rows, `score(struct(...))`: a struct of what its model predicts. The
    struct has the columns of the bundle's schema by their names, as the tables `examples` and `queries` have them;
    others are passed over.

    Args:
        spark: the session.
        bundle: its folder, readable on every executor (or shipped, see `spark_udfs.item_files.on_this_host`).
        tables: the tables' root, for user ids.
        name: of the function; None: `recommend` or `score`. Bundles need different ones to be used side by side.

    Returns:
        The function's name.

    Raises:
        BundleError: it is no bundle, is torn, or carries no items; see `Recommender.load`.
        SettingsError: `tables` is given for a bundle that answers rows.
    """
    from training.models.base import RetrievalModel
    from training.state.bundle import load_bundle

    path = str(Path(bundle).absolute())
    model = load_bundle(path).model()
    if isinstance(model, RetrievalModel):
        Recommender.load(path, tables)  # what is wrong is told here, not by an executor
        name = name or "recommend"
        spark.udtf.register(name, _lists_of(path, tables))
        return name
    if tables is not None:
        raise SettingsError(f"tables must be left out for bundle '{path}': it answers rows, and looks nobody up")
    name = name or "score"
    spark.udf.register(name, _rows_of(path, model.predict(_no_rows(inputs_of(model.schema)))))
    return name


def _lists_of(bundle: str, tables: str | None) -> Any:
    class Recommend:
        def eval(self, who: Any, k: int, ages: Any = None) -> Rows:
            yield from _ranked(_asked(_recommender(bundle, tables), who, k, ages))

    return udtf(Recommend, returnType=LISTED)


def _asked(recommender: Recommender, who: Any, k: int, ages: Any) -> list[Recommendation]:
    """One list.

    Raises:
        DataError, SettingsError: as `Recommender.recommend`; or who is neither a text nor an array.
    """
    of_each = None if ages is None else [ages]
    history: Any = [] if who is None else who
    if isinstance(who, str):
        return recommender.recommend([who], ages=of_each, k=k)[0]
    if who is not None and not isinstance(who, list | np.ndarray):
        raise DataError(
            f"recommend(who, k[, ages]) takes a user id, a string, or an array of ids of items; got {who!r}, a "
            f"{type(who).__name__}: write CAST(... AS STRING), or array(...)"
        )
    return recommender.recommend(history=[history], ages=of_each, k=k)[0]


def _ranked(found: list[Recommendation]) -> Rows:
    for rank, one in enumerate(found, 1):
        yield rank, *one


def _rows_of(bundle: str, answers: dict[str, Any]) -> Any:
    """The function, by what the model answers to no rows."""
    fields = ", ".join(f"{name}: {'float' if one.ndim == 1 else 'array<float>'}" for name, one in answers.items())

    def score(rows: pd.DataFrame) -> pd.DataFrame:
        return _predicted(bundle, rows)

    return pandas_udf(score, f"struct<{fields}>")  # type: ignore[call-overload]  # of a frame they know no function


def _predicted(bundle: str, rows: pd.DataFrame | pd.Series[Any]) -> pd.DataFrame:
    if isinstance(rows, pd.Series):
        raise SchemaError(
            f"rows for bundle '{Path(bundle).name}' must be a struct; got one column, as of {rows.iloc[0]!r}: write "
            "score(struct(*)), or name the fields in struct(...)"
        )
    model, columns = _model(bundle)
    given = [column for column in columns if column.kind is not Kind.POSITION or column.name in rows]
    if missing := [column.name for column in given if column.name not in rows]:
        raise SchemaError(
            f"rows for bundle '{Path(bundle).name}' must have {', '.join(column.name for column in given)}; the struct "
            f"lacks {', '.join(missing)}, and has {', '.join(map(str, rows.columns))}: name the fields so"
        )
    parts = [_answered(model, rows[start : start + ROWS], given) for start in range(0, len(rows), ROWS)]
    return pd.concat(parts or [_answered(model, rows, given)], ignore_index=True)


def _answered(model: Any, rows: pd.DataFrame, columns: list[Column]) -> pd.DataFrame:
    arrays = [_array(rows[column.name], column) for column in columns]
    found = model.predict(to_batch(pa.record_batch(arrays, [column.name for column in columns]), columns))
    answers = {name: np.asarray(one.float().numpy(), np.float32) for name, one in found.items()}
    return pd.DataFrame(
        {name: one if one.ndim == 1 else list(one.reshape(len(one), -1)) for name, one in answers.items()}
    )


def _array(values: pd.Series[Any], column: Column) -> pa.Array:
    try:
        return pa.array(values, arrow_type(column), from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise SchemaError(
            f"column '{column.name}' of the struct must be {arrow_type(column)}, as the bundle's schema says; {error}: "
            "cast it, as the tables `examples` and `queries` have it"
        ) from error


def _no_rows(columns: list[Column]) -> Batch:
    return to_batch(pa.record_batch([pa.array([], arrow_type(c)) for c in columns], [c.name for c in columns]), columns)


@cache
def _recommender(bundle: str, tables: str | None) -> Recommender:
    one_thread_each()
    return Recommender.load(on_this_host(bundle), tables)


@cache
def _model(bundle: str) -> tuple[Any, list[Column]]:
    from training.state.bundle import load_bundle

    one_thread_each()
    model = load_bundle(on_this_host(bundle)).model()
    return model, inputs_of(model.schema)
