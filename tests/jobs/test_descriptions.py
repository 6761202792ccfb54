"""Items and users after batches are those that all events at once would make, and a batch changes what it touches."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import descriptions, sources
from jobs.attributes import AttributeReading, rules_of
from jobs.descriptions import NO_REWRITE, Made, describe
from jobs.erasure.erased import Watch
from jobs.settings import Settings
from jobs.settings_sources import AttributeSource, IngestSettings
from jobs.tables import Tables
from training.errors import TableError

pytestmark = pytest.mark.timeout(900)
COLUMNS = (
    "event_id string, user_id string, item_id string, kind string, time timestamp, price double, name string, "
    "category string, country string"
)
BEGIN = datetime(2024, 1, 1)


def events(seed: int, n: int) -> list[tuple[Any, ...]]:
    draw = random.Random(seed)
    return [
        (
            f"{seed}-{number}",
            draw.choice([None, "u1", "u2", "u3"]),
            draw.choice(["i1", "i2", "i3", "i4"]) if seed else "i1",
            draw.choice(["purchase", "purchase", "view", "return"]),
            BEGIN + timedelta(hours=draw.randrange(48)),
            draw.choice([None, 1.0, 2.0, 3.0]),
            draw.choice([None, "cup", "mug"]),
            draw.choice([None, "a", "b"]),
            draw.choice([None, "UK", "FR"]),
        )
        for number in range(n)
    ]


def add(tables: Tables, rows: list[tuple[Any, ...]]) -> None:
    df = tables.spark.createDataFrame(rows, COLUMNS)
    tables.append_new("events", df, "event_id", order_by="time", files=1, job="ingest", inputs={"rows": str(rows)})


def brought_up(tables: Tables, items: list[AttributeReading] | None = None) -> Made:
    watch = Watch(tables, "ingest", "events")
    return describe(Settings(), tables, {"items": items or [], "users": []}, watch)


def rows(tables: Tables, name: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row) for row in tables.read(name).collect())


def most_frequent(values: list[str | None]) -> str | None:
    counts = Counter(value for value in values if value is not None)
    return min(counts, key=lambda value: (-counts[value], value)) if counts else None


def item(held: list[tuple[Any, ...]], item_id: str) -> tuple[Any, ...]:
    met = [row for row in held if row[2] == item_id and row[3] != "return"]
    sold = [row for row in met if row[3] == "purchase"]
    priced = sorted((row[4], row[0], row[5]) for row in sold if row[5] is not None)
    times = [row[4] for row in sold]
    name, category = (most_frequent([row[at] for row in met]) for at in (6, 7))
    first, last = (min(times), max(times)) if times else (None, None)
    return (item_id, name or item_id, category, first, last, priced[-1][2] if priced else None)


def user(held: list[tuple[Any, ...]], user_id: str) -> tuple[Any, ...]:
    seen = [row for row in held if row[1] == user_id]
    return (user_id, most_frequent([row[8] for row in seen]), min(r[4] for r in seen), max(r[4] for r in seen))


def expected(held: list[tuple[Any, ...]]) -> dict[str, list[tuple[Any, ...]]]:
    items, users = sorted({row[2] for row in held if row[3] != "return"}), sorted({row[1] for row in held if row[1]})
    return {"items": [item(held, each) for each in items], "users": [user(held, each) for each in users]}


def last_merge(tables: Tables, name: str) -> dict[str, str]:
    history = tables.spark.sql(f"DESCRIBE HISTORY delta.`{tables.path(name)}` LIMIT 1").collect()[0]
    assert history["operation"] == "MERGE"
    return dict(history["operationMetrics"])


@pytest.mark.slow
def test_batches_in_any_order_make_what_all_events_make(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that names few of the items changes these; the last one names many, and the table is written anew."""
    tables, batches = Tables(spark, str(tmp_path)), [events(3, 30), events(0, 5), events(2, 40)]
    monkeypatch.setattr(descriptions, "MANY", 2)
    held = list[tuple[Any, ...]]()
    for number, batch in enumerate(batches):
        held += batch
        add(tables, batch)
        if number == 2:  # killed after the sums of items are written, before items are
            with monkeypatch.context() as patched:
                patched.setattr(descriptions, "_write", lambda *_, **__: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    brought_up(tables)
        brought_up(tables)
        assert {name: rows(tables, name) for name in ("items", "users")} == expected(held)
        if number == 1:  # one item was touched; the file that has it stays, with a deletion vector
            merged = last_merge(tables, "items")
            assert (merged["numTargetRowsUpdated"], merged["numTargetRowsInserted"]) == ("1", "0")
            assert (merged["numTargetFilesRemoved"], merged["numTargetDeletionVectorsAdded"]) == ("0", "1")
    versions = brought_up(tables).versions
    assert brought_up(tables).versions == versions
    assert "counted anew" not in capsys.readouterr().err
    spark.sql(f"DELETE FROM delta.`{tables.path('events')}` WHERE item_id = 'i2'")
    brought_up(tables)
    assert rows(tables, "items") == expected([row for row in held if row[2] != "i2"])["items"]
    assert "what events say of items is counted anew, from all of them" in capsys.readouterr().err


@pytest.mark.slow
def test_events_that_were_made_anew_are_not_added_to_sums_of_others(spark: SparkSession, tmp_path: Path) -> None:
    """Whether their newest version is the one of before or a later one."""
    tables = Tables(spark, str(tmp_path))
    add(tables, events(1, 9))
    brought_up(tables)
    for batches in ([events(2, 9)], [events(3, 9), events(4, 9)]):
        shutil.rmtree(tables.path("events"))
        for batch in batches:
            add(tables, batch)
        brought_up(tables)
        assert {name: rows(tables, name) for name in ("items", "users")} == expected(
            [row for b in batches for row in b]
        )


@pytest.mark.slow
def test_attributes_are_read_again_only_if_their_source_has_changed(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, asked = Tables(spark, str(tmp_path)), AttributeSource(
        table="brands", columns={"item_id": "sku", "name": "title", "brand": "brand"}
    )  # fmt: skip
    rules, read = rules_of(IngestSettings(items=(asked,)))["ingest.items[0]"], list[str]()
    reads = sources.read
    monkeypatch.setattr(descriptions, "MANY", 0)  # however many it is, rows are merged into the table
    monkeypatch.setattr(sources, "read", lambda *args, **more: (read.append("read"), reads(*args, **more))[1])

    def bring_up(*brands: tuple[str, str | None, str]) -> dict[str, tuple[Any, ...]]:
        frame = spark.createDataFrame(list(brands), "sku string, title string, brand string")
        source = sources.find("ingest.items[0]", asked, spark, {"brands": frame})
        brought_up(tables, [AttributeReading(source, rules)])
        held = tables.read("items").select("item_id", "name", "brand").collect()
        return {row["item_id"]: (row["name"], row["brand"]) for row in held}

    first = ("a", None, "i1", "purchase", BEGIN, 1.0, "cup", None, None)
    brands = (("i1", None, "A"), ("i2", "Jug", "B"))
    add(tables, [first])
    assert bring_up(*brands) == {"i1": ("cup", "A"), "i2": ("Jug", "B")}
    add(tables, [(f"b{n}", None, f"i{n % 3 + 1}", "purchase", BEGIN, 1.0, "mug", None, None) for n in range(6)])
    assert bring_up(*brands) == {"i1": ("mug", "A"), "i2": ("Jug", "B"), "i3": ("mug", None)}
    assert len(read) == 1
    assert last_merge(tables, "items")["numTargetRowsInserted"] == "1"
    assert bring_up(("i1", None, "A"), ("i2", None, "C"))["i2"] == ("mug", "C")
    assert len(read) == 2


@pytest.mark.parametrize(
    ("owner", "asked", "refused"), [(Tables, "pin", "item_sums"), (descriptions, "_sums", "items")]
)
def test_of_two_the_one_that_knows_fewer_events_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, asked: str, refused: str
) -> None:
    """The other one is through after this one has looked at the events, or has added them up."""
    tables, held, ask, others = Tables(spark, str(tmp_path)), events(3, 5) + events(2, 5), getattr(owner, asked), []

    def late(*args: Any) -> Any:
        found = ask(*args)
        if not others:
            others.append("runs")
            add(tables, held[5:])
            brought_up(tables)
        return found

    add(tables, held[:5])
    monkeypatch.setattr(owner, asked, late)
    with pytest.raises(TableError, match=rf"'{refused}' .* was changed by another writer while `ingest` wrote to it"):
        brought_up(tables)
    assert rows(tables, "items") == expected(held)["items"]


def test_of_two_that_add_the_same_up_one_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    tables = Tables(spark, str(tmp_path))
    sums = spark.sql("SELECT 'a' item_id, 1L lines")
    held: dict[str, Any] = {"job": "ingest", "properties": NO_REWRITE}
    since = tables.write("item_sums", sums, mode="overwrite", inputs={"events": 1}, **held)
    more: dict[str, Any] = {"since": since, "job": "ingest"}
    added = spark.sql("SELECT 'a' item_id, 2L lines")
    tables.merge("item_sums", added, ["item_id"], inputs={"events": 2}, **more)
    with pytest.raises(TableError, match=r"'item_sums' .* was changed by another writer while `ingest` wrote to it"):
        tables.merge("item_sums", added, ["item_id"], inputs={"events": 2}, **more)
    assert rows(tables, "item_sums") == [("a", 2)]
