"""What was taken in is known by files: new ones are read alone, and several runs make what one would have made."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import ingest, ingest_batch, ingested, sources
from jobs.appended import appended
from jobs.settings import Settings
from jobs.source import Source
from jobs.tables import Tables
from tests.jobs.test_ingest import CLEAN, DIRTY, settings_for, write_lines
from training.errors import DataError, SchemaError, SnapshotError, TableError, TooManyBadRows

pytestmark = pytest.mark.timeout(900)
ENDS = {
    "events": ("event_id", "time", "price"),
    "items": ("item_id", "name", "category", "first_sold", "last_sold", "price"),
    "users": ("user_id", "country", "first_seen", "last_seen"),
}
NEW = "20,10003,jar,1,2024-04-01 10:00:00,2,9,UK"
# Rows that stand in two files: kept ones, a bad one, and a malformed line, of which each counts.
FILES = {
    "a": [*CLEAN, DIRTY["missing_time"], DIRTY["malformed_line"]],
    "b": [CLEAN[1], NEW, NEW, DIRTY["missing_time"], DIRTY["unreadable_price"], DIRTY["malformed_line"]],
}


def write(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        write_lines(folder / f"{name}.csv", *FILES[name])


def ends(tables: Tables) -> dict[str, list[Any]]:
    """The tables that ingest makes, in an order."""
    return {name: sorted(map(str, tables.read(name).select(*columns).collect())) for name, columns in ENDS.items()}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The files that each reading of a source takes; a source's own name: all."""
    found, reads = list[list[str]](), sources.read

    def watched(spark: SparkSession, source: Source, *args: Any, **kwargs: Any) -> Any:
        found.append([Path(path).name for path in source.paths])
        return reads(spark, source, *args, **kwargs)

    monkeypatch.setattr(sources, "read", watched)
    return found


@pytest.mark.slow
def test_files_in_several_runs_make_what_one_run_makes(
    spark: SparkSession, tmp_path: Path, read: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "lines", *FILES)
    one = ingest.run(settings_for(tmp_path / "one", tmp_path / "lines"), spark)
    shutil.rmtree(tmp_path / "lines")
    read.clear()
    settings, tables = settings_for(tmp_path, tmp_path / "lines"), Tables(spark, str(tmp_path / "tables"))
    write(tmp_path / "lines", "a")
    first = ingest.run(settings, spark)
    write(tmp_path / "lines", "b")
    # Torn before the events are written: the next run takes the batch up.
    with monkeypatch.context() as patched:
        patched.setattr(Tables, "append_new", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest.run(settings, spark)
    second = ingest.run(settings, spark)
    assert read == [["lines"], ["b.csv"], ["b.csv"]]
    planted = {"sale": 1, "duplicate": 3, "malformed_line": 1, "unreadable_price": 1}
    assert (first["raw_rows"], second["dispositions"]) == (8, planted)
    assert second["all"] == {name: one[name] for name in ("raw_rows", "dispositions")}
    held = ends(tables)
    assert held == ends(Tables(spark, str(tmp_path / "one" / "tables")))
    assert ingest.run(settings, spark) == second | {"up_to_date": True}
    # A file that has changed: all are read, and what they held stays.
    write_lines(tmp_path / "lines" / "b.csv", CLEAN[0], "22,10002,bowl,1,2024-06-01 10:00:00,4,8,UK")
    changed = ingest.run(settings, spark)
    assert read[3:] == [["lines"]]
    assert changed["all"]["raw_rows"] == changed["raw_rows"] == 10
    assert tables.read("events").count() == len(held["events"]) + 1


@pytest.mark.slow
def test_tables_of_before_files_were_known_go_on(
    spark: SparkSession, tmp_path: Path, read: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "lines", "a")
    settings, tables = settings_for(tmp_path, tmp_path / "lines"), Tables(spark, str(tmp_path / "tables"))
    first = ingest.run(settings, spark)
    held = ends(tables)
    shutil.rmtree(tables.path(ingested.TABLE))
    assert ingest.run(settings, spark)["all"] == first["all"]
    assert "not known by files" in capsys.readouterr().err
    assert ends(tables) == held
    write_lines(tmp_path / "lines" / "c.csv", NEW)
    assert ingest.run(settings, spark)["dispositions"] == {"sale": 1}
    (tmp_path / "lines" / "a.csv").unlink()
    assert ingest.run(settings, spark)["up_to_date"]
    assert read == [["lines"], ["lines"], ["c.csv"]]


@pytest.mark.slow
def test_a_day_without_a_line(spark: SparkSession, tmp_path: Path) -> None:
    """Compressed, nothing has bytes too; the days after it go on."""
    write(tmp_path / "lines", "a")
    settings = settings_for(tmp_path, tmp_path / "lines")
    first = ingest.run(settings, spark)
    (tmp_path / "lines" / "b.csv.gz").write_bytes(gzip.compress(b""))
    assert ingest.run(settings, spark)["all"] == first["all"]
    write_lines(tmp_path / "lines" / "c.csv", NEW)
    assert ingest.run(settings, spark)["dispositions"] == {"sale": 1}
    with pytest.raises(DataError, match=r"holds a header but no rows"):
        ingest.run(settings_for(tmp_path / "other", tmp_path / "lines" / "b.csv.gz"), spark)


@pytest.mark.slow
def test_a_new_file_that_does_not_go_with_those_of_before_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "lines", "a")
    settings = settings_for(tmp_path, tmp_path / "lines")
    ingest.run(settings, spark)
    (tmp_path / "lines" / "b.csv").write_text("Item,Order,Name,Count,When,Price,Customer,Land\n" + CLEAN[0] + "\n")
    with pytest.raises(DataError, match=r"different headers: those of before have Order, Item.*, new ones Item, Order"):
        ingest.run(settings, spark)
    asked = settings.ingest.model_copy(update={"format": "parquet"})
    source = Source("lines", "ingest", asked, [], 0, {})
    raw = sources.Raw(spark.range(0), None, [("price", "string"), ("new", "int")])
    ingested.refuse_other_columns(source, raw, [{"price": "string"}])
    with pytest.raises(SchemaError, match=r"'lines' has files in which column 'price' is double and string"):
        ingested.refuse_other_columns(source, raw, [{"price": "string"}, {"price": "double"}])


@pytest.mark.parametrize("when", [pytest.param("looked", marks=pytest.mark.slow), "planned"])
def test_of_two_at_once_one_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The other one is through just after this one has seen what was taken in, or has planned."""
    (tmp_path / "lines").mkdir()
    write_lines(tmp_path / "lines" / "c.csv", NEW)
    settings, tables = settings_for(tmp_path, tmp_path / "lines"), Tables(spark, str(tmp_path / "tables"))
    module, name = (ingested, "known") if when == "looked" else (ingest_batch, "planned")
    asked, inner = getattr(module, name), list[dict[str, Any]]()

    def late(*args: Any) -> Any:
        found = asked(*args)
        if not inner:
            inner.append({})
            inner[0] = ingest.run(settings, spark)
        return found

    monkeypatch.setattr(module, name, late)
    with pytest.raises(TableError, match=r"'ingested' .* was changed by another writer while `ingest` wrote to it"):
        ingest.run(settings, spark)
    assert inner[0]["dispositions"] == {"sale": 1}
    assert tables.read("events").count() == 1


def delta(folder: Path, spark: SparkSession, *lines: str, mode: str = "append", by: tuple[str, ...] = ()) -> None:
    names = ["order_id", "item_id", "name", "quantity", "time", "price", "user_id", "country"]
    rows = [tuple(part.strip('"') for part in line.split(",")) for line in lines]
    df = spark.createDataFrame(rows, ", ".join(f"{name} string" for name in names))
    df.write.format("delta").mode(mode).partitionBy(*by).save(str(folder))


@pytest.mark.parametrize("by", [(), ("country",)])
def test_rows_that_were_added_to_a_delta_table(spark: SparkSession, tmp_path: Path, by: tuple[str, ...]) -> None:
    tables, place = Tables(spark, str(tmp_path)), f"delta.`{tmp_path}/raw`"
    delta(tmp_path / "raw", spark, *CLEAN[1:3], by=by)
    delta(tmp_path / "raw", spark, NEW, NEW.replace("UK", "U K/1"), by=by)
    spark.sql(f"OPTIMIZE {place}")
    rows = appended(tables, "raw", 0, tables.version("raw"))
    assert rows is not None
    assert rows.columns == tables.read("raw").columns
    assert sorted((row["order_id"], row["country"]) for row in rows.collect()) == [("20", "U K/1"), ("20", "UK")]
    spark.sql(f"ALTER TABLE {place} SET TBLPROPERTIES ('delta.checkpointInterval' = '1')")
    commit = tmp_path / "raw" / "_delta_log" / f"{1:020d}.json"  # before a checkpoint, so that Delta reads it no more
    commit.with_name(f".{commit.name}.crc").unlink()  # a store has none
    commit.write_text(commit.read_text()[:-20])
    assert appended(tables, "raw", 0, tables.version("raw")) is None
    spark.sql(f"DELETE FROM {place} WHERE order_id = '20'")
    assert appended(tables, "raw", 0, tables.version("raw")) is None
    assert appended(tables, "raw", 1, 0) is None
    commit.unlink()
    assert appended(tables, "raw", 0, 1 + 1) is None


@pytest.mark.slow
def test_a_row_that_lay_in_the_future_is_kept_when_it_comes_again(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lines").mkdir()
    write_lines(tmp_path / "lines" / "a.csv", CLEAN[0], NEW)
    asked = settings_for(tmp_path, tmp_path / "lines", now=None)
    with monkeypatch.context() as patched:
        patched.setattr(F, "current_timestamp", lambda: F.lit(datetime(2024, 2, 1, tzinfo=UTC)))
        assert ingest.run(asked, spark)["dispositions"] == {"sale": 1, "future_time": 1}
    write_lines(tmp_path / "lines" / "b.csv", NEW, CLEAN[0])
    again = ingest.run(asked, spark)
    assert again["dispositions"] == {"sale": 1, "duplicate": 1}
    assert again["all"] == {"raw_rows": 4, "dispositions": {"sale": 2, "duplicate": 1, "future_time": 1}}


@pytest.mark.slow
def test_a_file_that_was_refused_is_read_anew(spark: SparkSession, tmp_path: Path) -> None:
    """By the same Spark: what it holds of a path is not what lies there later."""
    lines = write_lines(tmp_path / "lines.csv", DIRTY["missing_time"])
    settings = settings_for(tmp_path, lines)
    with pytest.raises(TooManyBadRows, match="1 of 1 rows"):
        ingest.run(settings, spark)
    write_lines(lines, *CLEAN[:2])
    assert ingest.run(settings, spark)["dispositions"] == {"sale": 2}


@pytest.mark.slow
def test_a_delta_source_that_is_made_anew_under_its_old_versions(spark: SparkSession, tmp_path: Path) -> None:
    columns = {name: name for name in ("order_id", "item_id", "quantity", "time", "price", "user_id")}
    section = {"path": str(tmp_path / "raw"), "format": "delta", "columns": columns}
    settings = Settings.model_validate({"tables": {"root": str(tmp_path / "tables")}, "ingest": section})
    delta(tmp_path / "raw", spark, CLEAN[1])
    ingest.run(settings, spark)
    shutil.rmtree(tmp_path / "raw")
    delta(tmp_path / "raw", spark, CLEAN[2])
    assert ingest.run(settings, spark)["dispositions"] == {"sale": 1}
    shutil.rmtree(tmp_path / "raw")
    delta(tmp_path / "raw", spark, CLEAN[3])
    delta(tmp_path / "raw", spark, NEW)
    made = ingest.run(settings, spark)
    assert (made["raw_rows"], made["up_to_date"]) == (2, False)
    assert Tables(spark, settings.tables.root).read("events").count() == 4


@pytest.mark.slow
def test_a_commit_that_was_cut_off_is_no_version(spark: SparkSession, tmp_path: Path) -> None:
    """Delta would say nothing of it: the version without its rows would be known, and it again once it is restored."""
    columns = {name: name for name in ("order_id", "item_id", "quantity", "time", "price", "user_id")}
    section = {"path": str(tmp_path / "raw"), "format": "delta", "columns": columns}
    settings = Settings.model_validate({"tables": {"root": str(tmp_path / "tables")}, "ingest": section})
    delta(tmp_path / "raw", spark, CLEAN[1])
    delta(tmp_path / "raw", spark, CLEAN[2])
    commit = tmp_path / "raw" / "_delta_log" / f"{1:020d}.json"
    commit.with_name(f".{commit.name}.crc").unlink()
    whole = commit.read_bytes()
    behind_a_brace = whole[: whole.rstrip().rindex(b"}", 0, -2) + 1]
    for torn in (b"", whole[:-20], behind_a_brace, whole[:-20] + bytes(20)):
        commit.write_bytes(torn)
        with pytest.raises(SnapshotError, match=rf"a commit of table '.*raw' is cut off.*{commit.name}"):
            ingest.run(settings, spark)
    commit.write_bytes(whole)
    assert ingest.run(settings, spark)["raw_rows"] == 2


@pytest.mark.slow
def test_a_delta_source_that_grows_and_is_written_anew(spark: SparkSession, tmp_path: Path) -> None:
    columns = {name: name for name in ("order_id", "item_id", "quantity", "time", "price", "user_id")}
    section = {"path": str(tmp_path / "raw"), "format": "delta", "columns": columns}
    settings = Settings.model_validate({"tables": {"root": str(tmp_path / "tables")}, "ingest": section})
    delta(tmp_path / "raw", spark, *CLEAN[1:3])
    ingest.run(settings, spark)
    delta(tmp_path / "raw", spark, CLEAN[1], NEW)
    grown = ingest.run(settings, spark)
    assert grown["dispositions"] == {"sale": 1, "duplicate": 1}
    assert grown["all"] == {"raw_rows": 4, "dispositions": {"sale": 3, "duplicate": 1}}
    delta(tmp_path / "raw", spark, NEW, mode="overwrite")
    assert ingest.run(settings, spark)["all"] == {"raw_rows": 1, "dispositions": {"sale": 1}}
