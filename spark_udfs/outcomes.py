"""What was shown against what then happened.

The rule of attribution: an outcome belongs to a showing of the same item to the same user if it came at or after the
showing and less than `window_days` after it. Where several showings qualify, the latest one has it (last touch); of
those of one moment the one with the better rank, and of equal ranks one by a hash, so that no bundle is favoured. A
showing's outcome is the strongest one that belongs to it (purchased over viewed), at the time it first came; a showing
without any is ignored. A return, or an event of any other kind, is no outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pyspark.sql import Window
from pyspark.sql import functions as F

from spark_udfs.lists import require_columns

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SHOWN = {"user_id": "string", "item_id": "string", "rank": "int", "bundle": "string", "shown_at": "timestamp"}
OUTCOMES = {"user_id": "string", "item_id": "string", "outcome": "string", "outcome_time": "timestamp"}
STRENGTH = {"purchased": 2, "viewed": 1}
OUTCOME_OF_KIND = {"purchase": "purchased", "view": "viewed"}


class Checked(NamedTuple):
    """Outcomes that may be attributed, and rows set aside: the row's columns and `reason`."""

    good: DataFrame
    bad: DataFrame


def from_events(events: DataFrame, *, start: Column, end: Column) -> DataFrame:
    """Events of known users as outcomes: what happened while what was shown could have led to it.

    Args:
        events: user_id, item_id, kind, time.
        start: a timestamp; when things were shown.
        end: a timestamp; events from here on come too late.
    """
    kind_to_outcome = F.create_map(*[F.lit(part) for pair in OUTCOME_OF_KIND.items() for part in pair])
    return (
        events.where(F.col("user_id").isNotNull() & (F.col("time") >= start) & (F.col("time") < end))
        .select(
            "user_id",
            "item_id",
            kind_to_outcome[F.col("kind")].alias("outcome"),
            F.col("time").alias("outcome_time"),
            F.lit(None).cast("string").alias("bundle"),
        )
        .where(F.col("outcome").isNotNull())
    )


def check(outcomes: DataFrame, shown: DataFrame, bundles: DataFrame) -> Checked:
    """Set aside the rows of given outcomes that cannot be true.

    Reasons: a null key, an unknown outcome, no time (of what was not ignored), a bundle that never showed anything, an
    outcome before its showing.

    Args:
        outcomes: user_id, item_id, outcome (ignored, viewed or purchased), outcome_time, and optionally bundle (the one
            that showed it; null or no such column: any).
        shown: user_id, item_id, rank, bundle, shown_at.
        bundles: `bundle`: of all that was ever shown, not of these showings alone.

    Raises:
        SchemaError: columns are missing or of another type.
    """
    require_columns(outcomes, "outcomes", OUTCOMES)
    require_columns(shown, "shown", SHOWN)
    named = outcomes if "bundle" in outcomes.columns else outcomes.withColumn("bundle", F.lit(None).cast("string"))
    first_shown = shown.groupBy("user_id", "item_id").agg(F.min("shown_at").alias("first_shown"))
    known = bundles.select("bundle").distinct().withColumn("known", F.lit(True))
    reasoned = (
        named.select(*OUTCOMES, "bundle")
        .join(F.broadcast(known), on="bundle", how="left")
        .join(first_shown, on=["user_id", "item_id"], how="left")
        .withColumn("reason", _reason())
    )
    columns = [*OUTCOMES, "bundle"]
    return Checked(
        reasoned.where(F.col("reason").isNull()).select(*columns),
        reasoned.where(F.col("reason").isNotNull()).select(*columns, "reason"),
    )


def _reason() -> Column:
    null_key = F.col("user_id").isNull() | F.col("item_id").isNull()
    strange = F.col("outcome").isNull() | ~F.col("outcome").isin("ignored", *STRENGTH)
    return (
        F.when(null_key, "null key")
        .when(strange, "unknown outcome")
        .when(F.col("outcome_time").isNull() & (F.col("outcome") != "ignored"), "null time")
        .when(F.col("bundle").isNotNull() & F.col("known").isNull(), "unknown bundle")
        .when(F.col("outcome_time") < F.col("first_shown"), "outcome before shown")
    )


def attribute(shown: DataFrame, outcomes: DataFrame, *, window_days: float) -> DataFrame:
    """Each showing with the outcome that belongs to it.

    Args:
        shown: user_id, item_id, rank, bundle, shown_at; each item at most once per user, bundle and time.
        outcomes: user_id, item_id, outcome, outcome_time, bundle (null: any showing's).
        window_days: how long after a showing an outcome still belongs to it.

    Returns:
        The columns of `shown` in order, `outcome` (ignored, viewed, purchased) and `outcome_time` (null if ignored).
    """
    keys = ["user_id", "item_id", "bundle", "shown_at"]
    best = (
        _matched(shown, outcomes, window_days)
        .groupBy(*keys)
        .agg(F.max(F.struct("strength", F.col("earliness"), "outcome", "outcome_time")).alias("best"))
        .select(*keys, "best.outcome", "best.outcome_time")
    )
    return (
        shown.select(*SHOWN)
        .join(best, on=keys, how="left")
        .select(*SHOWN, F.coalesce("outcome", F.lit("ignored")).alias("outcome"), "outcome_time")
    )


def unmatched(shown: DataFrame, outcomes: DataFrame, *, window_days: float) -> int:
    """How many outcomes belong to no showing: bought without being shown, or after the window."""
    return _happened(outcomes).count() - _matched(shown, outcomes, window_days).count()


def _happened(outcomes: DataFrame) -> DataFrame:
    """What was viewed or purchased; the same thing said twice is one."""
    happened = outcomes.where(F.col("outcome").isin(*STRENGTH))
    return happened.select(*OUTCOMES, F.col("bundle").alias("of_bundle")).distinct()


def _matched(shown: DataFrame, outcomes: DataFrame, window_days: float) -> DataFrame:
    """A row per outcome that belongs to a showing: the latest of those that qualify, then the better rank."""
    strength = F.create_map(*[F.lit(part) for pair in STRENGTH.items() for part in pair])
    seconds_after = F.col("outcome_time").cast("double") - F.col("shown_at").cast("double")
    belongs = (seconds_after >= 0) & (seconds_after < window_days * 86_400)
    same_bundle = F.col("of_bundle").isNull() | (F.col("of_bundle") == F.col("bundle"))
    chance = F.xxhash64("user_id", "item_id", "bundle", "shown_at")
    nearest = Window.partitionBy(*OUTCOMES, "of_bundle").orderBy(F.desc("shown_at"), "rank", chance)
    return (
        shown.select("user_id", "item_id", "rank", "bundle", "shown_at")
        .join(_happened(outcomes), on=["user_id", "item_id"], how="inner")
        .where(belongs & same_bundle)
        .withColumn("touch", F.row_number().over(nearest))
        .where(F.col("touch") == 1)
        .withColumn("strength", strength[F.col("outcome")])
        .withColumn("earliness", -F.col("outcome_time").cast("double"))
    )
