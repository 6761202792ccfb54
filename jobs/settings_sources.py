"""The section `ingest`: where a shop's data lie, how they are written, and which of their columns are ours."""

from __future__ import annotations

import codecs
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from jobs.places import SourcePath, TableName
from jobs.settings_base import Moment, Section

OF_LINES = ("delimiter", "quote", "escape", "header", "multiline")
CSV_ONLY = (*OF_LINES, "decimal")


AttributeType = Literal["text", "number", "whole", "flag", "time", "texts", "numbers", "wholes"]
Kind = Literal["purchase", "return", "view", "cart", "wish", "click", "impression", "rating", "question"]


def _as_text(value: Any) -> Any:
    """A number of YAML as the text that it is in a file, or the place of a column without a name."""
    return str(value) if type(value) in (int, float) else value


def _encoding(name: str) -> str:
    """Java's name of what Python and others call latin-1."""
    with suppress(LookupError, ValueError):
        return "ISO-8859-1" if codecs.lookup(name).name == "iso8859-1" else name
    return name


Text = Annotated[str, BeforeValidator(_as_text)]
Encoding = Annotated[str, AfterValidator(_encoding)]


class SourceSettings(Section):
    """Where rows lie and how they are written."""

    path: SourcePath | None = Field(None, description="file, folder or glob, or a Delta table's folder")
    table: TableName | None = Field(
        None, description="a catalogue's table or view in place of a path, e.g. main.shop.events"
    )
    format: Literal["csv", "json", "parquet", "delta", "images", "idx"] = Field(
        "csv",
        description="what lies at the path; images: files of pictures: rows with file, folder, modified and content; "
        "idx: pictures and labels as MNIST has them: rows with item_id, part, label, picture and time",
    )
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

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.path is not None and self.table is not None:
            raise ValueError(f"path '{self.path}' and table '{self.table}' are both set; set one of them")
        return self

    @property
    def name(self) -> str | None:
        """What it reads; None: nothing."""
        return self.path or self.table

    @property
    def written(self) -> dict[str, Any]:
        """How a csv file is written, where that is not as most are."""
        held = {name: getattr(self, name) for name in OF_LINES}
        return {name: value for name, value in held.items() if value != SourceSettings.model_fields[name].default}


class EventSource(SourceSettings):
    """A source of events: of sales, views, ratings and the like."""

    columns: dict[str, Text] = Field(
        default_factory=dict,
        description="the source's columns by our names: item_id, user_id, time; order_id, quantity, price where events "
        "may be sales; optionally kind, arrival_time, rating, name, category, country",
    )
    constants: dict[str, Text | None] = Field(
        default_factory=dict,
        description="what all rows have, by our name, e.g. {kind: rating}; null: the shop has none, e.g. {price: null}",
    )
    kinds: dict[str, Kind | None] = Field(
        default_factory=dict,
        description="our kinds by the source's words, e.g. {add_to_cart: cart, scroll: null}, null: set aside; "
        "default: the words are ours: purchase, return, view, cart, wish, click, impression, rating, question",
    )


class Wide(Section):
    """A source with a column for each period: they become rows."""

    prefix: str = Field(min_length=1, description="of the names of such columns, before the period's number")
    start: Moment = Field(description="when period 0 begins")
    days: int = Field(1, ge=1, le=36_500, description="of a period")
    time: str = Field("time", description="our column that has the period's beginning")
    value: str = Field("quantity", description="our column that has the value")


class NamedSource(SourceSettings):
    """Where rows lie, and which of their columns are ours."""

    columns: dict[str, Text] = Field(
        default_factory=dict, description="the source's columns by the task's names; default: the same names"
    )
    words: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="numbers for a column's words, e.g. {fraud: {legit: 0, fraud: 1}}"
    )


class TableSource(NamedSource):
    """Where the rows of one of the task's tables lie."""

    wide: Wide | None = Field(
        None, description="columns that are periods, e.g. {prefix: W, start: 2025-01-06, days: 7}"
    )
    order_by_hash_of: tuple[Text, ...] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="the source's columns by whose hash rows without a time are put in an order, e.g. [text]: `time` "
        "is a moment of the 1,000 days from 2000-01-01 on, the same where these columns are",
    )
    hash_without_numbers: bool = Field(
        False,
        description="rows that differ in numbers, e-mail addresses, {{placeholders}} and letters' size alone have one "
        "hash, so that they lie on one side of every cut",
    )
    joined: dict[str, Annotated[tuple[Text, ...], Field(min_length=2, max_length=100)]] = Field(
        default_factory=dict,
        description="ids that several of the source's columns make together, by the task's names, e.g. {series_id: "
        "[store, product]}: their texts with / between; null where one of them is",
    )
    in_place: bool = Field(
        False, description="a Delta table that needs no cleaning is not copied: its files are read where they lie"
    )
    persons: tuple[Text, ...] | None = Field(
        None,
        max_length=100,
        description="columns that hold a person's id, by which erase finds rows, e.g. [email_address]; one that the "
        "task does not read is kept for that; []: there is none; erase must know",
    )

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if self.order_by_hash_of and ("time" in self.columns or (self.wide is not None and self.wide.time == "time")):
            raise ValueError("order_by_hash_of makes `time`, which columns or wide name too; set one of them")
        if both := sorted({*self.joined} & {*self.columns}):
            raise ValueError(f"columns and joined both name {', '.join(both)}; leave it out of one of them")
        if self.hash_without_numbers and not self.order_by_hash_of:
            raise ValueError("hash_without_numbers is about the hash of order_by_hash_of, which is not set; set it too")
        return self


class AttributeSource(SourceSettings):
    """A source of attributes of items or users."""

    columns: dict[str, Text] = Field(
        default_factory=dict,
        description="the source's columns by our names: item_id or user_id; time, if the newest row of an id counts; "
        "any others are attributes, e.g. {item_id: sku, brand: brand, tags: labels}",
    )
    types: dict[str, AttributeType] = Field(
        default_factory=dict,
        description="of attributes that are texts: text, number, whole, flag, time, texts, numbers, wholes; lists "
        "are JSON or have bars between; default: text",
    )
    history: bool = Field(
        False, description="each row holds from its time on: all are kept in item_history or user_history too"
    )


class IngestSettings(EventSource):
    """Raw rows to events, items and users: of one source, set here, or of `sources`; none: the simulated shop."""

    sources: tuple[EventSource, ...] = Field(
        (), max_length=1_000, description="several sources of events in place of one, each with its own settings"
    )
    items: tuple[AttributeSource, ...] = Field((), max_length=1_000, description="sources of attributes of items")
    users: tuple[AttributeSource, ...] = Field((), max_length=1_000, description="sources of attributes of users")
    earliest: Moment = Field(datetime(1970, 1, 1), description="earlier rows are bad: no shop's time")
    normalise_ids: bool = Field(
        False, description="ids without invisible characters and blanks around them, accents composed (Unicode NFC)"
    )
    cancelled_prefix: str | None = Field(
        None, min_length=1, description="an order id that starts with this is a return"
    )
    item_pattern: str | None = Field(None, description="a regular expression; other item ids are charges, not products")
    now: Moment | None = Field(None, description="rows later than this lie in the future; default: the clock")

    @model_validator(mode="after")
    def _each_named(self) -> Self:
        if self.sources and self.name is not None:
            raise ValueError(f"sources are set, and '{self.name}' beside them; name it in one of the sources")
        for place, asked in self.all_sources().items():
            if asked.name is None:
                raise ValueError(f"{place.removeprefix('ingest.')} must have a path or a table")
        return self

    def events(self) -> dict[str, EventSource]:
        """The sources of events by their place in the settings; none: the simulated shop."""
        if self.sources:
            return {f"ingest.sources[{number}]": asked for number, asked in enumerate(self.sources)}
        return {"ingest": self} if self.name is not None else {}

    def all_sources(self) -> dict[str, SourceSettings]:
        """All sources by their place in the settings."""
        attributes = self.attributes()
        return {**self.events(), **attributes["items"], **attributes["users"]}

    def attributes(self) -> dict[str, dict[str, AttributeSource]]:
        """The sources of attributes by their place in the settings, by table."""
        listed = {"items": self.items, "users": self.users}
        return {
            table: {f"ingest.{table}[{number}]": asked for number, asked in enumerate(held)}
            for table, held in listed.items()
        }

    @property
    def user_columns(self) -> set[str]:
        """Names of columns that hold user ids, ours and the sources'."""
        columns = [self.columns, *(asked.columns for asked in self.events().values())]
        columns += [asked.columns for asked in self.users]
        return {"user_id", *(held.get("user_id", "user_id") for held in columns)}
