"""The section `ingest`: where a shop's data lie, how they are written, and which of their columns are ours."""

from __future__ import annotations

import codecs
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from jobs.settings_base import Moment, Section

CSV_ONLY = ("delimiter", "quote", "escape", "header", "decimal", "multiline")


def _as_text(value: Any) -> Any:
    """Columns without names have numbers, which YAML reads as such."""
    return str(value) if type(value) is int else value


def _encoding(name: str) -> str:
    """Java's name of what Python and others call latin-1."""
    with suppress(LookupError, ValueError):
        return "ISO-8859-1" if codecs.lookup(name).name == "iso8859-1" else name
    return name


ColumnName = Annotated[str, BeforeValidator(_as_text)]
Encoding = Annotated[str, AfterValidator(_encoding)]


class SourceSettings(Section):
    """Where rows lie and how they are written."""

    path: str | None = Field(None, description="file, folder or glob of the order lines; none: the simulated shop")
    format: Literal["csv", "json", "parquet", "delta"] = Field("csv", description="what the order lines are written in")
    delimiter: str = Field(",", min_length=1, max_length=10, description="csv: what stands between fields")
    quote: str = Field('"', max_length=1, description="csv: what stands around fields; empty: nothing does")
    escape: str | None = Field(
        None, min_length=1, max_length=1, description="csv: what stands before a quote in a quoted field; default: it"
    )
    header: bool = Field(True, description="csv: the first line has the names; false: columns are named 1, 2, ...")
    decimal: Literal[".", ","] = Field(".", description="csv: the decimal mark of numbers")
    encoding: Encoding = Field("UTF-8", description="of csv and json files; bytes that it does not know are refused")
    multiline: bool = Field(False, description="csv: quoted fields hold line breaks; such a file is read by one task")
    time_format: str = Field(
        "yyyy-MM-dd HH:mm:ss", description="Spark's pattern of a time, or epoch_s, epoch_ms: numbers since 1970"
    )
    time_zone: str = Field("UTC", description="of times that name none, e.g. Europe/Berlin")
    columns: dict[str, ColumnName] = Field(
        default_factory=dict,
        description="order_id, item_id, user_id, time, quantity, price; optionally name, country, kind, arrival_time",
    )


class IngestSettings(SourceSettings):
    """Raw files to events, items and users. `columns` maps our names to the file's."""

    earliest: Moment = Field(datetime(1970, 1, 1), description="earlier rows are bad: no shop's time")
    normalise_ids: bool = Field(
        False, description="ids without invisible characters and blanks around them, accents composed (Unicode NFC)"
    )
    cancelled_prefix: str | None = Field(
        None, min_length=1, description="an order id that starts with this is a return"
    )
    item_pattern: str | None = Field(None, description="a regular expression; other item ids are charges, not products")
    now: Moment | None = Field(None, description="rows later than this lie in the future; default: the clock")
