"""A task's own tables: typed by name, bad rows set aside and counted, wide files melted, done once."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from jobs import ingest, source_rows, source_tables
from jobs.erasure import erased
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.task import Task
from jobs.tasks import TASKS
from training.errors import DataError, SchemaError, SettingsError, TooManyBadRows

CASES = {
    "case_id": "string", "time": "timestamp", "fraud": "double?", "amount": "double", "old": "boolean?", "n": "bigint?"
}  # fmt: skip
FILE = """id,when,label,amount,old,n
a,1700000000000,legit,1.5,yes,3
b,1700000001000,fraud,2,,
c,1700000002000,,3e2,FALSE,-1
"""


def task(**reads: Any) -> Task:
    return dataclasses.replace(
        TASKS["recommend"], name="toy", reads=lambda _: reads, given=(), simulated={"raw?": "payments"}
    )


def settings(folder: Path, limit: float = 0.5, **sources: Any) -> Settings:
    return Settings.model_validate(
        {"tables": {"root": str(folder / "tables"), "quarantine_limit": limit}, "sources": sources}
    )


def of_file(path: Path, text: str = FILE, **more: Any) -> dict[str, Any]:
    path.write_text(text, encoding="utf-8")
    columns = {"case_id": "id", "time": "when", "fraud": "label"}
    return {"path": str(path), "columns": columns, "time_format": "epoch_ms", "words": WORDS} | more


WORDS = {"fraud": {"legit": 0, "fraud": 1}}


def run(spark: SparkSession, asked: Settings, **reads: Any) -> dict[str, Any]:
    return source_tables.ingest(asked, Tables(spark, asked.tables.root), task(**reads))


def test_columns_come_by_name_and_type_and_once(spark: SparkSession, tmp_path: Path) -> None:
    asked = settings(tmp_path, cases=of_file(tmp_path / "cases.csv"))
    made = run(spark, asked, cases=CASES)
    assert made["tables"]["cases"] | {"source": ""} == {
        "source": "", "rows": 3, "bad": {}, "version": 0, "up_to_date": False
    }  # fmt: skip
    rows = [tuple(row) for row in Tables(spark, asked.tables.root).read("cases").orderBy("case_id").collect()]
    at = [datetime(2023, 11, 14, 22, 13, second) for second in (20, 21, 22)]
    assert rows == [
        ("a", at[0], 0.0, 1.5, True, 3),
        ("b", at[1], 1.0, 2.0, None, None),
        ("c", at[2], None, 300.0, False, -1),
    ]
    again = run(spark, asked, cases=CASES)
    assert (again["up_to_date"], again["tables"]["cases"]["version"]) == (True, 0)


def test_several_columns_make_an_id(spark: SparkSession, tmp_path: Path) -> None:
    """No two of different parts are one, and a part that is missing makes none."""
    (tmp_path / "sales.csv").write_text(
        "series_id,store,product,n\nx,A, P1 ,1\nx,A/B,C,1\nx,A,B/C,1\nx,A\\,B,1\nx,,P1,1\nx,A,P2,no\n",
        encoding="utf-8",
    )
    source = {"path": str(tmp_path / "sales.csv"), "joined": {"series_id": ["store", "product"]}}
    made = run(spark, settings(tmp_path, sales=source), sales={"series_id": "string", "n": "bigint"})
    assert made["tables"]["sales"]["bad"] == {"series_id is missing": 1, "n is no bigint": 1}
    tables = Tables(spark, f"{tmp_path}/tables")
    assert {row[0] for row in tables.read("sales").collect()} == {"A/P1", r"A\/B/C", r"A/B\/C", r"A\\/B"}
    told = [json.loads(row["row"]) for row in tables.read("quarantine").orderBy("reason").collect()]
    assert told[0]["joined into series_id"] == "A/P2", "an erasure finds the whole id in quarantine"
    assert told[1] == {"series_id": "x", "product": "P1", "n": "1"}
    asked = settings(tmp_path, sales=source).sources["sales"]
    assert source_rows.wanted_of(asked, {"n": "bigint"}) == {"n": "n"}
    for joined, columns, words in (
        ({"series_id": ["store", "nowhere"]}, {}, "nowhere"),
        ({"other": ["store", "product"]}, {}, r"sources\.sales\.joined has the unknown name 'other'"),
        ({"time": ["store", "product"]}, {"series_id": "store"}, r"sales\.joined has 'time', which is a timestamp"),
    ):
        asked = settings(tmp_path, sales=source | {"joined": joined, "columns": columns})
        with pytest.raises((SettingsError, SchemaError), match=words):
            run(spark, asked, sales={"series_id": "string"} | ({"time": "timestamp"} if columns else {}))
    with pytest.raises(ValidationError, match="columns and joined both name series_id"):
        settings(tmp_path, sales=source | {"columns": {"series_id": "store"}})


def test_rows_without_a_time_are_put_in_an_order_by_a_hash(spark: SparkSession, tmp_path: Path) -> None:
    rows = "".join(f"r{number},text {number % 150}\n" for number in range(300))
    columns = {"review": "string", "text": "string", "time": "timestamp"}
    source = {"path": str(tmp_path / "reviews.csv"), "columns": {"review": "id"}, "order_by_hash_of": ["text"]}
    (tmp_path / "reviews.csv").write_text("id,text\n" + rows)
    asked = settings(tmp_path, reviews=source)
    assert run(spark, asked, reviews=columns)["tables"]["reviews"]["rows"] == 300
    made = {
        row["review"]: (row["text"], row["time"]) for row in Tables(spark, asked.tables.root).read("reviews").collect()
    }
    assert {made[f"r{number}"] == made[f"r{number + 150}"] for number in range(150)} == {True}
    days = sorted((time - datetime(2000, 1, 1)).days for _, time in made.values())
    assert {day // 1000 for day in days} == {0}
    assert 30 < sum(day >= 800 for day in days) < 90  # a fifth, by chance
    stranger = settings(tmp_path, reviews=source | {"order_by_hash_of": ["words"]})
    with pytest.raises(
        SchemaError, match=r"sources\.reviews\.order_by_hash_of names 'words', which the source has not"
    ):
        run(spark, stranger, reviews=columns)
    (tmp_path / "timed.csv").write_text("id,text,time\na,b,2020-01-01 00:00:00\n")
    timed = settings(tmp_path, reviews=source | {"path": str(tmp_path / "timed.csv")})
    with pytest.raises(SchemaError, match="makes a column 'time', which the source has: leave order_by_hash_of out"):
        run(spark, timed, reviews=columns)
    misspelt = settings(tmp_path, reviews=source | {"words": {"lable": {"yes": 1}}})
    with pytest.raises(SettingsError, match=r"sources\.reviews\.words has the unknown name 'lable'"):
        run(spark, misspelt, reviews=columns)
    with pytest.raises(ValidationError, match="order_by_hash_of makes `time`, which columns or wide name too"):
        settings(tmp_path, reviews=source | {"columns": {"time": "when"}})


def test_rows_that_do_not_fit_are_counted_and_past_the_limit_refused(spark: SparkSession, tmp_path: Path) -> None:
    bad = FILE + "d,yesterday,legit,1,yes,1\n,1700000000000,legit,1,yes,1\ne,1700000000000,maybe,1,yes,1\n"
    bad += "f,1700000000000,legit,NaN,yes,1\ng,1700000000000,legit,1,perhaps,1\nh,1700000000000,legit,1,yes,1.5\n"
    asked = settings(tmp_path, limit=0.7, cases=of_file(tmp_path / "cases.csv", bad))
    told = run(spark, asked, cases=CASES)["tables"]["cases"]
    assert told["rows"] == 3
    assert told["bad"] == {
        "time is no timestamp": 1,
        "case_id is missing": 1,
        "fraud is no double": 1,
        "amount is no double": 1,
        "old is no boolean": 1,
        "n is no bigint": 1,
    }
    aside = Tables(spark, asked.tables.root).read("quarantine").collect()
    assert len(aside) == 6
    assert any('"id":"e"' in row["row"] for row in aside)
    assert run(spark, asked, cases=CASES)["tables"]["cases"]["bad"] == told["bad"]
    strict = settings(tmp_path / "strict", limit=0.05, cases=of_file(tmp_path / "cases.csv", bad))
    with pytest.raises(TooManyBadRows, match=r"6 of 9 rows of .* are bad, .*Correct the file or sources\.cases"):
        run(spark, strict, cases=CASES)
    assert not Tables(spark, strict.tables.root).exists("cases")


def test_a_column_for_each_period_becomes_rows(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_text("code,W0,W1,MIN\np1,3,0,0\np2,4,5,4\n")
    wide = {"prefix": "W", "start": "2025-01-06T02:00:00+02:00", "days": 7}
    source = {"path": str(tmp_path / "wide.csv"), "columns": {"series": "code"}, "wide": wide}
    reads = {"series": "string", "time": "timestamp", "quantity": "double"}
    asked = settings(tmp_path, sales=source)
    assert run(spark, asked, sales=reads)["tables"]["sales"]["rows"] == 4
    rows = Tables(spark, asked.tables.root).read("sales").orderBy("series", "time").collect()
    first, second = datetime(2025, 1, 6), datetime(2025, 1, 13)
    assert [tuple(row) for row in rows] == [
        ("p1", first, 3.0), ("p1", second, 0.0), ("p2", first, 4.0), ("p2", second, 5.0)
    ]  # fmt: skip
    other = settings(tmp_path, sales=source | {"wide": wide | {"prefix": "week "}})
    with pytest.raises(SchemaError, match=r"sources\.sales\.wide\.prefix is 'week ', and no column is named so"):
        run(spark, other, sales=reads)


def test_a_place_for_events_is_refused_by_a_task_that_reads_none() -> None:
    asked = Settings.model_validate({"task": "demand", "ingest": {"path": "x.csv", "columns": {}}})
    with pytest.raises(SettingsError, match=r"ingest is for tasks that read events; 'demand' .* e\.g\. sources\.sales"):
        ingest.run(asked)


def test_sources_that_do_not_fit_the_task_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    of_cases = of_file(tmp_path / "cases.csv")
    with pytest.raises(SettingsError, match=r"sources\.sales is no table of task 'toy', which reads cases"):
        run(spark, settings(tmp_path, cases=of_cases, sales=of_cases), cases=CASES)
    with pytest.raises(SettingsError, match=r"sources\.cases\.columns has the unknown name 'cash'; .* reads case_id,"):
        run(spark, settings(tmp_path, cases=of_cases | {"columns": {"cash": "amount"}}), cases=CASES)
    with pytest.raises(
        SettingsError, match=r"reads the table 'cases': name its file or table in sources\.cases\.path or"
    ):
        run(spark, settings(tmp_path), cases=CASES)
    with pytest.raises(SchemaError, match=r"has no column 'amounts' \(our amount\)"):
        run(
            spark,
            settings(tmp_path, cases=of_cases | {"columns": {"amount": "amounts"}, "words": {}}),
            cases={"amount": "double"},
        )
    empty = of_file(tmp_path / "empty.csv", "id,when,label,amount,old,n\n")
    with pytest.raises(DataError, match=r"holds no rows; name files that hold some in sources\.cases\.path"):
        run(spark, settings(tmp_path, cases=empty), cases=CASES)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"time_format": "yyyy-MM-dd hh:mm:ss"}, r"sources\.cases\.time_format 'yyyy-MM-dd hh:mm:ss' writes"),
        ({"time_zone": "Mars/Base"}, r"sources\.cases\.time_zone is 'Mars/Base', which Spark does not take"),
        ({"encoding": "nonsense"}, r"sources\.cases\.encoding is 'nonsense'"),
        (
            {"format": "json", "delimiter": ";"},
            r"sources\.cases\.delimiter is for sources\.cases\.format csv, got json",
        ),
    ],
)
def test_wrong_settings_are_named_before_the_file_is_blamed(
    spark: SparkSession, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        run(spark, settings(tmp_path, cases=of_file(tmp_path / "cases.csv", **more)), cases=CASES)


def test_undecodable_bytes_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    source = of_file(tmp_path / "cases.csv")
    (tmp_path / "cases.csv").write_bytes(FILE.replace("\nb,", "\nbé,").replace("\nc,", "\nbè,").encode("latin-1"))
    with pytest.raises(DataError, match=r"no UTF-8 stand in 2 lines of file:.*cases.csv.* sources\.cases\.encoding"):
        run(spark, settings(tmp_path, cases=source), cases=CASES)
    assert (
        run(spark, settings(tmp_path, cases=source | {"encoding": "latin-1"}), cases=CASES)["tables"]["cases"]["rows"]
        == 3
    )


def test_a_file_that_changes_is_read_anew(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the same Spark, after a run that failed too: what it holds of a path is not what lies there later."""
    path = tmp_path / "cases.json"
    path.write_text('{"id": "a", "n": 1}\n')
    source = {"path": str(path), "format": "json", "columns": {"case_id": "id", "old": "oldd"}}
    asked, reads = settings(tmp_path, cases=source), {"case_id": "string", "n": "bigint", "old": "boolean?"}
    with monkeypatch.context() as patched:
        patched.setattr(Tables, "write", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(spark, asked, cases=reads)
    assert "says anything in 'oldd' (our old): see sources.cases.columns" in "".join(capsys.readouterr())
    path.write_text('{"id": "a", "n": 2}\n')
    run(spark, asked, cases=reads)
    assert [row["n"] for row in Tables(spark, asked.tables.root).read("cases").collect()] == [2]


@pytest.mark.slow
def test_who_was_erased_does_not_come_back(spark: SparkSession, tmp_path: Path) -> None:
    """Not into the table, nor into quarantine; a column that only an erasure needs is kept for it."""
    text = FILE.replace("n\n", "n,email\n", 1).replace(",3\n", ",3,ann@x.org\n").replace(",,\n", ",,,bob@x.org\n")
    text = text.replace(",-1\n", ",-1,\n") + "d,never,legit,1,yes,1,ann@x.org\ne,never,legit,1,yes,1,bob@x.org\n"
    unsaid = settings(tmp_path, limit=0.7, cases=of_file(tmp_path / "cases.csv", text))
    asked = settings(tmp_path, limit=0.7, cases=of_file(tmp_path / "cases.csv", text, persons=["email"]))
    tables = Tables(spark, asked.tables.root)
    assert run(spark, asked, cases=CASES)["tables"]["cases"]["bad"] == {"time is no timestamp": 2}
    assert {row["email"] for row in tables.read("cases").collect()} == {"ann@x.org", "bob@x.org", None}
    tables.remove("quarantine", tables.read("quarantine").select("row"), job="erase", inputs={})
    erased.remember(tables, ["ann@x.org"])
    ann = spark.createDataFrame([("ann@x.org",)], "email string")
    tables.remove("cases", ann, job="erase", inputs={})
    with pytest.raises(SettingsError, match=r"sources.cases.persons does not say which columns of 'cases' hold"):
        run(spark, unsaid, cases=CASES)
    made = run(spark, asked, cases=CASES)["tables"]["cases"]
    assert (made["rows"], made["bad"], made["up_to_date"]) == (2, {"time is no timestamp": 1}, False)
    assert {row["email"] for row in tables.read("cases").collect()} == {"bob@x.org", None}
    assert "ann@x.org" not in str(tables.read("quarantine").collect())
    assert run(spark, asked, cases=CASES)["up_to_date"]


def test_persons_are_named_by_texts(spark: SparkSession, tmp_path: Path) -> None:
    asked = settings(tmp_path, cases=of_file(tmp_path / "cases.csv", persons=["amount"]))
    with pytest.raises(SettingsError, match=r"sources.cases.persons has 'amount', which is a double; ids are texts"):
        run(spark, asked, cases=CASES)


@pytest.mark.slow
def test_a_delta_table_that_needs_no_cleaning_is_read_where_it_lies(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that does is copied, which says why; and when it changes, so does ours."""
    shop, ours = tmp_path / "shop" / "cases", tmp_path / "tables" / "cases"
    reads = {"case_id": "string", "n": "bigint?"}
    asked = settings(tmp_path, cases={"path": str(shop), "format": "delta", "in_place": True})

    def made(*rows: tuple[str, int | None]) -> tuple[list[tuple[Any, ...]], int]:
        df = spark.createDataFrame(list(rows), "case_id string, n bigint").coalesce(1)
        df.write.format("delta").mode("overwrite").save(str(shop))
        run(spark, asked, cases=reads)
        held = Tables(spark, asked.tables.root).read("cases").orderBy("n").collect()
        return [tuple(row) for row in held], len(list(ours.glob("*.parquet")))

    assert made(("a", 1), ("b", 2)) == ([("a", 1), ("b", 2)], 0)
    assert run(spark, asked, cases=reads)["up_to_date"]
    assert made(("c", 3)) == ([("c", 3)], 0)
    capsys.readouterr()
    shutil.rmtree(shop)  # made anew, its versions begin again
    assert [made((name, 3))[0] for name in "xy"] == [[("x", 3)], [("y", 3)]]
    shutil.rmtree(shop)
    assert made(("z", 3)) == ([("z", 3)], 0)
    assert made(("c", 3), (" d ", 4)) == ([("c", 3), ("d", 4)], 1)
    assert made(("c", 3), ("", 4))[0] == [("c", 3)]
    said = " ".join("".join(capsys.readouterr()).split())
    assert re.search(r"is copied, for texts in it .* blanks around.*is copied, for 1 of its rows", said)
    other = settings(tmp_path, cases={"path": str(shop), "format": "delta", "in_place": True})
    run(spark, other, cases={"case_id": "string", "n": "double?"})
    assert "'n' is bigint" in "".join(capsys.readouterr())
