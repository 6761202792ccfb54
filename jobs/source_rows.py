"""Rows of a source as its task reads them: periods that are columns melted, columns by name and type, faults named."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType, DateType, StructType, TimestampNTZType, TimestampType

from jobs.column_names import NO, YES
from jobs.settings_sources import NamedSource, TableSource, Wide
from jobs.source import Raw, column
from spark_udfs import pictures, typed_texts
from spark_udfs.features import utc
from spark_udfs.moments import DAY_US
from spark_udfs.terms import alike
from training.errors import SchemaError

MALFORMED = "malformed line"
BINARY = "binary"  # the type of pictures
HASHED, HASHED_FROM, HASHED_DAYS = "time", datetime(2000, 1, 1, tzinfo=UTC), 1_000  # of rows without a time


def wanted_of(asked: TableSource, columns: Mapping[str, str]) -> dict[str, str]:
    """The source's column of each of ours; where none is named, the one of the same name."""
    made = set() if asked.wide is None else {asked.wide.time, asked.wide.value}
    if asked.order_by_hash_of:
        made.add(HASHED)
    own = {name: asked.columns.get(name, name) for name in columns if name not in made and name not in asked.joined}
    joined = {name: parts for name, parts in asked.joined.items() if name in columns}
    return own | {f"{name}[{at}]": part for name, parts in joined.items() for at, part in enumerate(parts)}


def melted(raw: Raw, wide: Wide, place: str, wanted: dict[str, str]) -> DataFrame:
    """A row for each column that holds one period: its time, and the value.

    Args:
        raw: a row for each series.
        wide: which columns are periods.
        place: of the settings that name the source, for messages.
        wanted: the source's column of each of ours; gets these two.

    Raises:
        SchemaError: no column is named so.
    """
    pattern = re.compile(f"{re.escape(wide.prefix)}([0-9]+)")
    found = {name: int(match[1]) for name in raw.rows.columns if (match := pattern.fullmatch(name))}
    if not found:
        raise SchemaError(
            f"{place}.wide.prefix is '{wide.prefix}', and no column is named so with a number behind; the source has: "
            f"{', '.join(raw.rows.columns)}"
        )
    first = int(utc(wide.start).timestamp()) * 1_000_000
    cells = F.array(
        *(
            F.struct(
                F.timestamp_micros(F.lit(first + number * wide.days * DAY_US)).alias(wide.time),
                column(name).alias(wide.value),
            )
            for name, number in sorted(found.items(), key=lambda item: item[1])
        )
    )
    held = [column(name) for name in raw.rows.columns if name not in found]
    wanted |= {wide.time: wide.time, wide.value: wide.value}
    return raw.rows.select(*held, F.explode(cells).alias("_cell")).select(*held, "_cell.*")


def ordered(
    raw: Raw, names: Sequence[str], place: str, wanted: dict[str, str], *, without_numbers: bool = False
) -> DataFrame:
    """Give rows that have no time one by a hash, so that what lies last in time is drawn by chance.

    Args:
        raw: the source's rows.
        names: the source's columns that are hashed, as trimmed texts; a null is a value like any other.
        place: of the settings that name the source, for messages.
        wanted: the source's column of each of ours; gets `time`.
        without_numbers: rows that differ in what is masked alone (spark_udfs/text_terms.py) get the same time.

    Raises:
        SchemaError: one of the columns is not there, or the source has a column `time`.
    """
    rows, columns = raw.rows, [name for name in raw.rows.columns if name != raw.malformed]
    strangers = [name for name in names if name not in columns]
    if strangers:
        raise SchemaError(
            f"{place}.order_by_hash_of names '{strangers[0]}', which the source has not; it has: {', '.join(columns)}"
        )
    if HASHED in {name.lower() for name in columns}:
        raise SchemaError(
            f"{place}.order_by_hash_of makes a column '{HASHED}', which the source has: leave order_by_hash_of out"
        )
    texts = [F.trim(column(name).cast("string")) for name in names]
    texts = [alike(text) for text in texts] if without_numbers else texts
    held = F.array(*(F.coalesce(F.concat(F.lit("="), text), F.lit("")) for text in texts))  # hashes pass over nulls
    since = F.pmod(F.xxhash64(held), F.lit(HASHED_DAYS * DAY_US))
    wanted[HASHED] = HASHED
    return rows.withColumn(HASHED, F.timestamp_micros(F.lit(int(HASHED_FROM.timestamp()) * 1_000_000) + since))


def _joined(asked: NamedSource, columns: Collection[str]) -> dict[str, Column]:
    """The ids that several columns make together: no two of different parts are equal, as signs in parts are marked."""
    joined = asked.joined if isinstance(asked, TableSource) else {}
    made = {}
    for name, parts in joined.items():
        if name not in columns:
            continue  # a stream does not read all that the history has
        texts = [F.trim(column(part).cast("string")) for part in parts]
        marked = [F.regexp_replace(text, r"([/\\])", r"\\$1") for text in texts]
        said = [F.when(text != "", marks) for text, marks in zip(texts, marked, strict=True)]
        first, *others = said
        made[name] = F.concat(first, *(part for other in others for part in (F.lit("/"), other)))
    return made


def typed(
    rows: DataFrame, asked: NamedSource, columns: Mapping[str, str], wanted: Mapping[str, str], malformed: str | None
) -> DataFrame:
    """Type the rows.

    Args:
        rows: of the source.
        asked: its settings.
        columns: ours, with their types; one whose type ends in "?" may be null.
        wanted: the source's column of each of ours.
        malformed: the column that holds a malformed line, if there may be one.

    Returns:
        Our columns with their types, `row` (JSON of the source's columns, and of ids that were joined) and `reason`
        (null: the row fits). Bytes are files of pictures, which can be read; in `row` their SHA-256 stands for them.
    """
    values, reasons = [], []
    joined = {f"joined into {name}": value for name, value in _joined(asked, columns).items()}
    rows = rows.withColumns(joined)
    # With the ids that were joined: an erasure looks for whole ones in what lies in quarantine.
    shown = [_shown(field.name, isinstance(field.dataType, BinaryType)) for field in rows.schema.fields]
    wanted = {**wanted, **{name.removeprefix("joined into "): name for name in joined}}
    texts = {name: F.trim(column(wanted[name]).cast("string")) for name in columns}
    with_texts = rows.select(
        *(column(name) for name in rows.columns),
        *(_number_text(text, asked).alias(_place_of(name)) for name, text in texts.items()),
    )
    for name, kind in columns.items():
        held, wanted_type = column(wanted[name]), kind.removesuffix("?")
        value = _value(held, wanted_type, rows.schema, name, wanted[name], asked)
        values.append(value.alias(name))
        is_said = F.length(held) > 0 if wanted_type == BINARY else F.trim(held.cast("string")) != ""
        is_there = held.isNotNull() & is_said
        if wanted_type == BINARY:
            reasons.append(F.concat(F.lit(f"{name} "), pictures.faults(F.when(is_there, value))))
        reasons.append(F.when(is_there & value.isNull(), F.lit(f"{name} is no {wanted_type}")))
        if not kind.endswith("?"):
            reasons.append(F.when(~F.coalesce(is_there, F.lit(False)), F.lit(f"{name} is missing")))
    if malformed is not None:
        reasons.insert(0, F.when(column(malformed).isNotNull(), F.lit(MALFORMED)))
    return with_texts.select(*values, F.to_json(F.struct(*shown)).alias("row"), F.coalesce(*reasons).alias("reason"))


def _shown(name: str, is_binary: bool) -> Column:
    held = column(name)
    text = F.concat(F.lit("sha256 "), F.sha2(held, 256)) if is_binary else held.cast("string")
    return text.alias(name)


def _place_of(name: str) -> str:
    return f"_text of {name}"


def _number_text(text: Column, asked: NamedSource) -> Column:
    return typed_texts.with_point(text) if asked.decimal == "," else text


def _value(held: Column, kind: str, schema: StructType, ours: str, name: str, asked: NamedSource) -> Column:
    """A value of a kind, null where it is none; `_text of OURS` has the text of a number."""
    text, words = F.trim(held.cast("string")), asked.words.get(ours)
    if words is not None:
        pairs = [F.when(text == word, F.lit(float(value))) for word, value in words.items()]
        return F.coalesce(*pairs, F.lit(None).cast("double")).cast(kind)
    if kind == BINARY:
        return held if isinstance(schema[name].dataType, BinaryType) else F.lit(None).cast(BINARY)
    if kind == "string":
        return F.when(text != "", text)
    if kind == "timestamp":
        held_as = schema[name].dataType
        if isinstance(held_as, TimestampType):
            return held
        if isinstance(held_as, DateType | TimestampNTZType):
            return typed_texts.in_zone(held.cast("timestamp"), asked.time_zone)
        return typed_texts.time(text, asked.time_format, asked.time_zone)
    if kind == "boolean":
        return F.when(F.lower(text).isin(*YES), True).when(F.lower(text).isin(*NO), False)
    if kind in ("double", "float"):
        return typed_texts.number(_place_of(ours)).cast(kind)
    return F.expr(f"try_cast(`{_place_of(ours)}` AS {kind})")
