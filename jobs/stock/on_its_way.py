"""What is on its way, and what is forecast, of series that the stock table lacks: refused, or counted and told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from training.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.given import Given
    from jobs.stock.inputs import Forecasts

LONGEST = 300  # characters of a row that an error shows


def refuse_nobodys(held: Given) -> None:
    """Refuse what is on its way of no series: of others each wrong row keeps its series out.

    Raises:
        DataError: a row has no series.
    """
    wrong = held.rows.where("series_id IS NULL").agg(F.count(F.lit(1)).alias("rows"), F.min("row").alias("row"))
    count, row = wrong.collect()[0]
    if count:
        raise DataError(
            f"each row of stock.on_order '{held.source.name}' must have a series_id; {count:,} have none, e.g. "
            f"{row[:LONGEST]}: correct it, or leave it out. Nothing was written"
        )


def strangers(rows: DataFrame, on_order: Given | None, found: Forecasts) -> list[str]:
    """What is told of series that are in one table and not in the stock table.

    Args:
        rows: from `checks.joined`.
        on_order: what is on its way.
        found: the forecasts.

    Raises:
        DataError: what is on its way is of no series of the stock table.
    """
    series, said = rows.select("series_id"), list[str]()
    if on_order is not None and (lost := _others(on_order.rows, series))[0]:
        count, example, every = lost
        if count == every:
            raise DataError(
                f"stock.on_order '{on_order.source.name}' must be of series that stock.levels has; none of its "
                f"{every:,} rows is, e.g. that of '{example}': correct stock.on_order.columns. Nothing was written"
            )
        said.append(f"{count:,} of {every:,} rows of stock.on_order are of series without stock, e.g. '{example}'")
    count, example, every = _others(found.rows.select("series_id").distinct(), series)
    if count:
        said.append(
            f"{count:,} of {every:,} series that are forecast have no row in stock.levels, e.g. '{example}': nothing "
            "is ordered of them"
        )
    return said


def _others(rows: DataFrame, series: DataFrame) -> tuple[int, str, int]:
    """How many rows are of none of the series, one of them, and how many rows there are."""
    known = series.distinct().withColumn("is_known", F.lit(True))
    is_other = F.col("is_known").isNull()
    counted = rows.join(known, on="series_id", how="left").agg(
        F.count_if(is_other), F.min(F.when(is_other, F.col("series_id"))), F.count(F.lit(1))
    )
    count, example, every = counted.collect()[0]
    return count, example, every
