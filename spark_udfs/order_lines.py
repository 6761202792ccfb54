"""Raw order lines to events: every raw row gets exactly one disposition, by rules in a stated order.

    raw strings --sort_out--> one row per distinct raw row: disposition, number of copies, typed columns

A row that equals another in every column is a duplicate: one copy goes on, the others are counted. Malformed lines
have no columns to compare: each of them counts as one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, TimestampType

from spark_udfs import texts, typed_texts
from spark_udfs.erased import Erased
from spark_udfs.event_names import KINDS, NAMES, SOLD
from spark_udfs.features import utc

IGNORED = "ignored"  # the kind that stands for a shop's words that are none of ours, on purpose

SALE = "sale"
SALE_WITHOUT_CUSTOMER = "sale_without_customer"
RETURN = "return"
DUPLICATE = "duplicate"
ERASED = "erased"  # of a person who was erased: counted, and written nowhere
KEPT = (SALE, SALE_WITHOUT_CUSTOMER, RETURN, *(kind for kind in KINDS if kind not in SOLD))
# Set aside by rule: nothing is wrong with such a row.
BY_RULE = (DUPLICATE, ERASED, "not_a_product", "ignored_kind")
# In the order in which they are tried: a row with two faults is counted under the first.
REASONS = {
    "malformed_line": "more or fewer fields than the header, or no JSON (quoted line breaks: ingest.multiline=true)",
    "missing_order_id": "the order id of a sale or a return is null or blank",
    "missing_item_id": "the item id is null or blank",
    "not_a_product": "the item id does not match ingest.item_pattern: postage, fees, vouchers",
    "unknown_kind": "the kind is no word of ingest.kinds, or without these none of " + ", ".join(KINDS),
    "ignored_kind": "the kind is null in ingest.kinds",
    "missing_time": "the time is null or blank",
    "unreadable_time": "the time does not fit time_format",
    "early_time": "the time lies before ingest.earliest (default: 1970; of epochs, 1990)",
    "future_time": "the time lies after ingest.now (default: the clock)",
    "unreadable_arrival_time": "the arrival time does not fit time_format",
    "unreadable_quantity": "the quantity of a sale or a return is missing or not a whole number",
    "quantity_not_positive": "a sale's is zero or below, or a return's is zero",
    "unreadable_price": "the price of a sale or a return is missing or not a finite number",
    "price_not_positive": "the price of a sale or a return is zero or below",
    "unreadable_rating": "the rating of a rating is missing or not a finite number",
}
EVENT_COLUMNS = (
    "event_id", "order_id", "user_id", "item_id", "kind", "time", "arrival_time", "quantity", "price",
    "name", "category", "country", "rating",
)  # fmt: skip
TIMES = ("time", "arrival_time")
TEXTS = ("order_id", "user_id", "item_id", "name", "category", "country")
IDS = ("order_id", "user_id", "item_id")
NUMBERS = ("quantity", "price", "rating")
OF_NO_PERSON = ("order_id", "item_id", "kind", *TIMES, *NUMBERS)
REPLACED = "\ufffd"  # what stands for bytes that the encoding does not know
EARLIEST = datetime(1970, 1, 1)
EARLIEST_EPOCH = datetime(1990, 1, 1)  # seconds that are taken for milliseconds lie in 1970
# What stands for a malformed line once persons were erased: its text may be of one of them, and no column says so.
NOT_KEPT = '{"malformed_line": "its text is not kept, since persons were erased"}'


@dataclass(frozen=True)
class Rules:
    """How to read a shop's order lines.

    Attributes:
        columns: the raw column's name, by ours (NAMES).
        constants: what all rows have, by our name; None: a name on purpose without a column.
        kinds: ours (KINDS; None: set aside), by the source's word, upper and lower case as one; none: KINDS themselves.
        time_format: Spark's datetime pattern of time and arrival_time, or epoch_s, epoch_ms.
        time_zone: of times that name none.
        decimal_comma: whether numbers have a comma where others have a point.
        cancelled_prefix: an order id that starts with it is a return.
        item_pattern: a regular expression; item ids that do not match are not products.
        now: later rows lie in the future; None: the clock.
        earliest: earlier rows are no shop's.
        normalise_ids: take invisible characters and blanks around out of ids, and compose accents (Unicode NFC).
    """

    columns: Mapping[str, str]
    constants: Mapping[str, str | None] = field(default_factory=dict)
    kinds: Mapping[str, str | None] = field(default_factory=dict)
    time_format: str = "yyyy-MM-dd HH:mm:ss"
    time_zone: str = "UTC"
    decimal_comma: bool = False
    cancelled_prefix: str | None = None
    item_pattern: str | None = None
    now: datetime | None = None
    earliest: datetime = EARLIEST
    normalise_ids: bool = False


def sort_out(
    raw: DataFrame, rules: Rules, malformed: str | None = None, erased: Erased | None = None, *, source: str = ""
) -> DataFrame:
    """Type every distinct raw row and give it its one disposition.

    Args:
        raw: columns of text, times typed or as text; among them those that `rules.columns` names.
        rules: how to read them.
        malformed: the column that holds a malformed line's text; null in all other rows.
        erased: persons whose rows are ERASED, whatever else is wrong with them; None: nobody.
        source: the name of where they lie.

    Returns:
        EVENT_COLUMNS (null where unreadable), `said_kind` (the source's word, in lower case), `row` (the raw row as
        JSON; NOT_KEPT for a malformed line where persons were erased), `copies` (bigint: how often it stood in the
        input), `disposition` (one of KEPT, ERASED, or a key of REASONS), `source`.
    """
    # By number: a source may call its columns as we call ours, or with dots and backticks.
    raw, rules = _with_constants(raw, rules)
    place = {name: f"column_{number}" for number, name in enumerate(raw.columns)}
    distinct = raw.toDF(*place.values()).groupBy(*place.values()).agg(F.count(F.lit(1)).alias("copies"))
    row = distinct.select(
        F.to_json(F.struct(*(F.col(held).cast("string").alias(name) for name, held in place.items()))).alias("row"),
        "copies",
        *(_raw(rules, name, place, distinct).alias(f"raw_{name}") for name in NAMES),
        (F.col(place[malformed]).isNotNull() if malformed else F.lit(False)).alias("is_malformed"),
    )
    typed = row.select("*", *_typed(rules, row))
    sorted_out = typed.withColumn("disposition", _disposition(rules))
    if erased is not None:
        marked = erased.mark(sorted_out, "user_id", "is_erased")
        disposition = F.when(F.col("is_erased"), ERASED).otherwise(F.col("disposition"))
        text = F.when(F.col("is_malformed"), NOT_KEPT).otherwise(F.col("row"))
        sorted_out = marked.withColumn("disposition", disposition).withColumn("row", text)
    return sorted_out.select(
        *EVENT_COLUMNS, F.lower("raw_kind").alias("said_kind"), "row", "copies", "disposition",
        F.lit(source).alias("source"),
    )  # fmt: skip


def names_no_zone(raw: DataFrame, rules: Rules) -> bool:
    """Whether the rows have times without a zone, which are then taken as of `rules.time_zone`."""
    return any(
        typed_texts.zoneless(raw, rules.columns[name], rules.time_format) for name in TIMES if name in rules.columns
    )


def of_no_person(columns: Mapping[str, str]) -> frozenset[str]:
    """The raw columns whose values say nothing of a person: a quantity of 12 does not mean customer 12.

    Args:
        columns: the raw column's name, by ours.
    """
    return frozenset(columns[name] for name in OF_NO_PERSON if name in columns)


def event_id(row: Column) -> Column:
    """The id of an event, by the raw row as JSON."""
    return F.substring(F.sha2(row, 256), 1, 32)


def _with_constants(raw: DataFrame, rules: Rules) -> tuple[DataFrame, Rules]:
    """The rows with a column for each constant, which is then a part of them, and rules that name these columns."""
    columns, taken = dict(rules.columns), {name.lower() for name in raw.columns}
    for name, value in rules.constants.items():
        if value is not None:
            columns[name] = name if name not in taken else f"constant {name}"
            raw = raw.withColumn(columns[name], F.lit(value))
    return raw, replace(rules, columns=columns)


def _raw(rules: Rules, name: str, place: Mapping[str, str], rows: DataFrame) -> Column:
    """One of our columns: a time as it is, or its text, trimmed; null where blank or not in the source."""
    if name not in rules.columns:
        return F.lit(None).cast("string")
    held = place[rules.columns[name]]
    kind = rows.schema[held].dataType
    if name in TIMES and not isinstance(kind, StringType):
        time = F.col(held).cast("timestamp")
        return typed_texts.in_zone(time, rules.time_zone) if isinstance(kind, typed_texts.ZONELESS) else time
    text = cleaned(F.col(held).cast("string"), normalise=name in IDS and rules.normalise_ids)
    return typed_texts.with_point(text) if name in NUMBERS and rules.decimal_comma else text


def cleaned(text: Column, *, normalise: bool) -> Column:
    """A text as ingest keeps it: trimmed or, of an id where the rules say so, normalised; null where blank."""
    trimmed = texts.apply(normalised, F.trim(text)) if normalise else F.trim(text)
    return F.when(trimmed != "", trimmed)


def normalised(text: str) -> str:
    """Without control and invisible characters and blanks around, accents composed (Unicode NFC)."""
    shown = (character for character in text if unicodedata.category(character) not in ("Cc", "Cf"))
    return unicodedata.normalize("NFC", "".join(shown)).strip()


def _time(rules: Rules, rows: DataFrame, name: str) -> Column:
    held = F.col(f"raw_{name}")
    is_typed = isinstance(rows.schema[f"raw_{name}"].dataType, TimestampType)
    return held if is_typed else typed_texts.time(held, rules.time_format, rules.time_zone)


def _typed(rules: Rules, rows: DataFrame) -> list[Column]:
    # A prefix of None makes this null, and no row a return.
    is_return = F.startswith(F.col("raw_order_id"), F.lit(rules.cancelled_prefix).cast("string"))
    time, arrival = (_time(rules, rows, name) for name in TIMES)
    quantity, price, rating = (typed_texts.number(f"raw_{name}") for name in NUMBERS)
    whole = (quantity == F.floor(quantity)) & (F.abs(quantity) < 2**53)
    kind = F.when(is_return, F.lit("return")).otherwise(_kind(rules))
    signed = F.when(whole, quantity.cast("bigint"))
    return [
        event_id(F.col("row")).alias("event_id"),
        *(F.col(f"raw_{name}").alias(name) for name in TEXTS),
        kind.alias("kind"),
        time.alias("time"),
        arrival.alias("said_arrival"),
        # What is not said to be late is known at once; nothing is known before it happens.
        F.greatest(time, arrival).alias("arrival_time"),
        F.when(kind == "return", F.abs(signed)).otherwise(signed).alias("quantity"),
        price.alias("price"),
        rating.alias("rating"),
    ]


def _kind(rules: Rules) -> Column:
    """One of KINDS, or IGNORED; null: unknown. Where no words are mapped, an event without a kind is a purchase."""
    if not rules.kinds:
        said = F.coalesce(F.lower("raw_kind"), F.lit("purchase"))
        return F.when(said.isin(*KINDS), said)
    words: dict[str, list[str]] = {}
    for word, kind in rules.kinds.items():
        words.setdefault(kind or IGNORED, []).append(word.strip().lower())
    return F.coalesce(*(F.when(F.lower("raw_kind").isin(*said), F.lit(kind)) for kind, said in words.items()))


def _disposition(rules: Rules) -> Column:
    now = F.lit(utc(rules.now)) if rules.now else F.current_timestamp()
    is_product = F.col("item_id").rlike(rules.item_pattern) if rules.item_pattern else F.lit(True)
    # A word that nobody knows may be anything: it is named, whatever else is missing.
    is_sold = F.coalesce(F.col("kind").isin(*SOLD), F.lit(False))

    def of_sales(name: str) -> Column:
        return is_sold if name in rules.columns else F.lit(False)

    faults = {
        "malformed_line": F.col("is_malformed"),
        "missing_order_id": of_sales("order_id") & F.col("order_id").isNull(),
        "missing_item_id": F.col("item_id").isNull(),
        "not_a_product": ~is_product,
        "unknown_kind": F.col("kind").isNull(),
        "ignored_kind": F.col("kind") == IGNORED,
        "missing_time": F.col("raw_time").isNull(),
        "unreadable_time": F.col("time").isNull(),
        "early_time": F.col("time") < F.lit(utc(rules.earliest)),
        "future_time": F.col("time") > now,
        "unreadable_arrival_time": F.col("raw_arrival_time").isNotNull() & F.col("said_arrival").isNull(),
        "unreadable_quantity": of_sales("quantity") & F.col("quantity").isNull(),
        "quantity_not_positive": of_sales("quantity") & (F.col("quantity") <= 0),
        "unreadable_price": of_sales("price") & F.col("price").isNull(),
        "price_not_positive": of_sales("price") & (F.col("price") <= 0),
        "unreadable_rating": (F.col("kind") == "rating") & F.col("rating").isNull() & F.lit("rating" in rules.columns),
    }
    kept = (
        F.when(F.col("kind") == "return", RETURN)
        .when(F.col("kind") != "purchase", F.col("kind"))
        .when(F.col("user_id").isNull(), SALE_WITHOUT_CUSTOMER)
        .otherwise(SALE)
    )
    return F.coalesce(*(F.when(faults[reason], F.lit(reason)) for reason in REASONS), kept)
