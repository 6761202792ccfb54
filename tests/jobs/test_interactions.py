"""Files of interactions as papers ship them: what is seen of how they are written, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.interactions import Text, interactions, refuse_nothing, written
from training.errors import DataError

Found = list[tuple[str, str, float | None]]
BY_TIME: Found = [("1", "1193", 978300760.0), ("1", "661", 978302109.0), ("2", "1193", 978298413.0)]
NO_TIME: Found = [(user, item, None) for user, item, _ in BY_TIME]
FILES: dict[str, tuple[str, Found]] = {
    "ratings.dat": ("1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n", BY_TIME),
    "u.data": ("1\t1193\t5\t978300760\n1\t661\t3\t978302109\n2\t1193\t4\t978298413\n", BY_TIME),
    "ratings.csv": ("userId,movieId,timestamp\n1,1193,978300760\n1,661,978302109\n2,1193,978298413\n", BY_TIME),
    "ms.csv": ('"sku";"ts";"user"\n1193;978300760000;1\n661;978302109000;1\n1193;978298413000;2\n', BY_TIME),
    "dates.csv": (
        "user,item,time\n1,1193,2000-12-31 22:12:40\n1,661,2000-12-31 22:35:09\n2,1193,2000-12-31 21:33:33\n",
        BY_TIME,
    ),
    "ml.inter": (
        "user_id:token\titem_id:token\ttimestamp:float\n1\t1193\t978300760\n1\t661\t978302109\n2\t1193\t978298413\n",
        BY_TIME,
    ),
    "pairs.txt": ("1 1193\n1 661\n2  1193\n", NO_TIME),
    "genres.csv": (
        'userId,movieId,rating,timestamp,title,genres\n1,1193,5,978300760,"One, the",Drama\n'
        "1,661,3,978302109,James,Animation|Children\n2,1193,4,978298413,One,Drama|War\n",
        BY_TIME,
    ),
    "unknown.csv": ("uid,track\n1,1193\n1,661\n2,1193\n", NO_TIME),
    "numbers.txt": ("uid item\n1 1193\n1 661\n2 1193\n", NO_TIME),
    "of_five.txt": (
        "1 10 20 30 40\n2 11 21 31 41\n",
        [*(("1", f"{n}0", None) for n in range(1, 5)), *(("2", f"{n}1", None) for n in range(1, 5))],
    ),
    "lists.txt": ("1 1193 661\n2 1193\n3\n", NO_TIME),
}


def found(spark: SparkSession, path: Path, **named: str) -> Found:
    rows = interactions(spark, str(path), named).orderBy("position", "user", "time").collect()
    return [(row["user"], row["item"], row["time"]) for row in rows]


@pytest.mark.parametrize("name", FILES)
def test_files_as_they_are_shipped(name: str, spark: SparkSession, tmp_path: Path) -> None:
    text, wanted = FILES[name]
    (tmp_path / name).write_text(text)
    assert found(spark, tmp_path / name) == wanted


def test_what_is_gzipped_and_what_a_column_is_called(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(b"who,what\na,b\n"))
    assert written(path, {"user": "who", "item": "what"}) == Text(",", ("who", "what"), header=True)
    assert written(path, {}).columns == ("user", "item")
    assert not written(path, {}).header


def test_tables_of_parquet_and_delta(spark: SparkSession, tmp_path: Path) -> None:
    rows = spark.createDataFrame([(1, "x", 5), (2, "y", 6)], "customer int, sku string, ts long").coalesce(1)
    rows.write.parquet(str(tmp_path / "p"))
    rows.write.format("delta").save(str(tmp_path / "d"))
    wanted: Found = [("1", "x", 5.0), ("2", "y", 6.0)]
    assert found(spark, tmp_path / "p") == wanted
    assert sorted(found(spark, tmp_path / "d")) == wanted
    assert found(spark, tmp_path / "p", user="sku", item="customer")[0] == ("x", "1", 5.0)


def test_rows_without_a_name_are_left_out_and_said(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("user,item\n1,2\n,3\n4,\n")
    assert found(spark, tmp_path / "a.csv") == [("1", "2", None)]
    assert "2 of 3 rows" in capsys.readouterr().err


def test_which_columns_are_taken_is_said(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("user,sku,seen_on,position\n1,2,7,x\n1,3,7,y\n")
    assert found(spark, tmp_path / "a.csv") == [("1", "2", None), ("1", "3", None)]
    said = capsys.readouterr().err
    assert "user is user, item is sku, time is none" in said
    assert "if one of seen_on, position is the time" in said
    assert found(spark, tmp_path / "a.csv", item="position", time="seen_on") == [("1", "x", 7.0), ("1", "y", 7.0)]


def test_rows_of_tables_have_no_place_and_equal_ones_are_one(spark: SparkSession, tmp_path: Path) -> None:
    spark.sql("SELECT 1 user, 2 item, 3L time UNION ALL SELECT 1, 2, 3L").write.parquet(f"{tmp_path}/p")
    assert [tuple(row) for row in interactions(spark, f"{tmp_path}/p", {}).collect()] == [("1", "2", 3.0, None)]


@pytest.mark.parametrize(
    ("text", "named", "said"),
    [
        ("", {}, "is empty"),
        ("alone\n", {}, "lines of .* have one field"),
        ("a,b\n1,2\n", {"user": "c"}, "no column 'c'; it has: a, b"),
        ("sku,day,x,y,z\n1,2,3,4,5\n", {"item": "sku"}, "--column user=NAME"),
        ("user,item,time\n1,2,yesterday\n", {}, "1 of 1 rows .* time that cannot be read"),
        ("user,item\n,\n", {}, "no row with a user and an item"),
        ("1,2,3,4,5\n6,7,8,9,10\n", {}, "5 columns and no header"),
        ("user,item\n1,2\n3,4,5\n", {}, "other numbers of fields than its first line"),
    ],
)
def test_what_cannot_be_read_is_said(
    text: str, named: dict[str, str], said: str, spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        interactions(spark, str(tmp_path / "bad.csv"), named)


def test_what_is_not_there_is_said(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="name one file of text"):
        interactions(spark, str(tmp_path / "folder"), {})
    for name in ("no.such_table", str(tmp_path / "none.csv")):
        with pytest.raises(DataError, match="cannot be read as interactions"):
            interactions(spark, name, {})


def test_a_file_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    for place, words in (
        ("nosuch.csv", "there is no file 'nosuch.csv'"),
        (f"{tmp_path}/nowhere", "there is no file"),
        (f"{tmp_path}/empty.csv", "is empty; name a file with rows"),
    ):
        with pytest.raises(DataError, match=words):
            refuse_nothing(place)
    for place in ("main.shop.events", "s3a://shop/events.parquet", f"{tmp_path}/*.parquet"):
        refuse_nothing(place)
