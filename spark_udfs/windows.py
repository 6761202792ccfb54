"""What was known of an entity at the moment of each row: its earlier rows, the recent ones, the labels that had come.

An entity is whatever rows share: a network address, a device, an e-mail domain. At a row's moment there counts

- a row that happened strictly earlier and had arrived: rows of one time see none of each other, whatever their order;
- as recent, a row or a fraud that came to be known within so many days before the moment;
- a label whose time has come, of a row that counts; never the row's own.

Each row becomes a handful of entries on its entity's time line (it is known; it is no longer recent; its label is
known; a fraud is no longer recent; it asks), and an ask reads the running sums: work grows with the rows, in Spark's
own sorted windows, which spill to disk. No row is left out, and nothing is held per entity. The line of an entity with
more than `HEAVY` rows is cut into hours, which are summed up first, so that one entity with most of a shop's rows is
many small tasks and not one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
LASTS = {"days_since": "last", "days_since_fraud": "last_fraud"}
KNOWN = (*COUNTS, *LASTS)


def as_of(rows: DataFrame, key: str, entities: Sequence[str], *, heavy: int = HEAVY) -> DataFrame:
    """Each row with what was known of its entities at its moment.

    Args:
        rows: `key` (unique), time, arrival_time, fraud (double: 0 or 1; null: not known), label_time (from when on the
            label may be used; null: never) and the entities' columns (string; null: the row has none).
        key: the column that tells rows apart.
        entities: columns.
        heavy: rows of an entity past which its time line is cut into hours; decides no result.

    Returns:
        The rows, and ENTITY_NAME for each entity and name of KNOWN: rows, rows_1d, rows_7d, rows_30d, labels, frauds,
        frauds_7d, frauds_30d (bigint; 0 where there is no entity), days_since and days_since_fraud (double; days since
        the entity's last row, and since its last fraud came to be known; null: none).
    """
    entries = _entries(rows, key, entities, heavy)
    line = Window.partitionBy("kind", "entity", "part").orderBy("clock")
    until_now = line.rangeBetween(Window.unboundedPreceding, Window.currentRow)
    running = entries.select(
        "kind", "entity", "part", "key", "clock",
        *(F.sum(name).over(until_now).alias(name) for name in COUNTS),
        *(F.max(name).over(until_now).alias(name) for name in LASTS.values()),
    )  # fmt: skip
    asked = running.where("key IS NOT NULL").join(_before(entries), on=["kind", "entity", "part"], how="left")
    found = asked.select(
        "kind",
        "key",
        *((F.col(name) + F.coalesce(f"before_{name}", F.lit(0))).alias(name) for name in COUNTS),
        *(((F.col("clock") - F.greatest(last, f"before_{last}")) / DAY_US).alias(name) for name, last in LASTS.items()),
    )
    wide = found.groupBy("key").agg(
        *(
            F.max(F.when(F.col("kind") == entity, F.col(name))).alias(f"{entity}_{name}")
            for entity in entities
            for name in KNOWN
        )
    )
    held = rows.join(wide.withColumnRenamed("key", key), on=key, how="left")
    none = {f"{entity}_{name}": F.coalesce(f"{entity}_{name}", F.lit(0)) for entity in entities for name in COUNTS}
    return held.withColumns(none)


def rate(entity: str, prior: float) -> Column:
    """An entity's share of frauds among its known labels; a `prior` counts as one label more."""
    return (F.col(f"{entity}_frauds") + F.lit(prior)) / (F.col(f"{entity}_labels") + 1)


def _entries(rows: DataFrame, key: str, entities: Sequence[str], heavy: int) -> DataFrame:
    """The entries of all rows: kind, entity, part (of a heavy entity's time line; else 0), is_heavy, clock, key (of an
    ask alone), what each adds to COUNTS, last (the time of a row that is known now) and last_fraud (when a fraud came
    to be known)."""
    of = F.explode(F.array(*(F.struct(F.lit(name).alias("kind"), F.col(name).alias("entity")) for name in entities)))
    known = F.greatest(F.unix_micros("time") + 1, F.unix_micros("arrival_time"))
    cases = (
        rows.select(
            F.col(key).alias("key"),
            F.unix_micros("time").alias("time"),
            known.alias("known"),
            F.when(F.col("fraud").isNotNull(), F.greatest(known, F.unix_micros("label_time"))).alias("label_known"),
            F.col("label_time").isNotNull().alias("is_labelled"),
            F.col("fraud").cast("bigint").alias("fraud"),
            of.alias("of"),
        )
        .select("*", "of.kind", "of.entity")
        .where("entity IS NOT NULL")
    )

    nothing = F.lit(None).cast("bigint")

    def entry(clock: Column, adds: Mapping[str, Column | int], *, asks: bool = False, **lasts: Column) -> Column:
        return F.struct(
            clock.alias("clock"),
            (F.col("key") if asks else F.lit(None).cast("string")).alias("key"),
            *(F.lit(adds.get(name, 0)).cast("bigint").alias(name) for name in COUNTS),
            *(lasts.get(name, nothing).alias(name) for name in LASTS.values()),
        )

    told = F.when(F.col("is_labelled"), F.col("label_known"))
    fraud_told = F.when(F.col("fraud") == 1, told)
    now_recent: dict[str, Column | int] = {f"rows_{days}d": 1 for days in RECENT_DAYS}
    now_told: dict[str, Column | int] = dict.fromkeys((name for name in COUNTS if "fraud" in name), F.col("fraud"))
    on_the_line = F.array(
        entry(F.col("time"), {}, asks=True),
        entry(F.col("known"), {"rows": 1} | now_recent, last=F.col("time")),
        *(entry(F.col("known") + days * DAY_US, {f"rows_{days}d": -1}) for days in RECENT_DAYS),
        entry(told, {"labels": 1} | now_told, last_fraud=fraud_told),
        *(entry(fraud_told + days * DAY_US, {f"frauds_{days}d": -1}) for days in FRAUD_DAYS),
    )
    entries = cases.select("kind", "entity", F.explode(on_the_line).alias("entry"))
    entries = entries.select("kind", "entity", "entry.*").where("clock IS NOT NULL")
    many = cases.groupBy("kind", "entity").count().where(F.col("count") > heavy)
    marked = entries.join(
        F.broadcast(many.select("kind", "entity", F.lit(True).alias("many"))), on=["kind", "entity"], how="left"
    )
    is_heavy = F.col("many").isNotNull()
    hour = F.col("clock") - F.pmod("clock", F.lit(HOUR_US))
    return marked.select("*", is_heavy.alias("is_heavy"), F.when(is_heavy, hour).otherwise(F.lit(0)).alias("part"))


def _before(entries: DataFrame) -> DataFrame:
    """What the parts of a heavy entity's line before each part add up to."""
    parts = entries.where("is_heavy").groupBy("kind", "entity", "part")
    lasts = LASTS.values()
    sums = parts.agg(*(F.sum(name).alias(name) for name in COUNTS), *(F.max(name).alias(name) for name in lasts))
    earlier = Window.partitionBy("kind", "entity").orderBy("part").rowsBetween(Window.unboundedPreceding, -1)
    return sums.select(
        "kind", "entity", "part",
        *(F.sum(name).over(earlier).alias(f"before_{name}") for name in COUNTS),
        *(F.max(name).over(earlier).alias(f"before_{name}") for name in lasts),
    )  # fmt: skip
