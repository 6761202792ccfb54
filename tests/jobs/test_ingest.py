"""Ingest: every raw row gets its one disposition; what cannot be read is said clearly; a second run changes nothing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import descriptions, ingest, ingest_batch, ingest_inputs
from jobs.erasure import erased
from jobs.sessions import session_settings
from jobs.settings import Settings
from jobs.tables import Tables
from spark_udfs.order_lines import KEPT, NOT_KEPT
from tests.conftest import COMPILED
from tests.jobs.silences import silences
from training.errors import DataError, SchemaError, SettingsError, TooManyBadRows

HEADER = "Order,Item,Name,Count,When,Price,Customer,Land"
COLUMNS = {
    "order_id": "Order",
    "item_id": "Item",
    "name": "Name",
    "quantity": "Count",
    "time": "When",
    "price": "Price",
    "user_id": "Customer",
    "country": "Land",
}
CLEAN = [
    '1,10001,"cup, blue",2,2024-01-01 10:00:00,1.50,7,UK',
    "1,10002,bowl,1,2024-01-01 10:00:00,3.00,7,UK",
    "2,10001,mug,1,2024-02-01 10:00:00,1.75,8,FR",
    "3,10001,mug,1,2024-03-01 10:00:00,1.70,8,FR",
    '3,10001,"cup, blue",4,2024-01-15 10:00:00,1.60,,UK',
    "C4,10002,bowl,-1,2024-01-03 10:00:00,3.00,7,UK",
]
DIRTY = {
    "duplicate": "2,10001,mug,1,2024-02-01 10:00:00,1.75,8,FR",
    "malformed_line": "5,10001,mug",
    "missing_order_id": " ,10001,mug,1,2024-02-01 10:00:00,1.75,8,FR",
    "missing_item_id": "6,,mug,1,2024-02-01 10:00:00,1.75,8,FR",
    "not_a_product": "7,POST,postage,1,2024-02-01 10:00:00,1.75,8,FR",
    "missing_time": "8,10001,mug,1,,1.75,8,FR",
    "unreadable_time": "9,10001,mug,1,first of May,1.75,8,FR",
    "future_time": "10,10001,mug,1,2031-02-01 10:00:00,1.75,8,FR",
    "unreadable_quantity": "11,10001,mug,1.5,2024-02-01 10:00:00,1.75,8,FR",
    "quantity_not_positive": "12,10001,mug,-1,2024-02-01 10:00:00,1.75,8,FR",
    "unreadable_price": "13,10001,mug,1,2024-02-01 10:00:00,NaN,8,FR",
    "price_not_positive": "14,10001,mug,1,2024-02-01 10:00:00,0,8,FR",
}


def settings_for(folder: Path, path: Path | str, **ingest_settings: Any) -> Settings:
    section = {
        "path": str(path),
        "columns": COLUMNS,
        "cancelled_prefix": "C",
        "item_pattern": "^[0-9]{5}[A-Za-z]*$",
        "now": "2025-01-01T00:00:00",
        **ingest_settings,
    }
    return Settings.model_validate(
        {"tables": {"root": str(folder / "tables"), "quarantine_limit": 0.6}, "ingest": section}
    )


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ingest")


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return settings_for(folder, write_lines(folder / "lines.csv", *CLEAN, *DIRTY.values()))


@pytest.fixture(scope="module")
def ingested(spark: SparkSession, settings: Settings) -> dict[str, Any]:
    return ingest.run(settings, spark)


@pytest.fixture
def tables(spark: SparkSession, settings: Settings, ingested: dict[str, Any]) -> Tables:
    return Tables(spark, settings.tables.root)


def test_every_row_has_one_disposition(ingested: dict[str, Any]) -> None:
    planted = {"sale": 4, "sale_without_customer": 1, "return": 1} | dict.fromkeys(DIRTY, 1)
    assert ingested["dispositions"] == planted
    assert ingested["raw_rows"] == len(CLEAN) + len(DIRTY)


def test_quarantine_holds_the_raw_rows(tables: Tables) -> None:
    rows = {row["reason"]: json.loads(row["row"]) for row in tables.read("quarantine").collect()}
    assert set(rows) == set(DIRTY) - {"duplicate"}
    assert rows["unreadable_time"]["When"] == "first of May"


def test_events_are_typed(tables: Tables) -> None:
    events = tables.read("events")
    types = {"quantity": "bigint", "price": "double", "time": "timestamp", "arrival_time": "timestamp"}
    tables.require(events, "events", types)
    assert events.count() == events.select("event_id").distinct().count() == len(CLEAN)
    returned = events.where("kind = 'return'").collect()
    assert [(row["order_id"], row["quantity"]) for row in returned] == [("C4", 1)]
    assert events.where("user_id IS NULL").count() == 1
    assert events.where("arrival_time != time").count() == 0


def test_items_and_users(tables: Tables) -> None:
    items = {row["item_id"]: row for row in tables.read("items").collect()}
    # Two lines say "cup, blue", two say "mug": the first by alphabet; the price is that of the last sale.
    assert (items["10001"]["name"], items["10001"]["price"]) == ("cup, blue", 1.70)
    assert set(items) == {"10001", "10002"}
    users = {row["user_id"]: row["country"] for row in tables.read("users").collect()}
    assert users == {"7": "UK", "8": "FR"}


def test_a_second_run_changes_nothing_and_another_file_adds(
    spark: SparkSession, folder: Path, settings: Settings, ingested: dict[str, Any]
) -> None:
    again = ingest.run(settings, spark)
    assert again == ingested | {"up_to_date": True}
    # One line that the first file has, and one new one.
    more = settings_for(folder, write_lines(folder / "more.csv", CLEAN[0], "20,10003,jar,1,2024-04-01 10:00:00,2,9,UK"))
    added = ingest.run(more, spark)
    assert added["dispositions"] == {"sale": 1, "duplicate": 1}
    assert added["all"]["raw_rows"] == ingested["raw_rows"] + 2
    assert added["all"]["dispositions"]["sale"] == ingested["dispositions"]["sale"] + 1
    tables = Tables(spark, settings.tables.root)
    assert tables.read("events").count() == len(CLEAN) + 1
    assert tables.read("items").count() == 3
    contents = {name: tables.pin(name).content for name in ("events", "items", "users", "quarantine")}
    third = ingest.run(settings, spark)  # its rows are known, whatever other file came since
    assert third == ingested | {"all": added["all"], "up_to_date": True, "versions": added["versions"]}
    assert contents == {name: tables.pin(name).content for name in contents}


def test_other_rules_are_refused(
    spark: SparkSession, folder: Path, settings: Settings, ingested: dict[str, Any]
) -> None:
    other = settings_for(folder, folder / "lines.csv", item_pattern="^1")
    with pytest.raises(DataError, match=r"ingested under other rules \(changed: item_pattern\)"):
        ingest.run(other, spark)


def test_other_rules_are_refused_with_what_keeps_the_erased_out(spark: SparkSession, tmp_path: Path) -> None:
    tables = Tables(spark, str(tmp_path))
    events = spark.createDataFrame([("a",)], "event_id string")
    tables.write("events", events, mode="overwrite", job="ingest", inputs={"rules": {"now": None}})
    with pytest.raises(DataError, match=r"\(changed: now\); name a new folder in tables.root, or remove this one"):
        ingest_inputs.refuse_other_rules(tables, tables.made_from("events"), {"rules": {"now": "x"}})
    with pytest.raises(DataError, match=r"copy the tables 'erased' and 'erasure_key' there first, or remove all but"):
        ingest_inputs.refuse_other_rules(tables, tables.made_from("events"), {"rules": {"now": "x"}, "erased": 1})


def test_too_many_bad_rows_stop_and_write_nothing(spark: SparkSession, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, write_lines(tmp_path / "lines.csv", CLEAN[0], DIRTY["unreadable_time"]))
    strict = settings.model_copy(update={"tables": settings.tables.model_copy(update={"quarantine_limit": 0.4})})
    with pytest.raises(
        TooManyBadRows, match=r"1 of 2 rows .* over tables.quarantine_limit 0.4: unreadable_time: 1\. Set time_format"
    ):
        ingest.run(strict, spark)
    assert not Tables(spark, settings.tables.root).exists("quarantine")


def test_charges_and_duplicates_are_not_bad(spark: SparkSession, tmp_path: Path) -> None:
    ingest_batch._check({"sale": 1, "duplicate": 5, "not_a_product": 5}, 11, "here", limit=0.0)
    with pytest.raises(DataError, match="must add up to its 12 rows, they add up to 11"):
        ingest_batch._check({"sale": 1, "duplicate": 5, "not_a_product": 5}, 12, "here", limit=0.0)


@pytest.mark.slow
def test_it_reads_nothing_in_silence(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(tmp_path, write_lines(tmp_path / "lines.csv", *CLEAN, *DIRTY.values()))
    found = silences(spark, monkeypatch)
    ingest.run(settings, spark)
    assert found == []


def test_missing_and_empty_files(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'.*nowhere.csv' does not exist"):
        ingest.run(settings_for(tmp_path, tmp_path / "nowhere.csv"), spark)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match=r"empty.csv' is empty; name files"):
        ingest.run(settings_for(tmp_path, tmp_path / "empty.csv"), spark)
    with pytest.raises(DataError, match=r"header.csv' holds a header but no rows"):
        ingest.run(settings_for(tmp_path, write_lines(tmp_path / "header.csv")), spark)


def test_missing_column_names_it_and_what_there_is(spark: SparkSession, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "lines.csv", *CLEAN)
    with pytest.raises(SchemaError, match=r"no column 'Cost' \(our price\); it has: Order, Item"):
        ingest.run(settings_for(tmp_path, path, columns=COLUMNS | {"price": "Cost"}), spark)


def test_a_corrupt_file_is_named(spark: SparkSession, tmp_path: Path) -> None:
    whole = gzip.compress("\n".join([HEADER, *CLEAN * 2_000]).encode())
    (tmp_path / "torn.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"torn.csv.gz' cannot be read: .*end of input"):
        ingest.run(settings_for(tmp_path, tmp_path / "torn.csv.gz"), spark)


def test_the_mapping_is_checked_whole(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"needs 'order_id'.* needs 'price'; .*unknown name 'colour'"):
        ingest.run(settings_for(tmp_path, "x.csv", columns={"item_id": "Item", "colour": "Colour"}), spark)


@pytest.mark.slow
def test_erased_persons_are_dropped_counted_and_written_nowhere(spark: SparkSession, tmp_path: Path) -> None:
    mentioned = "15,10001,asked by 7,1,,1.75,8,7"  # another's bad row that names the erased person in a field
    lines = (CLEAN[0], CLEAN[2], CLEAN[0], "9,10001,mug,1,never,1,7,UK", DIRTY["malformed_line"], mentioned)
    settings = settings_for(tmp_path, write_lines(tmp_path / "lines.csv", *lines))
    tables = Tables(spark, settings.tables.root)
    erased.remember(tables, ["7", "nobody"])
    summary = ingest.run(settings, spark)
    counts = {"sale": 1, "duplicate": 1, "erased": 2, "malformed_line": 1, "missing_time": 1}
    assert summary["dispositions"] == counts
    assert summary["raw_rows"] == len(lines)
    assert {row["user_id"] for row in tables.read("events").collect()} == {"8"}
    assert [(row["reason"], row["row"]) for row in tables.read("quarantine").collect()] == [
        ("malformed_line", NOT_KEPT)
    ]
    erased.remember(tables, ["8"])  # as if ingest had been killed after its commit, and the erasure had ended before
    with pytest.raises(DataError, match=r"removed again \(1 of 'events'\)"):
        ingest.run(settings, spark)
    assert ingest.run(settings, spark)["dispositions"] == {"duplicate": 1, "erased": 4, "malformed_line": 1}


def test_who_is_erased_while_ingest_reads_is_written_nowhere(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tmp_path, write_lines(tmp_path / "lines.csv", CLEAN[0], "9,10001,mug,1,never,1,7,UK"))
    tables, check = Tables(spark, settings.tables.root), ingest_batch._check
    monkeypatch.setattr(ingest_batch, "_check", lambda *args: (check(*args), erased.remember(tables, ["7"])))
    with pytest.raises(DataError, match=r"would bring them back; nothing was written"):
        ingest.run(settings, spark)
    assert not any(tables.exists(name) for name in ("quarantine", "dispositions", "events"))


@pytest.mark.slow
def test_who_is_erased_while_ingest_writes_is_taken_out_again(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = write_lines(tmp_path / "lines.csv", CLEAN[0], CLEAN[2], "9,10001,mug,1,never,1,7,UK")
    settings = settings_for(tmp_path, lines)
    tables, describe = Tables(spark, settings.tables.root), descriptions.describe
    with monkeypatch.context() as patch:
        patch.setattr(descriptions, "describe", lambda *args: (describe(*args), erased.remember(tables, ["7"]))[0])
        with pytest.raises(DataError, match=r"\(1 of 'events', 1 of 'users', 2 of 'user_sums', 1 of 'quarantine'\)"):
            ingest.run(settings, spark)
    for name in ("events", "users"):
        assert [row["user_id"] for row in tables.read(name).collect()] == ["8"]
    assert tables.read("quarantine").isEmpty()
    assert ingest.run(settings, spark)["dispositions"] == {"sale": 1, "erased": 2}
    assert [row["user_id"] for row in tables.read("users").collect()] == ["8"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_online_retail_adds_up(spark: SparkSession, online_retail: Path, tmp_path: Path) -> None:
    """The counts that the data set's own description gives, and the protocol's training lines."""
    from jobs import build_examples
    from jobs.settings import load_settings

    pipeline = Path(ingest.__file__).parent / "pipelines" / "online_retail.yaml"
    flags = [f"tables.root={tmp_path}/tables", f"run_dir={tmp_path}/run", f"ingest.path={online_retail}"]
    settings = load_settings(pipeline, flags)
    with session_settings(spark, COMPILED):
        summary = ingest.run(settings, spark)
        counts = build_examples.run(settings, spark)["counts"]
    assert summary["raw_rows"] == 541_909
    assert summary["dispositions"]["duplicate"] == 5_268
    assert sum(summary["dispositions"][name] for name in KEPT if name in summary["dispositions"]) == 531_172
    assert (counts["training_lines"], counts["training_users"], counts["training_items"]) == (328_397, 4_082, 3_622)
    queries = Tables(spark, settings.tables.root).read("queries").where("split = 'test'")
    bought = queries.agg(F.count_if(F.size("truth") > 0), F.count_if(F.size(F.array_except("truth", "seen")) > 0))
    assert tuple(bought.collect()[0]) == (1_374, 1_264)
