"""What customers are used to, of their lines up to a moment: categories, prices, weekdays and hours.

Lines are added up by customer and category, and by customer and hour, before anything is chosen: nothing is held per
customer but these sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

HABITS = ("favourites", "mean_price", "hour")
EXACT = "decimal(38,6)"  # sums of doubles depend on their order


def habits(lines: DataFrame, items: DataFrame | None, favourites: int) -> DataFrame:
    """A row for each customer who bought something.

    Args:
        lines: user_id, item_id, time, is_return, value (double) and pieces (double, of what value is of; 0: unknown).
        items: item_id and category (string); None: there are no categories.
        favourites: how many categories, at most.

    Returns:
        user_id; favourites (array<string>), the categories that most was spent on, most first, and of most lines where
        that is equal, as where no price is known; null where no category is known; mean_price (double) of a piece, null
        where no price is known; hour (int, UTC) in which most lines were bought, the earliest where several are equal.
    """
    bought = lines.where(~F.col("is_return"))
    made = _hours(bought).join(_prices(bought), on="user_id", how="left")
    if items is None:
        return made.withColumn("favourites", F.lit(None).cast("array<string>")).select("user_id", *HABITS)
    return made.join(_favourites(bought, items, favourites), on="user_id", how="left").select("user_id", *HABITS)


def _hours(bought: DataFrame) -> DataFrame:
    by_hour = bought.groupBy("user_id", F.hour("time").alias("hour")).agg(F.count(F.lit(1)).alias("lines"))
    return by_hour.groupBy("user_id").agg(F.max_by("hour", F.struct("lines", -F.col("hour"))).alias("hour"))


def _prices(bought: DataFrame) -> DataFrame:
    value, pieces = F.sum(F.col("value").cast(EXACT)), F.sum(F.col("pieces").cast(EXACT))
    priced = bought.where("value > 0 AND pieces > 0").groupBy("user_id").agg(value.alias("value"), pieces.alias("of"))
    return priced.select("user_id", (F.col("value") / F.col("of")).cast("double").alias("mean_price"))


def _favourites(bought: DataFrame, items: DataFrame, favourites: int) -> DataFrame:
    known = items.where("category IS NOT NULL").select("item_id", "category").dropDuplicates(["item_id"])
    spent, lines = F.sum(F.col("value").cast(EXACT)).alias("spent"), F.count(F.lit(1)).alias("lines")
    by_category = bought.join(known, on="item_id", how="inner").groupBy("user_id", "category").agg(spent, lines)
    less = F.struct((-F.col("spent")).alias("spent"), (-F.col("lines")).alias("lines"), "category")
    listed = F.array_sort(F.collect_list(less))
    found = by_category.groupBy("user_id").agg(listed.alias("all"))
    return found.select("user_id", F.slice(F.col("all")["category"], 1, favourites).alias("favourites"))
