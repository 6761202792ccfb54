"""Files and tables of interactions as papers ship them: user, item and, where they have it, time; a row an interaction.

What a file is, is seen from its name and its first lines: CSV with or without a header (MovieLens' `::` too), RecBole's
`.inter`, Parquet, Delta, or lines of a user and all of their items.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import functions as F

from jobs.column_names import matching
from jobs.console import say, warn
from jobs.sessions import SPARK_ERRORS
from spark_udfs.protocols import COLUMNS
from training.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

LINES = 1_000  # of a file, that are looked at
DELIMITERS = ("::", "\t", ";", "|", ",", " ")
BY_PLACE = {2: ("user", "item"), 3: ("user", "item", "time"), 4: ("user", "item", "rating", "time")}
FILES = (".csv", ".txt", ".tsv", ".dat", ".data", ".inter", ".gz", ".parquet")  # by these a name is no table's
OUR_NAMES = {"user": "user_id", "item": "item_id", "time": "time"}
BLANK = " "
OF_LISTS = (BLANK, "\t")  # between the items of lists, which may all be of one length
PLACE, OF_PLACES = "_place", "struct<line:bigint,at:bigint>"  # a row's in a file of text
SECONDS_AT_MOST = 1e11  # of an epoch: what is larger counts milliseconds


class Text(NamedTuple):
    """How a file of text is written.

    Attributes:
        delimiter: what stands between fields.
        columns: their names; empty: each line is a user and all of their items.
        header: whether the first line has the names.
    """

    delimiter: str
    columns: tuple[str, ...]
    header: bool


def interactions(spark: SparkSession, place: str, named: Mapping[str, str]) -> DataFrame:
    """Read a file, a folder or a catalogue's table.

    Args:
        spark: the session.
        place: the path, or the table's name.
        named: the columns by our names (user, item, time), where they are not to be found by theirs.

    Returns:
        user and item (texts), time (a double, seconds since 1970; null where there is none) and position, in whose
        order the rows of a file of text stand; null of tables, which have none. Equal rows that have a time are one.

    Raises:
        DataError: there is nothing there, nothing that can be read, no column of users or items, or no row.
    """
    rows = _rows(spark, place, named)
    columns = _columns(rows, place, named)
    time = _seconds(rows, columns["time"]) if "time" in columns else F.lit(None).cast("double")
    of_all = rows.select(
        F.col(f"`{columns['user']}`").cast("string").alias("user"),
        F.col(f"`{columns['item']}`").cast("string").alias("item"),
        time.alias("time"),
        (F.col(PLACE) if PLACE in rows.columns else F.lit(None).cast(OF_PLACES)).alias("position"),
    )
    return _checked(of_all, place, has_time="time" in columns)


def refuse_nothing(place: str) -> None:
    """See, before anything is started, that a file is there and is not empty.

    Raises:
        DataError: it is not, or it is.
    """
    path = Path(place)
    if path.suffix == ".parquet" and re.search(r":/|[*?\[{]", place):
        return  # Spark finds what lies elsewhere, or fits a pattern
    if not path.exists() and ("/" in place or path.suffix in FILES):
        raise DataError(f"there is no file '{place}'; name one of this machine, or a table of the catalogue")
    if path.is_file() and not path.stat().st_size:
        raise DataError(f"'{place}' is empty; name a file with rows of a user and an item")


def _rows(spark: SparkSession, place: str, named: Mapping[str, str]) -> DataFrame:
    path = Path(place)
    try:
        if (path / "_delta_log").is_dir():
            return spark.read.format("delta").load(place)
        if path.suffix == ".parquet" or (path.is_dir() and any(path.rglob("*.parquet"))):
            return spark.read.parquet(place)
        if not path.exists():
            return spark.table(place)
    except SPARK_ERRORS as error:
        remedy = "name a file of text, Parquet, a Delta table's folder, or a table of the catalogue"
        raise DataError(f"'{place}' cannot be read as interactions: {str(error).splitlines()[0]}; {remedy}") from error
    if path.is_dir():
        raise DataError(f"'{place}' is a folder without Parquet files or a Delta log; name one file of text")
    text = written(path, named)
    lines = spark.read.text(str(path)).withColumn("n", F.monotonically_increasing_id())
    if not text.columns:
        say(f"{path.name}: each line is a user and their items, in the order of time")
        return _of_lists(lines, text.delimiter)
    if text.delimiter == BLANK:  # several blanks are one mark, which Spark's reader does not know
        fields = F.split(F.trim("value"), f"{BLANK}+")
        named_fields = [fields[n].alias(name) for n, name in enumerate(text.columns)]
        rows = lines.where(F.col("n") > 0) if text.header else lines  # the first line of a file is its row 0
        return rows.where(F.trim("value") != "").select(*named_fields, _place(F.lit(0)).alias(PLACE))
    reader = spark.read.option("sep", text.delimiter).option("header", text.header)
    names = ", ".join(f"`{name.replace('`', '``')}` STRING" for name in text.columns)
    rows = reader.schema(names).csv(place).withColumn("n", F.monotonically_increasing_id())
    return rows.withColumn(PLACE, _place(F.lit(0))).drop("n")


def _of_lists(lines: DataFrame, delimiter: str) -> DataFrame:
    fields = F.split(F.trim("value"), re.escape(delimiter) + ("+" if delimiter == BLANK else ""))
    with_item = lines.select(fields.alias("fields"), "n").where(F.size("fields") > 1)  # a user may have no item
    items = F.posexplode(F.slice("fields", F.lit(2), F.size("fields") - 1)).alias("at", "item")
    exploded = with_item.select(F.col("fields")[0].alias("user"), "n", items)
    return exploded.select("user", "item", _place(F.col("at")).alias(PLACE))


def _place(at: Column) -> Column:
    """Where a row stands in a file: its line, and there."""
    return F.struct(F.col("n").alias("line"), at.cast("bigint").alias("at"))


def written(path: Path, named: Mapping[str, str]) -> Text:
    """How a file of text is written, by its first lines.

    The mark between fields is the first one by which all lines have as many; where there is none, lines are lists.

    Args:
        path: the file, which may be gzipped.
        named: columns by our names; a first line that has one of them is a header.

    Raises:
        DataError: it cannot be read, is empty, or its lines are neither rows whose columns are known nor lists.
    """
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", errors="replace") as file:
            lines = [line.strip("\r\n") for line in itertools.islice(file, LINES) if line.strip()]
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' cannot be read: {error}") from error
    if not lines:
        raise DataError(f"'{path}' is empty; name a file of interactions")
    for mark in DELIMITERS:
        fields = [_fields(line, mark) for line in lines]
        if len(fields[0]) > 1 and len({len(each) for each in fields}) == 1:
            return _of_rows(path, mark, fields, named)
    delimiter = next((mark for mark in DELIMITERS if 2 * sum(mark in line for line in lines) > len(lines)), None)
    if delimiter is None:
        raise DataError(f"lines of '{path}' have one field; fields may be separated by tab, comma, ;, |, :: or blank")
    if _is_header([_fields(line, delimiter) for line in lines], named):
        raise DataError(f"lines of '{path}' have other numbers of fields than its first line; correct it")
    return Text(delimiter, (), header=False)


def _of_rows(path: Path, delimiter: str, fields: Sequence[Sequence[str]], named: Mapping[str, str]) -> Text:
    """Of lines with as many fields each: rows by a header or by their places, or lists that are equally long."""
    if _is_header(fields, named):
        return Text(delimiter, tuple(_plain(fields[0])), header=True)
    width = len(fields[0])
    if width in BY_PLACE:
        say(f"{path.name}: no header; its columns are taken for {', '.join(BY_PLACE[width])}")
        return Text(delimiter, BY_PLACE[width], header=False)
    if delimiter in OF_LISTS:
        return Text(delimiter, (), header=False)
    raise DataError(f"'{path}' has {width} columns and no header that says which is which; give it a line of names")


def _is_header(fields: Sequence[Sequence[str]], named: Mapping[str, str]) -> bool:
    """Whether the first line has names: some that are ours, or none of the numbers that all others have."""
    first = _plain(fields[0])
    if any(name in fields[0] or name in first for name in named.values()):
        return True
    if any(ours in first or matching(called, first) for ours, called in OUR_NAMES.items()):
        return True
    columns = zip(*fields[1:], strict=False)
    return any(
        not _is_number(name) and all(map(_is_number, column)) for name, column in zip(fields[0], columns, strict=False)
    )


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text) is not None


def _fields(line: str, delimiter: str) -> list[str]:
    if delimiter == BLANK:
        return line.split()
    return line.split(delimiter) if len(delimiter) > 1 else next(csv.reader([line], delimiter=delimiter))


def _plain(names: Sequence[str]) -> list[str]:
    """Names without RecBole's types: `user_id:token`."""
    return [re.sub(r":(token|float|token_seq|float_seq)$", "", name) for name in names]


def _columns(rows: DataFrame, place: str, named: Mapping[str, str]) -> dict[str, str]:
    """The columns by our names: as they were named, and else by what they are called."""
    held = [column for column in rows.columns if column != PLACE]
    if unknown := sorted(set(named.values()) - set(held)):
        raise DataError(f"'{place}' has no column '{unknown[0]}'; it has: {', '.join(held)}")
    found = dict(named)
    for ours, called in OUR_NAMES.items():
        left = [column for column in held if column not in found.values()]
        if ours not in found and (column := ours if ours in left else matching(called, left)):
            found[ours] = column
    if missing := [name for name in ("user", "item") if name not in found]:
        raise DataError(
            f"'{place}' has no column that is called like {missing[0]}; it has: {', '.join(held)}. Say which it is: "
            f"--column {missing[0]}=NAME"
        )
    order = found.get("time", "none, so that rows are in the order in which they stand")
    say(f"{place}: user is {found['user']}, item is {found['item']}, time is {order}")
    left = [column for column in held if column not in found.values()]
    if "time" not in found and left:
        warn(f"if one of {', '.join(left)} is the time, name it: --column time=NAME")
    return found


def _seconds(rows: DataFrame, name: str) -> Column:
    """A column of times as seconds since 1970, whether they are times or counted from there."""
    column, kind = F.col(f"`{name}`"), dict(rows.dtypes)[name]
    if kind in ("timestamp", "timestamp_ntz", "date"):
        return F.unix_micros(column.cast("timestamp")) / 1e6
    number = F.expr(f"try_cast(`{name}` AS DOUBLE)")
    counted = F.when(F.abs(number) > SECONDS_AT_MOST, number / 1000).otherwise(number)
    if kind != "string":
        return counted
    return F.coalesce(counted, F.unix_micros(F.expr(f"try_cast(`{name}` AS TIMESTAMP)")) / 1e6)


def _checked(rows: DataFrame, place: str, *, has_time: bool) -> DataFrame:
    """The rows that have a user and an item."""
    counts = rows.agg(
        F.count(F.lit(1)).alias("rows"),
        F.count_if(F.col("user").isNull() | F.col("item").isNull()).alias("nameless"),
        F.count_if(F.col("time").isNull()).alias("timeless"),
    ).collect()[0]
    if counts["rows"] == counts["nameless"]:
        raise DataError(f"'{place}' has no row with a user and an item")
    if has_time and counts["timeless"]:
        raise DataError(
            f"{counts['timeless']:,} of {counts['rows']:,} rows of '{place}' have a time that cannot be read; they are "
            "seconds or milliseconds since 1970, or as in 2025-11-29 10:00:00"
        )
    if counts["nameless"]:
        warn(f"{counts['nameless']:,} of {counts['rows']:,} rows of '{place}' lack a user or an item: left out")
    kept = rows.dropna(subset=["user", "item"]).select(*COLUMNS)
    if not has_time:
        return kept
    return kept.groupBy("user", "item", "time").agg(F.min("position").alias("position"))
