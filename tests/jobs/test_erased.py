"""Who was erased: kept out of what a job writes at the same time, whichever of the two comes first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.erasure import erased
from jobs.erasure.erased import Watch
from jobs.tables import Tables
from spark_udfs.erased import Erased, digest
from spark_udfs.occurrences import Finder, trimmed
from spark_udfs.order_lines import of_no_person
from training.errors import DataError, TableError

KEY = b"k" * 32


def events(spark: SparkSession, folder: Path, **inputs: object) -> Tables:
    """Four rows, of persons 7, 8 and nobody, as the job `ingest` has written them."""
    tables = Tables(spark, str(folder))
    rows = spark.createDataFrame([("7", "a"), ("7", "b"), ("8", "a"), (None, "a")], "user_id string, item_id string")
    tables.write("events", rows, mode="overwrite", job="ingest", inputs=inputs)
    return tables


def users(tables: Tables) -> list[str | None]:
    return sorted((row["user_id"] for row in tables.read("events").collect()), key=str)


def test_what_was_read_before_an_erasure_is_not_written(spark: SparkSession, tmp_path: Path) -> None:
    tables = Tables(spark, str(tmp_path))
    watch = Watch(tables, "ingest_feedback", "feedback")
    assert watch.inputs == {}
    watch.before_writing()
    erased.remember(tables, ["7"])
    with pytest.raises(DataError, match=rf"at {tmp_path} while `millrace ingest-feedback` read .* nothing was written"):
        watch.before_writing()
    assert Watch(tables, "ingest_feedback", "feedback").inputs == {"erased": erased.state(tables)}


@pytest.mark.slow
def test_what_was_committed_before_an_erasure_began_is_taken_back(spark: SparkSession, tmp_path: Path) -> None:
    tables = events(spark, tmp_path, rules={"now": None}, source="x")
    aside = spark.createDataFrame([("r", "b1"), ("s", "b2")], "row string, batch string")
    tables.write("quarantine", aside, mode="overwrite", job="ingest", inputs={})
    watch = Watch(tables, "ingest", "events")
    watch.after_writing(["events"], "b1")
    erased.remember(tables, ["nobody"])
    watch.after_writing(["events"])
    assert users(tables) == ["7", "7", "8", None]
    erased.remember(tables, ["7"])
    with pytest.raises(DataError, match=r"\(2 of 'events', 1 of 'quarantine'\).* `millrace erase` again .*same ids"):
        watch.after_writing(["events"], "b1")
    assert users(tables) == ["8", None]
    assert [row["batch"] for row in tables.read("quarantine").collect()] == ["b2"]
    assert (tables.made_by("events"), tables.made_from("events")) == ("erase", {"rules": {"now": None}})


def test_what_a_killed_job_has_left_is_taken_back_by_the_next(spark: SparkSession, tmp_path: Path) -> None:
    tables = events(spark, tmp_path)
    erased.remember(tables, ["7"])
    with pytest.raises(DataError, match=r"wrote rows of theirs; these were removed again \(2 of 'events'\)"):
        Watch(tables, "ingest", "events").before_writing()
    Watch(tables, "ingest", "events").before_writing()
    assert users(tables) == ["8", None]


def test_answers_that_name_persons_by_lines_alone_go_whole(spark: SparkSession, tmp_path: Path) -> None:
    """Before the next write, too, where the job was killed before it looked."""
    tables, gone = events(spark, tmp_path, moment="m1"), list[object]()

    def whole(made: Mapping[str, Any]) -> int:
        gone.append(made["moment"])
        return 3

    watch = Watch(tables, "ingest", "events", (), whole)
    erased.remember(tables, ["7"])
    with pytest.raises(DataError, match=r"removed again \(3 of 'events'\)"):
        watch.after_writing(["events"], made={"moment": "m0"})
    with pytest.raises(DataError, match=r"removed again \(3 of 'events'\)"):
        Watch(tables, "ingest", "events", (), whole).before_writing()
    assert gone == ["m0", "m1"]


def test_hashes_without_their_key_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    tables = Tables(spark, str(tmp_path))
    erased.remember(tables, ["7"])
    twice = tables.read("erasure_key").union(tables.read("erasure_key"))
    tables.write("erasure_key", twice, mode="overwrite", job="x", inputs={})
    with pytest.raises(TableError, match=r"must hold one key of 32 bytes, it holds 2 rows"):
        erased.known(tables)
    shutil.rmtree(tmp_path / "erasure_key")
    with pytest.raises(TableError, match=r"key that made them is missing at .*erasure_key"):
        erased.known(tables)


def test_marking_moves_no_row(spark: SparkSession) -> None:
    """However many have no user: they would all go to one task."""
    persons = Erased(KEY, spark.createDataFrame([(digest(KEY, "7"),)], "hash string"))
    rows = spark.range(0, 40, 1, 4).selectExpr("IF(id % 4 = 0, CAST(id AS string), NULL) AS user_id", "id")
    rows = rows.selectExpr("IF(id = 8, '7', user_id) AS user_id", "id")
    marked = persons.mark(rows, "user_id", "is_erased")
    assert [row["id"] for row in marked.where("is_erased").collect()] == [8]
    assert [len(part) for part in marked.rdd.glom().collect()] == [10] * 4
    assert KEY.hex() not in marked._jdf.queryExecution().toString()


def test_a_row_mentions_a_person_where_a_person_may_be_named(spark: SparkSession) -> None:
    persons = Erased(KEY, spark.createDataFrame([(digest(KEY, "12"),), (digest(KEY, "c1234x"),)], "hash string"))
    aside = of_no_person({"quantity": "Count", "price": "price", "user_id": "kind"})
    others = [{"Count": "12", "price": 12, "note": "12 cups"}, {"Customer": "c1234"}]
    theirs = [{"kind": " 12"}, {"note": 12}, {"_other_fields": '[{"key":"by","value":"12"}]'}, {"Count": "c1234x"}]
    rows = spark.createDataFrame([(json.dumps(row),) for row in others + theirs], "row string")
    left = persons.unmentioned(rows, "row", aside, trimmed).collect()
    assert sorted(row["row"] for row in left) == sorted(json.dumps(row) for row in others)
    finder = Finder(["12", "c1234x"], ["kind"])
    assert [finder.names(json.dumps(row), aside) for row in others + theirs] == [False] * 2 + [True] * 4
