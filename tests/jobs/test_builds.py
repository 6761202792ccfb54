"""The manifest: what was built together counts once it is published, and only one of two builds at once is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import build_examples, builds, moved_builds, verify_epoch
from jobs.learn_spec import learn_spec
from jobs.settings import Settings
from jobs.tables import Tables
from spark_udfs import vocabularies
from tests.jobs.small_shop import small_shop
from tests.spark_udfs.bundles import two_tower_bundle
from training.errors import BundleError, TableError

BUILD: dict[str, Any] = dict.fromkeys(builds.FIELDS) | {"inputs": {"events": 3}, "read": {}, "pieces": {}}


class Killed(BaseException):
    """Stands for a kill."""


@pytest.fixture
def tables(spark: SparkSession, tmp_path: Path) -> Tables:
    return Tables(spark, str(tmp_path / "tables"))


def later(settings: Settings) -> Settings:
    """The same shop with another history, so that its examples differ."""
    return settings.model_copy(update={"examples": settings.examples.model_copy(update={"max_history": 3})})


@pytest.mark.slow
def test_a_build_killed_before_its_manifest_leaves_the_one_before_in_force(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_shop(spark, tmp_path)
    tables = Tables(spark, settings.tables.root)
    before = builds.published(tables)

    def killed(*_: object, **__: object) -> int:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(builds, "publish", killed)
        with pytest.raises(Killed):
            build_examples.run(later(settings), spark)
    assert tables.version("examples") > before["versions"]["examples"]
    pinned = learn_spec(settings, splits=("train",), validate=True)["tables"]
    assert {name: pinned[name]["version"] for name in pinned} == {name: before["versions"][name] for name in pinned}
    assert verify_epoch.run(settings, spark)["version"] == before["versions"]["examples"]
    assert build_examples.run(settings, spark)["up_to_date"]
    after = build_examples.run(later(settings), spark)
    assert not after["up_to_date"]
    assert after["versions"]["examples"] == tables.version("examples")
    del after["up_to_date"]
    assert builds.published_at(settings.tables.root) == builds.published(tables) == after


def test_of_two_builds_after_the_same_one_the_second_is_refused(tables: Tables) -> None:
    assert builds.newest(tables) == (-1, None)
    assert builds.publish(tables, BUILD, job="build_examples", since=-1) == 0
    with pytest.raises(
        TableError, match=r"'builds' .* changed by another writer .*Run `millrace build-examples` again"
    ):
        builds.publish(tables, BUILD | {"counts": {"late": 1}}, job="build_examples", since=-1)
    assert builds.newest(tables) == (0, BUILD)
    assert builds.publish(tables, BUILD | {"counts": {"next": 1}}, job="build_examples", since=0) == 1


def test_no_build_and_a_damaged_one_are_named(tables: Tables) -> None:
    for look in (lambda: builds.published(tables), lambda: builds.published_at(tables.root)):
        with pytest.raises(
            TableError, match=r"no build is published at .*tables/builds; run `millrace build-examples`"
        ):
            look()
    for rows, what in (
        ([("{}",)], "it lacks versions, read, inputs, cuts, counts, schema"),
        ([("no JSON",)], "Expecting value"),
        ([], "it has 0 rows"),
        ([("{}",)] * 2, "it has 2 rows"),
    ):
        damaged = tables.spark.createDataFrame(rows, "manifest string")
        tables.write("builds", damaged, mode="overwrite", job="somebody", inputs={"what": what})
        with pytest.raises(TableError, match=f"builds must hold one manifest; .*{what}"):
            builds.published_at(tables.root)


def test_tables_that_were_only_tidied_up_are_read_where_their_rows_are_now(tables: Tables) -> None:
    for name in ("events", "items"):
        tables.write(name, tables.spark.range(2, numPartitions=2), mode="overwrite", job="ingest", inputs={})
    manifest = BUILD | {"read": {"events": 0, "items": 0}, "inputs": {"events": 0, "items": 0}}
    tables.spark.sql(f"OPTIMIZE delta.`{tables.path('events')}`")
    tables.write("items", tables.spark.range(3), mode="overwrite", job="ingest", inputs={"more": 1})
    assert builds.versions_read(tables, manifest) == {"events": 1, "items": 0}


def test_only_tables_that_had_the_builds_own_rows_are_moved(tables: Tables, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = {"events": 0, "items": 0}
    for name in ("events", "items", "examples", "queries"):
        rows = tables.spark.createDataFrame([("0001-01-01", 1)], "piece string, user bigint").coalesce(1)
        tables.write(name, rows, mode="overwrite", job="build_examples", inputs=inputs)
    assert moved_builds.movable(tables) == []
    assert moved_builds.move(tables, ["events"], [], job="erase") is None
    named = {"versions": {"examples": 0, "queries": 0}, "read": inputs, "inputs": inputs, "counts": {}}
    builds.publish(tables, BUILD | named, job="build_examples", since=-1)
    tables.write("events", rows, mode="append", job="ingest", inputs={"later": 1})
    movable = moved_builds.movable(tables)
    assert movable == ["examples", "items", "queries"]
    for name in ("items", "examples"):
        tables.spark.sql(f"ALTER TABLE delta.`{tables.path(name)}` SET TBLPROPERTIES ('a' = 'b')")
    assert moved_builds.move(tables, ["events", "items", "examples"], movable, job="erase") == 1
    moved = builds.published(tables)
    assert (moved["read"], moved["versions"]) == ({"events": 0, "items": 1}, {"examples": 1, "queries": 0})
    assert "events: not as the build in force names them; run `millrace build-examples`" in capsys.readouterr().err
    assert builds.publishers(tables) == {"build_examples", "erase"}
    tables.write("queries", rows, mode="overwrite", job="build_examples", inputs={})
    assert moved_builds.move(tables, ["queries"], movable, job="erase") is None
    assert "queries: not as the build" in capsys.readouterr().err


def test_a_bundle_is_asked_with_the_items_that_it_was_trained_on(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables that were removed and made anew number other items from 1 on; the answers named those, without a word."""

    def numbered(*names: str) -> int:
        rows = tables.spark.createDataFrame(list(enumerate(names, 1)), vocabularies.SCHEMA)
        return tables.write("vocabulary_items", rows, mode="overwrite", job="test", inputs={"names": names})

    first = numbered("lamp", "rug")
    items = vocabularies.digest(tables.read("vocabulary_items", first), 2)
    bundle = two_tower_bundle(tmp_path, users=2, items=3, provenance={"build": {"items": items}})
    for version in (first, numbered("lamp", "rug", "chair")):  # appended ones change nothing
        builds.refuse_other_numbers(tables, {"vocabulary_items": version}, bundle.path)
    with pytest.raises(BundleError, match=r"the first 2 of 'vocabulary_items' at .* are others.*millrace train"):
        builds.refuse_other_numbers(tables, {"vocabulary_items": numbered("rug", "lamp")}, bundle.path)
    older = two_tower_bundle(tmp_path / "older", users=2, items=3)
    told: list[str] = []
    monkeypatch.setattr(builds, "warn", told.append)
    builds.refuse_other_numbers(tables, {"vocabulary_items": first}, older.path)
    assert [f"bundle '{older.name}' is of an earlier version" in line for line in told] == [True]
