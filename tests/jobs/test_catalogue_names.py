"""Tables of a folder that have names in a catalogue's schema too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import build_examples, ingest
from jobs.settings import Settings, load_settings
from jobs.tables import Tables
from tests.jobs.test_ingest import settings_for, write_lines
from training.errors import SettingsError, TableError

SCHEMA = "spark_catalog.named_shop"
OTHER = "spark_catalog.named_otherwise"


@pytest.fixture
def schema(spark: SparkSession, tmp_path: Path) -> Iterator[str]:
    spark.sql(f"CREATE SCHEMA {SCHEMA} LOCATION '{tmp_path}/of the schema'")
    yield SCHEMA
    spark.sql(f"DROP SCHEMA {SCHEMA} CASCADE")


def shop(folder: Path, lines: Path, catalogue: str | None) -> Settings:
    settings = settings_for(folder, lines)
    tables = settings.tables.model_copy(update={"catalogue": catalogue})
    examples = settings.examples.model_copy(update={"validation_days": 1})
    return settings.model_copy(update={"tables": tables, "examples": examples, "run_dir": str(folder / "run")})


@pytest.mark.slow
def test_what_jobs_write_has_a_name_and_stays_in_its_folder(spark: SparkSession, schema: str, tmp_path: Path) -> None:
    """Also what was there before; and the schema goes without the files."""
    days = [f"{n},1000{n % 2},mug,1,2024-12-{n + 1:02} 10:00:00,1,{n % 3},UK" for n in range(20)]
    lines = write_lines(tmp_path / "lines.csv", *days)
    ingest.run(shop(tmp_path, lines, None), spark)
    settings = shop(tmp_path, lines, schema)
    ingest.run(settings, spark)
    build_examples.run(settings, spark)
    named = {row["tableName"] for row in spark.sql(f"SHOW TABLES IN {schema}").collect()}
    assert {"events", "items", "users", "examples", "queries", "catalogue", "vocabulary_users", "builds"} <= named
    tables = Tables(spark, settings.tables.root)
    for name in ("events", "examples"):
        assert spark.table(f"{schema}.{name}").count() == tables.read(name).count() > 0
    spark.sql(f"DROP TABLE {schema}.examples")
    assert build_examples.run(settings, spark)["up_to_date"]
    assert spark.table(f"{schema}.examples").count() == tables.read("examples").count()


def test_a_name_that_is_taken_or_a_schema_that_is_not_there_is_refused(
    spark: SparkSession, schema: str, tmp_path: Path
) -> None:
    rows = spark.createDataFrame([("u",)], "user_id string")
    rows.createOrReplaceTempView("of_users")
    spark.sql(f"CREATE TABLE {schema}.users USING DELTA LOCATION '{tmp_path}/elsewhere' AS SELECT 'u' AS user_id")
    spark.sql(f"CREATE VIEW {schema}.items AS SELECT 1 AS one")
    spark.sql(f"CREATE TABLE {schema}.events USING PARQUET AS SELECT 1 AS one")
    tables = Tables(spark, str(tmp_path / "tables"), schema)
    for name, what in (("users", "the one at .*/elsewhere"), ("items", "a view or"), ("events", "no Delta table")):
        with pytest.raises(TableError, match=rf"{schema}.{name} must be the table at .*, and is .*{what}.*nothing was"):
            tables.write(name, rows, mode="overwrite", job="ingest", inputs={})
    for other in (OTHER, f"nowhere.{OTHER}"):
        with pytest.raises(
            TableError, match=rf"tables.catalogue '{other}' must be a schema .*create it \(CREATE SCHEMA\)"
        ):
            Tables(spark, str(tmp_path / "tables"), other).merge_new(
                "users", rows, ["user_id"], job="ingest", inputs={}
            )
    assert not (tmp_path / "tables").exists()


def test_a_schema_has_two_parts_at_most() -> None:
    assert load_settings(None, ["tables.catalogue=main.`my shop`"]).tables.catalogue == "main.`my shop`"
    for wrong in ("main.shop.events", "main shop", "/a/folder"):
        with pytest.raises(SettingsError, match=r"tables.catalogue: must be a schema's name of up to two parts"):
            load_settings(None, [f"tables.catalogue={wrong}"])
