"""What was known of an entity at the moment of each row: its earlier rows, the recent ones, the labels that had come.

An entity is whatever rows share: a network address, a device, an e-mail domain. At a row's moment there counts

- a row that happened strictly earlier and had arrived: rows of one time see none of each other, whatever their order;
- as recent, a row or a fraud that came to be known within so many days before the moment;
- a label whose time has come, of a row that counts; never the row's own.

A number of a row, such as an amount, adds to its entities' means as long as the row is recent.

Each row becomes a handful of entries on its entity's time line (it is known; it is no longer recent; its label is
known; a fraud is no longer recent; it asks), and an ask reads the running sums: work grows with the rows, in Spark's
own sorted windows, which spill to disk. No row is left out, and nothing is held per entity. The line of an entity with
more than `HEAVY` rows is cut into hours, which are summed up first, so that one entity with most of a shop's rows is
many small tasks and not one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

DAY_US, HOUR_US = 86_400_000_000, 3_600_000_000
RECENT_DAYS = (1, 7, 30)
FRAUD_DAYS = (7, 30)
HEAVY = 100_000
COUNTS = (
    "rows",
    *(f"rows_{days}d" for days in RECENT_DAYS),
    "labels",
    "frauds",
    *(f"frauds_{days}d" for days in FRAUD_DAYS),
)
TICKS, MOST = 10_000, 1e9  # a number counts in ten-thousandths, and as no larger, nor smaller than -MOST
LASTS = {"days_since": "last", "days_since_fraud": "last_fraud"}
KNOWN = (*COUNTS, *LASTS)


class Past(NamedTuple):
    """What came before some rows, of their entities.

    Attributes:
        facts: as `facts` gives them; whose they were counts for nothing.
        sums: of earlier facts of each entity that add nothing more as time goes on: what `settled` gives.
    """

    facts: DataFrame
    sums: DataFrame


def as_of(
    rows: DataFrame,
    key: str,
    entities: Sequence[str],
    numbers: Sequence[str] = (),
    *,
    past: Past | None = None,
    heavy: int | None = HEAVY,
) -> DataFrame:
    """Each row with what was known of its entities at its moment.

    Args:
        rows: `key` (unique), time, arrival_time, fraud (double: 0 or 1; null: not known), label_time (from when on the
            label may be used; null: never), the entities' columns (string; null: the row has none) and `numbers`.
        key: the column that tells rows apart.
        entities: columns.
        numbers: columns (double; null or not finite: the row adds none) whose means of the entities' rows are asked.
        past: what came before, where it is not among the rows.
        heavy: rows of an entity past which its time line is cut into hours; decides no result; None: none is cut.

    Returns:
        The rows, and ENTITY_NAME for each entity and name of KNOWN: rows, rows_1d, rows_7d, rows_30d, labels, frauds,
        frauds_7d, frauds_30d (bigint; 0 where there is no entity), days_since and days_since_fraud (double; days since
        the entity's last row, and since its last fraud came to be known; null: none); for each number
        ENTITY_NUMBER_mean_1d, _7d and _30d (double; of the entity's recent rows that have one; null: there is none).
    """
    adds = (*COUNTS, *_sums_of(numbers))
    asking = facts(rows, key, entities, numbers)
    entries = _entries(asking, numbers, asks=True)
    if past is not None:
        held = [_entries(past.facts, numbers), past.sums.withColumn("key", F.lit(None).cast("string"))]
        for more in held:
            entries = entries.unionByName(more.select(*entries.columns))
    entries = _in_parts(entries, asking, heavy)
    line = Window.partitionBy("kind", "entity", "part").orderBy("clock")
    until_now = line.rangeBetween(Window.unboundedPreceding, Window.currentRow)
    running = entries.select(
        "kind", "entity", "part", "key", "clock",
        *(F.sum(name).over(until_now).alias(name) for name in adds),
        *(F.max(name).over(until_now).alias(name) for name in LASTS.values()),
    )  # fmt: skip
    asked = running.where("key IS NOT NULL")
    if heavy is not None:
        asked = _on_top(asked, _before(entries, adds), adds)
    found = asked.select(
        "kind",
        "key",
        *COUNTS,
        *(((F.col("clock") - F.col(last)) / DAY_US).alias(name) for name, last in LASTS.items()),
        *(_mean(number, days) for number in numbers for days in RECENT_DAYS),
    )
    names = (*KNOWN, *means_of(numbers))
    wide = found.groupBy("key").agg(
        *(
            F.max(F.when(F.col("kind") == entity, F.col(name))).alias(f"{entity}_{name}")
            for entity in entities
            for name in names
        )
    )
    held_rows = rows.join(wide.withColumnRenamed("key", key), on=key, how="left")
    none = {f"{entity}_{name}": F.coalesce(f"{entity}_{name}", F.lit(0)) for entity in entities for name in COUNTS}
    return held_rows.withColumns(none)


def means_of(numbers: Sequence[str]) -> tuple[str, ...]:
    """The names of numbers' means."""
    return tuple(f"{number}_mean_{days}d" for number in numbers for days in RECENT_DAYS)


def _mean(number: str, days: int) -> Column:
    rows = F.col(f"{number}_rows_{days}d")
    return F.when(rows > 0, F.col(f"{number}_sum_{days}d") / rows / TICKS).alias(f"{number}_mean_{days}d")


def _sums_of(numbers: Sequence[str]) -> tuple[str, ...]:
    """What entries add of numbers: their sums, in ticks, and how many there are."""
    return tuple(f"{number}_{what}_{days}d" for number in numbers for what in ("sum", "rows") for days in RECENT_DAYS)


def rate(entity: str, prior: float) -> Column:
    """An entity's share of frauds among its known labels; a `prior` counts as one label more."""
    return (F.col(f"{entity}_frauds") + F.lit(prior)) / (F.col(f"{entity}_labels") + 1)


def facts(rows: DataFrame, key: str, entities: Sequence[str], numbers: Sequence[str] = ()) -> DataFrame:
    """What rows tell of their entities: kind, entity, key, time, known (from when on the row counts), told (from when
    on its label does; null: never), all in microseconds, fraud (bigint), and each number in TICKS, so that their sums
    are exact in whatever order.

    Args:
        rows, key, entities, numbers: as for `as_of`.
    """
    of = F.explode(F.array(*(F.struct(F.lit(name).alias("kind"), F.col(name).alias("entity")) for name in entities)))
    known = F.greatest(F.unix_micros("time") + 1, F.unix_micros("arrival_time"))
    told = F.when(
        F.col("fraud").isNotNull() & F.col("label_time").isNotNull(), F.greatest(known, F.unix_micros("label_time"))
    )
    return (
        rows.select(
            F.col(key).alias("key"),
            F.unix_micros("time").alias("time"),
            known.alias("known"),
            told.alias("told"),
            F.col("fraud").cast("bigint").alias("fraud"),
            *(_ticks(number).alias(number) for number in numbers),
            of.alias("of"),
        )
        .select("of.kind", "of.entity", "*")
        .drop("of")
        .where("entity IS NOT NULL")
    )


def _ticks(number: str) -> Column:
    held = F.greatest(F.least(number, F.lit(MOST)), F.lit(-MOST))  # which pass a null over
    return F.when(F.abs(number) < float("inf"), F.round(held * TICKS).cast("bigint"))


def is_settled(now: Column) -> Column:
    """Whether a fact adds nothing more to what is asked at a moment (microseconds) or later."""
    last = F.greatest("known", "told")
    return last + max((*RECENT_DAYS, *FRAUD_DAYS)) * DAY_US <= now


def settled(held: DataFrame, numbers: Sequence[str] = ()) -> DataFrame:
    """Facts that add nothing more (`is_settled`) added up: kind, entity, clock, and what entries have."""
    sums = [F.sum(name).alias(name) for name in (*COUNTS, *_sums_of(numbers))]
    lasts = [F.max(name).alias(name) for name in ("clock", *LASTS.values())]
    return _entries(held, numbers).groupBy("kind", "entity").agg(*lasts, *sums)


def added(sums: DataFrame, more: DataFrame) -> DataFrame:
    """What `settled` gave at two times, added up."""
    lasts = ("clock", *LASTS.values())
    each = [(F.max if name in lasts else F.sum)(name).alias(name) for name in sums.columns[2:]]
    return sums.unionByName(more).groupBy("kind", "entity").agg(*each)


def _entries(held: DataFrame, numbers: Sequence[str], *, asks: bool = False) -> DataFrame:
    """The entries of all facts: kind, entity, clock, key (of an ask alone), what each adds to COUNTS and to sums of
    numbers, last (the time of a row that is known now) and last_fraud (when a fraud came to be known)."""
    nothing = F.lit(None).cast("bigint")
    adds_to = (*COUNTS, *_sums_of(numbers))

    def entry(clock: Column, adds: Mapping[str, Column | int], *, asked: bool = False, **lasts: Column) -> Column:
        return F.struct(
            clock.alias("clock"),
            (F.col("key") if asked else F.lit(None).cast("string")).alias("key"),
            *(F.lit(adds.get(name, 0)).cast("bigint").alias(name) for name in adds_to),
            *(lasts.get(name, nothing).alias(name) for name in LASTS.values()),
        )

    def recent(days: int, sign: int) -> dict[str, Column | int]:
        sums = {f"{number}_sum_{days}d": sign * F.coalesce(number, F.lit(0)) for number in numbers}
        rows = {f"{number}_rows_{days}d": sign * F.col(number).isNotNull().cast("bigint") for number in numbers}
        return {f"rows_{days}d": sign} | sums | rows

    fraud_told = F.when(F.col("fraud") == 1, F.col("told"))
    now_recent = {name: add for days in RECENT_DAYS for name, add in recent(days, 1).items()}
    now_told: dict[str, Column | int] = dict.fromkeys((name for name in COUNTS if "fraud" in name), F.col("fraud"))
    on_the_line = F.array(
        *([entry(F.col("time"), {}, asked=True)] if asks else []),
        entry(F.col("known"), {"rows": 1} | now_recent, last=F.col("time")),
        *(entry(F.col("known") + days * DAY_US, recent(days, -1)) for days in RECENT_DAYS),
        entry(F.col("told"), {"labels": 1} | now_told, last_fraud=fraud_told),
        *(entry(fraud_told + days * DAY_US, {f"frauds_{days}d": -1}) for days in FRAUD_DAYS),
    )
    entries = held.select("kind", "entity", F.explode(on_the_line).alias("entry"))
    return entries.select("kind", "entity", "entry.*").where("clock IS NOT NULL")


def _in_parts(entries: DataFrame, asking: DataFrame, heavy: int | None) -> DataFrame:
    """Entries with is_heavy and part (of a heavy entity's time line; else 0)."""
    if heavy is None:
        return entries.withColumns({"is_heavy": F.lit(False), "part": F.lit(0)})
    many = asking.groupBy("kind", "entity").count().where(F.col("count") > heavy)
    marked = entries.join(
        F.broadcast(many.select("kind", "entity", F.lit(True).alias("many"))), on=["kind", "entity"], how="left"
    )
    is_heavy = F.col("many").isNotNull()
    hour = F.col("clock") - F.pmod("clock", F.lit(HOUR_US))
    return marked.select("*", is_heavy.alias("is_heavy"), F.when(is_heavy, hour).otherwise(F.lit(0)).alias("part"))


def _on_top(asked: DataFrame, before: DataFrame, adds: Sequence[str]) -> DataFrame:
    """Running sums on top of those of the parts before."""
    joined = asked.join(before, on=["kind", "entity", "part"], how="left")
    return joined.select(
        "kind", "entity", "key", "clock",
        *((F.col(name) + F.coalesce(f"before_{name}", F.lit(0))).alias(name) for name in adds),
        *(F.greatest(name, f"before_{name}").alias(name) for name in LASTS.values()),
    )  # fmt: skip


def _before(entries: DataFrame, adds: Sequence[str]) -> DataFrame:
    """What the parts of a heavy entity's line before each part add up to."""
    parts = entries.where("is_heavy").groupBy("kind", "entity", "part")
    lasts = LASTS.values()
    sums = parts.agg(*(F.sum(name).alias(name) for name in adds), *(F.max(name).alias(name) for name in lasts))
    earlier = Window.partitionBy("kind", "entity").orderBy("part").rowsBetween(Window.unboundedPreceding, -1)
    return sums.select(
        "kind", "entity", "part",
        *(F.sum(name).over(earlier).alias(f"before_{name}") for name in adds),
        *(F.max(name).over(earlier).alias(f"before_{name}") for name in lasts),
    )  # fmt: skip
