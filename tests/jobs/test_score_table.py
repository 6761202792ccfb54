"""A Delta table scored as it lies: the files that workers write, taken in by one commit, against answers by Spark."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession

from jobs import added_files, score_table, sessions
from jobs.added_files import obstacle
from jobs.score_table import JOB
from jobs.tables import Tables
from spark_udfs import direct
from spark_udfs.answer_files import Written, remove_files
from tests.spark_udfs.asked_rows import ROWS, awkward_table, bundle_of
from training.errors import SchemaError, TableError

NAMES = ["p", "none"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [bundle_of(tmp_path_factory.mktemp("bundles"), seed) for seed in (5, 6)]


@pytest.fixture(scope="module")
def source(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("tables") / "asked")
    awkward_table(spark, path)
    return path


def scored(spark: SparkSession, source: str, bundle: Path, into: Path | str, **more: Any) -> dict[str, Any]:
    return score_table.score_table(spark, source, bundle, str(into), **{"key": "key", "names": NAMES, **more})


def read(spark: SparkSession, path: Path) -> DataFrame:
    return spark.read.format("delta").load(str(path))


def answers_of(bundle: Path, rows: DataFrame) -> dict[str, float]:
    """By key; each key is there once."""
    found = rows.where(f"bundle = '{bundle.name}'").collect()
    held = {row["key"]: row["p"][0] for row in found}
    assert len(held) == len(found) == ROWS * 9 // 10
    assert {(len(row["p"]), row["none"]) for row in found} == {(1, None)}
    return held


def adds_in(table: Path, version: int) -> list[dict[str, Any]]:
    log = (table / "_delta_log" / f"{version:020d}.json").read_text()
    return [line["add"] for line in map(json.loads, log.splitlines()) if "add" in line]


def test_files_and_rows_are_one_answer(
    spark: SparkSession, bundles: list[Path], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Of a table with deletion vectors, mapped names and partitions; old rows of a bundle go, another's stay."""
    files, rows = tmp_path / "files", tmp_path / "rows"
    latest = tmp_path / "latest"
    latest.symlink_to(bundles[0])
    told = scored(spark, source, latest, files, version=0)
    assert (told["way"], told["source_version"], told["bundle"]) == ("files", 0, bundles[0].name)
    assert read(spark, files).count() == ROWS
    scored(spark, source, bundles[1], files)
    told = scored(spark, source, bundles[0], files)
    assert scored(spark, source, bundles[0], files) | {"way": "files"} == told | {"up_to_date": True}
    monkeypatch.setattr(added_files, "obstacle", lambda *_: "planted")
    assert scored(spark, source, bundles[0], rows)["way"] == "rows"
    said = " ".join(capsys.readouterr().err.split())
    assert "the answers go through Spark, which takes longer: planted" in said
    assert read(spark, files).schema == read(spark, rows).schema
    # A row's last bit depends on how many others stand beside it.
    of_first = answers_of(bundles[0], read(spark, files))
    assert of_first == pytest.approx(answers_of(bundles[0], read(spark, rows)), rel=1e-6)
    assert of_first != pytest.approx(answers_of(bundles[1], read(spark, files)), rel=1e-2)
    commit = next(Tables(spark, str(tmp_path)).history("files"))
    assert (commit.version, commit.operation) == (told["version"], "WRITE")
    assert json.loads(commit.made or "")["inputs"]["version"] == told["source_version"]
    added = adds_in(files, told["version"])
    assert sum(json.loads(add["stats"])["numRecords"] for add in added) == ROWS * 9 // 10
    assert read(spark, files).where("key = 'k1234'").count() == 2


def taken(tables: Tables, write: Callable[[str], Sequence[Written]], **inputs: Any) -> int:
    def remove(path: str, files: Sequence[Written]) -> None:
        remove_files(path, files)

    return tables.take_in("t", {"bundle": "it's \\ one"}, write, remove, job=JOB, inputs=inputs)


@pytest.fixture
def tables(spark: SparkSession, tmp_path: Path) -> Tables:
    """With an empty table `t` of answers."""
    made = Tables(spark, str(tmp_path))
    made.make("t", spark.createDataFrame([], "key bigint, p array<float>, bundle string"), ["bundle"])
    return made


def file_of(key: int) -> Callable[[str], list[Written]]:
    """What writes a file of one answer, and another one of it that is told to nobody, as a task does that ran twice."""
    import numpy as np
    import pyarrow as pa

    from spark_udfs import answer_files
    from spark_udfs.arrow import fixed_lists

    def write(path: str) -> list[Written]:
        rows = pa.record_batch([pa.array([key]), fixed_lists(np.array([[0.5]]))], ["key", "p"])
        place = answer_files._place(path, {})
        made = [answer_files._write([rows], place, "bundle=a b%", "run", "key", "zstd") for _ in range(2)]
        return [file for file in made[1:] if file is not None]

    return write


def test_only_told_files_are_taken_in_and_of_two_at_once_one(tables: Tables) -> None:
    folder = Path(tables.path("t"), "bundle=a b%")
    version = taken(tables, file_of(1), n=1)
    assert [(row["key"], row["p"], row["bundle"]) for row in tables.read("t").collect()] == [(1, [0.5], "it's \\ one")]
    assert len(list(folder.glob("*.parquet"))) == 2

    def after_another(path: str) -> list[Written]:
        assert taken(tables, file_of(2), n=2) == version + 1
        return file_of(3)(path)

    with pytest.raises(TableError, match=r"'t' at .* was changed by another writer while `score_table` wrote to it"):
        taken(tables, after_another, n=7)
    assert [row["key"] for row in tables.read("t").collect()] == [2]
    assert len(list(folder.glob("*.parquet"))) == 5  # of the last two files the one that was told is gone

    def others_meanwhile(path: str) -> list[Written]:
        rows = tables.spark.sql("SELECT 9L AS key, array(1F) AS p, 'other' AS bundle")
        tables.write("t", rows, mode="append", job="j", inputs={})
        return file_of(4)(path)

    taken(tables, others_meanwhile, n=3)
    assert sorted(row["key"] for row in tables.read("t").collect()) == [4, 9]

    def none(path: str) -> list[Written]:
        return []

    taken(tables, none, n=4)
    assert [row["key"] for row in tables.read("t").collect()] == [9]

    def after_a_rule(path: str) -> list[Written]:
        tables.spark.sql(f"ALTER TABLE delta.`{path}` ADD CONSTRAINT large CHECK (key > 8)")
        return file_of(5)(path)

    with pytest.raises(TableError, match="was changed by another writer"):
        taken(tables, after_a_rule, n=5)
    assert [row["key"] for row in tables.read("t").collect()] == [9]


def test_a_table_that_was_made_anew_meanwhile_takes_nothing(tables: Tables) -> None:
    def made_anew(path: str) -> list[Written]:
        rows = tables.spark.sql("SELECT 9L AS key, array(1F) AS p, 'other' AS bundle")
        rows.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(f"{path}2")
        import shutil

        shutil.rmtree(path)
        Path(f"{path}2").rename(path)
        return file_of(1)(path)

    with pytest.raises(TableError, match=r"was [0-9a-f-]+ when its rows were begun, and is [0-9a-f-]+ now"):
        taken(tables, made_anew, n=1)
    assert [row["key"] for row in tables.read("t").collect()] == [9]


def test_tables_that_others_made_are_refused_or_go_by_rows(
    tables: Tables, source: str, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spark, path, into = tables.spark, tables.path("t"), Path(tables.path("t"))
    lacks = "'key' is bigint, and must be string; 'none' is missing, and must be array<float>"
    with pytest.raises(TableError, match=f"'t' at .* must be one of such answers: {lacks}. Rename"):
        scored(spark, source, bundles[0], into)
    spark.sql("SELECT 'k' AS key, array(1F) AS p, 'b' AS bundle").write.format("delta").save(f"{path}2")
    with pytest.raises(TableError, match="its folders are by nothing, and must be by bundle"):
        scored(spark, source, bundles[0], Path(f"{path}2"), names=["p"])
    with pytest.raises(SchemaError, match="names of their own; they are key, Bundle, bundle"):
        scored(spark, source, bundles[0], into, names=["Bundle"])
    assert obstacle(spark, path) is None
    spark.sql(f"ALTER TABLE delta.`{path}` ADD CONSTRAINT positive CHECK (key > 0)")
    assert obstacle(spark, path) == "the table has the constraints positive"
    spark.sql(f"CREATE TABLE delta.`{path}3` (a BIGINT NOT NULL, b BIGINT COMMENT 'none') USING delta")
    assert obstacle(spark, f"{path}3") == "the table has rules for its columns a"
    assert obstacle(spark, source) == "the table has columnMapping"
    monkeypatch.setattr(sessions, "is_remote", lambda: True)
    assert "as with Spark Connect" in str(obstacle(spark, path))


def test_a_table_of_no_rows_is_answered_by_none(
    spark: SparkSession, source: str, bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the root's own folder too."""
    empty, place = tmp_path / "empty", tmp_path / "into"
    read(spark, Path(source)).limit(0).write.format("delta").save(str(empty))
    made = list[str]()

    class Noted(Tables):
        def __init__(self, spark: SparkSession, root: str) -> None:
            made.append(root)
            super().__init__(spark, str(tmp_path))

    monkeypatch.setattr(score_table, "Tables", Noted)
    told = [scored(spark, str(empty), bundles[0], Path(into)) for into in ("/into", "into")]
    assert (made, [one["up_to_date"] for one in told]) == (["/", "."], [False, True])
    assert (told[0]["way"], read(spark, place).count()) == ("files", 0)


def test_answers_need_a_folder(spark: SparkSession) -> None:
    for into in ("s3://bucket", "s3://me:SECRET@bucket/", "", "/", "out/..", "."):
        with pytest.raises(TableError, match=r"it is '.*', which is none; write .*/scores") as error:
            score_table.score_table(spark, "asked", "bundle", into, key="key")
        assert "SECRET" not in str(error.value)
    places = ("hdfs:///scores", "dbfs:/scores", "s3://bucket/scores", "file:///scores", "/scores", "scores")
    roots = [score_table._root_and_name(into) for into in places]
    assert {name for _, name in roots} == {"scores"}
    paths = [Tables(spark, root).path(name) for root, name in roots]
    assert paths[:4] == ["hdfs:/scores", "dbfs:/scores", "s3://bucket/scores", "file:/scores"]


def test_a_job_that_fails_leaves_no_files(
    spark: SparkSession, source: str, bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task's file of the source is gone; others finish before it."""
    monkeypatch.setattr(direct, "BYTES", 40_000)
    copy, into = tmp_path / "copy", tmp_path / "into"
    read(spark, Path(source)).repartition(2).write.format("delta").save(str(copy))
    sorted(copy.glob("*.parquet"))[-1].unlink()
    with pytest.raises(PythonException, match="is gone; VACUUM"):
        scored(spark, str(copy), bundles[0], into)
    assert list(into.rglob("bundle=*/*.parquet")) == []
    assert read(spark, into).count() == 0
