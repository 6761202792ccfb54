"""Rows of attributes of items or users to one row an id: typed, the newest of each id; each row has one disposition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_udfs import typed_texts
from spark_udfs.order_lines import cleaned

TIME = "time"  # of a row: the newest of an id counts
KEPT, OLDER, DUPLICATE = "attributes", "older_attributes", "duplicate"
GOOD = (KEPT, OLDER, DUPLICATE)
REASONS = {
    "malformed_line": "more or fewer fields than the header, or no JSON",
    "missing_id": "the id is null or blank",
    "unreadable_time": "the time is missing or does not fit time_format",
    "unreadable_attribute": "an attribute is not of the type that types say",
    "several_rows": "another row of the id, and no time says which is the newer",
}
TYPES = {
    "text": "string",
    "number": "double",
    "whole": "bigint",
    "flag": "boolean",
    "time": "timestamp",
    "texts": "array<string>",
    "numbers": "array<double>",
    "wholes": "array<bigint>",
}
_WHOLE = r"^\s*[+-]?[0-9]{1,18}\s*$"


@dataclass(frozen=True)
class AttributeRules:
    """How to read a source of attributes.

    Attributes:
        id: item_id or user_id.
        columns: the raw column's name, by ours: the id, TIME (may be missing), attributes.
        types: of TYPES, by attribute; those of texts that are not named are texts, others stay what they are.
        time_format: of TIME and of attributes that are times.
        time_zone: of times that name none.
        decimal_comma: whether numbers in texts have a comma where others have a point.
        normalise_ids: as in `spark_udfs.order_lines`.
    """

    id: str
    columns: Mapping[str, str]
    types: Mapping[str, str]
    time_format: str
    time_zone: str = "UTC"
    decimal_comma: bool = False
    normalise_ids: bool = False

    @property
    def attributes(self) -> list[str]:
        return [name for name in self.columns if name not in (self.id, TIME)]


def sort_out(raw: DataFrame, rules: AttributeRules, malformed: str | None = None) -> DataFrame:
    """Type every distinct raw row and give it its one disposition.

    Args:
        raw: texts, or columns of any types but maps.
        rules: how to read them.
        malformed: the column that holds a malformed line's text; null in all other rows.

    Returns:
        The id, the attributes, TIME, `row` (the raw row as JSON), `copies`, `disposition` (of GOOD, or a key of
        REASONS).
    """
    place = {name: f"column_{number}" for number, name in enumerate(raw.columns)}
    held = raw.toDF(*place.values())
    row = F.to_json(F.struct(*(F.col(column).cast("string").alias(name) for name, column in place.items())))
    is_malformed = F.col(place[malformed]).isNotNull() if malformed else F.lit(False)
    values = {name: _value(held, place[rules.columns[name]], name, rules) for name in rules.attributes}
    lost = [F.col(place[rules.columns[name]]).isNotNull() & value.isNull() for name, value in values.items()]
    blank = [F.trim(F.col(place[rules.columns[name]]).cast("string")) == "" for name in values]
    unreadable = F.lit(False)
    for is_lost, is_blank in zip(lost, blank, strict=True):
        unreadable = unreadable | (is_lost & ~F.coalesce(is_blank, F.lit(False)))
    id_ = cleaned(F.col(place[rules.columns[rules.id]]).cast("string"), normalise=rules.normalise_ids)
    time = _time(held, place[rules.columns[TIME]], rules) if TIME in rules.columns else F.lit(None).cast("timestamp")
    faults = {
        "malformed_line": is_malformed,
        "missing_id": id_.isNull(),
        "unreadable_time": time.isNull() & F.lit(TIME in rules.columns),
        "unreadable_attribute": unreadable,
    }
    typed = held.select(
        id_.alias(rules.id),
        *(value.alias(name) for name, value in values.items()),
        time.alias(TIME),
        row.alias("row"),
        F.coalesce(*(F.when(faults[reason], F.lit(reason)) for reason in faults)).alias("fault"),
    )
    distinct = typed.groupBy(*typed.columns).agg(F.count(F.lit(1)).alias("copies"))
    newest = Window.partitionBy(rules.id, "fault").orderBy(F.desc_nulls_last(TIME), F.xxhash64("row"), "row")
    others = OLDER if TIME in rules.columns else "several_rows"
    ranked = F.when(F.row_number().over(newest) == 1, KEPT).otherwise(others)
    disposition = F.coalesce("fault", ranked).alias("disposition")
    return distinct.select(rules.id, *rules.attributes, TIME, "row", "copies", disposition)


def kept(sorted_out: DataFrame, rules: AttributeRules) -> DataFrame:
    """One row an id: the id, its attributes."""
    return sorted_out.where(F.col("disposition") == KEPT).select(rules.id, *rules.attributes)


def history(sorted_out: DataFrame, rules: AttributeRules) -> DataFrame:
    """One row an id and time: the id, TIME (from which on the attributes hold), its attributes."""
    first = F.row_number().over(Window.partitionBy(rules.id, TIME).orderBy(F.xxhash64("row"), "row"))
    good = sorted_out.where(F.col("disposition").isin(KEPT, OLDER)).withColumn("_first", first)
    return good.where("_first = 1").select(rules.id, TIME, *rules.attributes)


def as_of(rows: DataFrame, held: DataFrame, id_name: str, names: Sequence[str]) -> DataFrame:
    """Rows with what held of their ids at their own times; null where nothing was known yet.

    Args:
        rows: have the id and TIME.
        held: the id, TIME from which on a row's attributes hold, and these; null: the one before goes on.
        id_name: the id's column.
        names: the attributes wanted, none of them a column of rows.
    """
    mine = F.struct(*rows.columns)
    asked = rows.select(id_name, TIME, F.lit(True).alias("_asked"), mine.alias("_row"))
    known = held.where(F.col(TIME).isNotNull()).select(id_name, TIME, F.lit(False).alias("_asked"), *names)
    until = Window.partitionBy(id_name).orderBy(TIME, "_asked").rowsBetween(Window.unboundedPreceding, 0)
    last = [F.last(name, ignorenulls=True).over(until).alias(name) for name in names]
    every = asked.unionByName(known, allowMissingColumns=True)
    return every.select("_asked", "_row", *last).where("_asked").select("_row.*", *names)


def set_aside(sorted_out: DataFrame) -> DataFrame:
    """The rows with a fault: `reason`, `row` (JSON)."""
    rows = sorted_out.where(F.col("disposition").isin(*REASONS))
    return rows.select(F.col("disposition").alias("reason"), "row").distinct()


def counts(sorted_out: DataFrame) -> DataFrame:
    """`disposition`, `rows`: they add up to the raw rows."""
    first = sorted_out.select("disposition", F.lit(1).alias("rows"))
    further = sorted_out.select(F.lit(DUPLICATE).alias("disposition"), (F.col("copies") - 1).alias("rows"))
    return first.unionByName(further).groupBy("disposition").agg(F.sum("rows").alias("rows")).where("rows > 0")


def joined(facts: DataFrame, id_name: str, parts: Sequence[DataFrame], texts: Sequence[str]) -> DataFrame:
    """Facts with attributes, a row for each id that either has.

    Args:
        facts: a row an id.
        id_name: the id's column.
        parts: attributes from `kept`, no name twice.
        texts: columns of facts that an attribute of the same name goes over, where it is not null.
    """
    for part in parts:
        over = [name for name in texts if name in part.columns]
        renamed = part.select(*(F.col(name).alias(f"_{name}" if name in over else name) for name in part.columns))
        both = facts.join(renamed, on=id_name, how="full")
        facts = both.select(
            *(
                F.coalesce(F.col(f"_{name}").cast("string"), F.col(name)).alias(name) if name in over else F.col(name)
                for name in both.columns
                if name not in {f"_{name}" for name in over}
            )
        )
    return facts


def _value(held: DataFrame, column: str, name: str, rules: AttributeRules) -> Column:
    """An attribute; null where it is not of its type."""
    is_text = held.schema[column].dataType.simpleString() == "string"
    wanted = rules.types.get(name, "text" if is_text else None)
    if wanted is None:
        return F.col(column)
    if not is_text:
        return F.expr(f"try_cast({column} AS {TYPES[wanted]})")
    text = cleaned(F.col(column), normalise=False)
    if wanted == "time":
        return typed_texts.time(text, rules.time_format, rules.time_zone)
    if wanted in ("texts", "numbers", "wholes"):
        return _list(text, wanted)
    if wanted in ("number", "whole") and rules.decimal_comma:
        text = typed_texts.with_point(text)
    if wanted == "number":
        return F.when(text.rlike(typed_texts.NUMBER), text).cast("double")
    if wanted == "whole":
        return F.when(text.rlike(_WHOLE), text).cast("bigint")
    if wanted == "flag":
        return F.when(F.lower(text).isin("true", "1", "yes"), True).when(F.lower(text).isin("false", "0", "no"), False)
    return text


def _list(text: Column, wanted: str) -> Column:
    """A list of JSON, or parts between bars."""
    parts = F.when(F.startswith(text, F.lit("[")), F.from_json(text, "array<string>")).otherwise(F.split(text, r"\|"))
    if wanted == "texts":
        return parts
    pattern, kind = (typed_texts.NUMBER, "double") if wanted == "numbers" else (_WHOLE, "bigint")
    numbers = F.transform(parts, lambda part: F.when(part.rlike(pattern), part).cast(kind))
    return F.when(F.size(F.filter(numbers, lambda number: number.isNull())) == 0, numbers)


def _time(held: DataFrame, column: str, rules: AttributeRules) -> Column:
    kind = held.schema[column].dataType
    if kind.simpleString() in ("timestamp", "timestamp_ntz", "date"):
        time = F.col(column).cast("timestamp")
        return typed_texts.in_zone(time, rules.time_zone) if isinstance(kind, typed_texts.ZONELESS) else time
    return typed_texts.time(F.col(column).cast("string"), rules.time_format, rules.time_zone)
