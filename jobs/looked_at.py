"""What a file of a shop's own shows at a glance: how it is written, its columns, and some of their values."""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jobs.file_endings import pattern_of
from training.errors import DataError

ROWS = 20  # of a file, that are looked at
UTF8 = "utf-8-sig"
NO_UTF8 = "windows-1252"  # what most files of shops are in that are not UTF-8


class Look(NamedTuple):
    """What a file shows: how it is written, its columns, and some of their values."""

    format: str
    delimiter: str
    columns: dict[str, list[str]]  # what rows say in each; empty: nothing
    encoding: str = UTF8
    timestamps: frozenset[str] = frozenset()  # columns that are times by their type


def pictures_in(folder: Path) -> Look | None:
    """What a folder of pictures, or of idx files, shows as rows; None: there are no such files in it."""
    for kind, columns, time in (
        ("idx", ("item_id", "part", "label", "picture", "time"), "time"),
        ("images", ("file", "folder", "content", "modified"), "modified"),
    ):
        ending = re.compile(pattern_of(kind))
        found = list(itertools.islice((file for file in folder.rglob("*") if ending.search(file.name)), ROWS))
        if found:
            values = {"file": [file.name for file in found], "folder": [file.parent.name for file in found]}
            return Look(kind, ",", {name: values.get(name, []) for name in columns}, timestamps=frozenset({time}))
    return None


def look_of(path: Path) -> Look:
    """What a file of csv, JSON lines or Parquet shows.

    Raises:
        DataError: it cannot be read, or is of UTF-16.
    """
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows = next(pq.ParquetFile(path).iter_batches(ROWS), None)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"'{path}' cannot be read: {error}") from error
        held: dict[str, list[Any]] = {} if rows is None else rows.to_pydict()
        timestamps = frozenset(name for name, values in held.items() if any(isinstance(one, dt.date) for one in values))
        return Look("parquet", ",", {name: _texts(values) for name, values in held.items()}, timestamps=timestamps)
    lines, encoding = _lines(path)
    if lines and lines[0].lstrip().startswith("{"):
        return Look("json", ",", _json_columns(lines), encoding)
    try:
        delimiter = csv.Sniffer().sniff("".join(lines), ",;\t|").delimiter
    except csv.Error:
        delimiter = ","
    rows_of_text = list(csv.reader(lines, delimiter=delimiter))
    header = rows_of_text[0] if rows_of_text else []
    columns = {name: [row[n] for row in rows_of_text[1:] if n < len(row)] for n, name in enumerate(header)}
    return Look("csv", delimiter, columns, encoding)


def _lines(path: Path) -> tuple[list[str], str]:
    """A text file's first lines, and what its bytes are."""
    opened: Any = gzip.open if path.suffix == ".gz" else open

    def read(encoding: str, errors: str) -> list[str]:
        with opened(path, "rt", encoding=encoding, errors=errors, newline="") as file:
            return list(itertools.islice(file, ROWS + 1))

    try:
        with opened(path, "rb") as file:
            if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise DataError(
                    f"'{path}' begins as UTF-16 does, whose lines Spark cannot tell apart; write it as UTF-8 "
                    "(iconv -f UTF-16 -t UTF-8 FILE > OTHER, or 'CSV UTF-8' in a spreadsheet)"
                )
        try:
            return read(UTF8, "strict"), UTF8
        except UnicodeDecodeError:
            return read(NO_UTF8, "replace"), NO_UTF8
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' cannot be read: {error}") from error


def _texts(values: Sequence[object]) -> list[str]:
    held = ["" if value is None else value for value in values]
    texts = [str(value).lower() if isinstance(value, bool) else value for value in held]  # as Spark says them
    return [f"{len(value):,} bytes" if isinstance(value, bytes) else str(value) for value in texts]


def _json_columns(lines: Sequence[str]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        for name, value in fields.items() if isinstance(fields, dict) else ():
            columns.setdefault(name, []).extend(_texts([value]))
    return columns
