"""Sources by name: a catalogue's tables and views, DataFrames in their place, and several sources at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs import catalogue_tables, ingest, sources
from jobs.settings import Settings, load_settings
from jobs.settings_sources import EventSource
from jobs.source import Source
from jobs.tables import Tables
from training.errors import DataError, SettingsError

SALES = {name: name for name in ("order_id", "item_id", "user_id", "time", "quantity", "price")}
VIEWS = {"item_id": "item", "user_id": "visitor", "time": "at"}


def sales(spark: SparkSession, *users: str) -> DataFrame:
    rows = [(f"o{user}", "i/1", user, "2024-01-01 10:00:00", 1, 2.5) for user in users]
    return spark.createDataFrame(
        rows, "order_id string, item_id string, user_id string, time string, quantity int, price double"
    )


def views(spark: SparkSession, *items: str) -> DataFrame:
    rows = [(item, "u,'1'", 1704103200 + n) for n, item in enumerate(items)]
    return spark.createDataFrame(rows, "item string, visitor string, at bigint")


@pytest.fixture
def schema(spark: SparkSession, tmp_path: Path) -> Iterator[str]:
    spark.sql(f"CREATE SCHEMA a_shop LOCATION '{tmp_path}/a_shop'")
    yield "a_shop"
    spark.sql("DROP SCHEMA a_shop CASCADE")


def find(spark: SparkSession, table: str, **frames: DataFrame) -> Source:
    return sources.find("ingest", EventSource(table=table, columns=SALES), spark, frames)


def count(spark: SparkSession, source: Source) -> int:
    return sources.read(spark, source, SALES).rows.count()


def test_a_catalogue_s_table_is_read_at_one_version(spark: SparkSession, schema: str, tmp_path: Path) -> None:
    for name in (f"{schema}.sales", f"spark_catalog.`{schema}`.sales"):
        sales(spark, "a").write.format("delta").mode("overwrite").saveAsTable(f"{schema}.sales")
        source = find(spark, name)
        sales(spark, "b", "c").write.format("delta").mode("append").saveAsTable(f"{schema}.sales")
        assert (count(spark, source), count(spark, find(spark, name))) == (1, 3)
        after = find(spark, name)
        assert after.state == [source.state[0] + 1, *source.state[1:]]
        assert Path(str(after.folder).removeprefix("file:")) == tmp_path / "a_shop" / "sales"


def test_a_view_is_read_as_it_is_and_compared_by_its_rows(spark: SparkSession, schema: str) -> None:
    sales(spark, "a", "a").write.format("delta").saveAsTable(f"{schema}.sales")
    spark.sql(f"CREATE VIEW {schema}.seen AS SELECT * FROM {schema}.sales")
    first = find(spark, f"{schema}.seen")
    assert (first.state, first.rows) == (find(spark, f"{schema}.seen").state, 2)
    sales(spark, "b").write.format("delta").mode("append").saveAsTable(f"{schema}.sales")
    assert find(spark, f"{schema}.seen").state != first.state
    assert first.rows == 2  # and 3 rows now: ingest says that it changed
    sales(spark, "a", "b").write.format("parquet").saveAsTable(f"{schema}.other")
    assert count(spark, find(spark, f"{schema}.other")) == 2


def test_tables_that_are_not_there_or_may_not_be_read(spark: SparkSession) -> None:
    with pytest.raises(DataError, match=r"ingest.table 'a_shop.nope' is in no catalogue of this Spark: .*NOT_FOUND"):
        find(spark, "a_shop.nope")
    with pytest.raises(DataError, match=r"'nowhere.a_shop.nope' is in no catalogue"):
        find(spark, "nowhere.a_shop.nope")
    denied = Exception("[INSUFFICIENT_PERMISSIONS] Insufficient privileges: User does not have SELECT on Table 't'.")
    said = catalogue_tables.refusal(denied, "main.shop.t", "ingest.sources[1]")
    assert "ingest.sources[1].table 'main.shop.t' may not be read by this Spark user: [INSUFF" in str(said)
    assert catalogue_tables.refusal(Exception("[DIVIDE_BY_ZERO]"), "t", "ingest") is None


def test_files_that_are_written_anew_meanwhile(spark: SparkSession, tmp_path: Path) -> None:
    sales(spark, "a").write.parquet(str(tmp_path / "lines"))
    asked = EventSource(path=str(tmp_path / "lines"), format="parquet", columns=SALES)
    source = sources.find("ingest", asked, spark)
    rows = sources.read(spark, source, SALES).rows
    shutil.rmtree(tmp_path / "lines")
    sales(spark, "b").write.parquet(str(tmp_path / "lines"))
    with (
        pytest.raises(DataError, match=r"files of '.*lines' went away .* once that has ended"),
        sources.readable(source),
    ):
        rows.collect()


def two(tmp_path: Path, **section: Any) -> Settings:
    listed = [
        {"table": "sales", "columns": SALES},
        {"table": "clicks", "columns": VIEWS, "constants": {"kind": "view"}, "time_format": "epoch_s", **section},
    ]
    return Settings.model_validate({"tables": {"root": str(tmp_path / "tables")}, "ingest": {"sources": listed}})


@pytest.mark.slow
def test_dataframes_of_several_sources_become_events(spark: SparkSession, tmp_path: Path) -> None:
    settings, tables = two(tmp_path), Tables(spark, str(tmp_path / "tables"))
    frames = {"sales": sales(spark, "u,'1'", "u 2", "u 2"), "clicks": views(spark, "i/1", "j")}
    first = ingest.run(settings, spark, frames=frames)
    assert first["sources"] == {"clicks": {"view": 2}, "sales": {"sale": 2, "duplicate": 1}}
    events = {(row["kind"], row["user_id"], row["item_id"]) for row in tables.read("events").collect()}
    assert events == {
        ("purchase", "u,'1'", "i/1"),
        ("purchase", "u 2", "i/1"),
        ("view", "u,'1'", "i/1"),
        ("view", "u,'1'", "j"),
    }
    again = ingest.run(settings, spark, frames={name: frame.repartition(3) for name, frame in frames.items()})
    assert again == first | {"up_to_date": True}
    more = ingest.run(settings, spark, frames=frames | {"clicks": views(spark, "i/1", "j", "k")})
    assert (more["up_to_date"], tables.read("events").count()) == (False, 5)
    with pytest.raises(DataError, match=r"under other rules \(changed: time_zone\)"):
        ingest.run(two(tmp_path, time_zone="Asia/Tokyo"), spark, frames=frames)
    with pytest.raises(SettingsError, match=r"frames has 'carts', and no source names it"):
        ingest.run(settings, spark, frames=frames | {"carts": frames["clicks"]})


@pytest.mark.slow
def test_a_row_that_two_sources_have_is_one_and_each_has_its_own_limit(spark: SparkSession, tmp_path: Path) -> None:
    listed = [{"table": name, "columns": SALES} for name in ("old", "new")]
    settings = Settings.model_validate({"tables": {"root": str(tmp_path / "tables")}, "ingest": {"sources": listed}})
    old, new = sales(spark, "a", "b"), sales(spark, "b", "b", "c")
    summary = ingest.run(settings, spark, frames={"old": old, "new": new})
    assert summary["sources"] == {"new": {"sale": 1, "duplicate": 2}, "old": {"sale": 2}}
    assert Tables(spark, settings.tables.root).read("events").count() == 3
    assert Tables(spark, settings.tables.root).read("quarantine").isEmpty()
    bad = new.selectExpr("order_id", "item_id", "user_id", "time", "quantity", "-1.0D price")
    with pytest.raises(DataError, match=r"2 of 3 rows of 'new' are bad"):
        ingest.run(settings, spark, frames={"old": sales(spark, *map(str, range(100))), "new": bad})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["ingest.path=a", "ingest.table=b"], r"ingest: path 'a' and table 'b' are both set"),
        (["ingest.path=a", "ingest.sources=[{path: b}]"], r"ingest: sources are set, and 'a' beside them"),
        (["ingest.sources=[{path: a}, {format: json}]"], r"ingest: sources\[1\] must have a path or a table"),
        (["ingest.sources=[{pth: a}]"], r"ingest.sources.0.pth: unknown key .* did you mean 'path'\?"),
        (["ingest.table=a/b"], r"ingest.table: must be a table's name of up to three parts.*'a/b'"),
        (["ingest.table=a.b.c.d"], r"ingest.table: must be a table's name of up to three parts"),
    ],
)
def test_places_that_cannot_be(flags: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(flags=flags)


def test_events_from_before_there_were_ratings_take_new_ones(spark: SparkSession, tmp_path: Path) -> None:
    tables = Tables(spark, str(tmp_path))
    held = spark.sql("SELECT 'a' event_id, 'purchase' kind")
    tables.write("events", held, mode="overwrite", job="ingest", inputs={})
    new = spark.sql("SELECT 'b' event_id, 'purchase' kind, CAST(null AS double) rating")
    tables.merge_new("events", new, ["event_id"], job="ingest", inputs={"n": 1})
    assert sorted(tuple(row) for row in tables.read("events").collect()) == [("a", "purchase"), ("b", "purchase")]
