"""The gate of ingest: what Spark counts, what is kept of a batch, and what follows of its verdict."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql.types import StringType, StructField, StructType

from jobs import dispositions, ingest, source_tables
from jobs.quality import gate, verdicts
from jobs.quality.cells import Cell
from jobs.quality.gate import Incoming
from jobs.quality.profile import Profile, profile_of
from jobs.quality.verdicts import Verdict
from jobs.settings import Settings
from jobs.settings_quality import QualitySettings
from jobs.tables import Tables
from jobs.tasks import TASKS
from spark_udfs.counted_classes import HOURS, NAMED, NUMBER, TEXT
from spark_udfs.profiles import cells
from tests.jobs import plain_cells
from tests.jobs.test_ingest import settings_for, write_lines
from training.errors import QualityError, SettingsError

COLUMNS = {"case_id": "string", "time": "timestamp", "country": "string?", "amount": "double?", "fraud": "boolean?"}
DAY = datetime(2025, 1, 1)
TYPES = (
    "part string, key string, country string, amount double, count int, price decimal(9,2), flag boolean, "
    "time timestamp, taste array<float>, tags array<string>, raw binary"
)


def test_spark_counts_what_plain_python_does(spark: SparkSession) -> None:
    drawn = random.Random(0)
    rows: list[tuple[Any, ...]] = []
    for number in range(600):
        amount = None if number % 50 == 0 else math.inf if number == 7 else math.exp(drawn.gauss(0, 2))
        at = DAY + timedelta(minutes=7 * number)
        taste = None if number % 3 == 0 else [drawn.gauss(0, 1) for _ in range(10)]
        rows.append((
            "a", f"k{number % 580:05d}", drawn.choice(["GB", "DE", None]), amount, number % 7 - 3, None,
            number % 4 == 0, at, taste, ["x"] * (number % 3), b"x",
        ))  # fmt: skip
    wrong = ("b", "k", "x" * 65, *[None] * 4, datetime(2099, 1, 1), *[None] * 3)
    frame = spark.createDataFrame([*rows, wrong], TYPES).coalesce(3)
    counted = cells(
        frame,
        part="part",
        since_us={},
        time="time",
        keys=["key"],
        named=frozenset({"country"}),
        about=601,
        until_us=round((DAY + timedelta(days=30)).replace(tzinfo=UTC).timestamp() * 1e6),
        label="flag",
    )
    collected = counted.rows.collect()
    of_part, of_wrong = ([Cell(*row[2:]) for row in collected if row["part"] == part] for part in "ab")
    late = profile_of(of_wrong, [], counted.places, outcomes={"kept": 1})
    assert (late.rows, late.days, late.newest_us) == (1, {}, None)  # a time past the moment at which it came
    assert {cell.text for cell in of_wrong} == {None}  # a word that is too long stays where it is
    found = profile_of(of_part, [], counted.places, outcomes={"kept": 600}, label="flag")
    names = [name.split()[0] for name in TYPES.split(", ")]
    held = {name: [row[number] for row in rows] for number, name in enumerate(names)}
    held |= {
        "taste: 0% in": [taste and taste[0] for taste in held["taste"]],
        "tags: length": list(map(len, held["tags"])),
    }
    kinds = {
        "key": TEXT, "country": NAMED, "amount": NUMBER, "count": NUMBER, "flag": NUMBER, "time": HOURS,
        "taste: 0% in": NUMBER, "tags: length": NUMBER,
    }  # fmt: skip
    wanted = plain_cells.profile(held, kinds, keys=["key"], label="flag")
    assert dataclasses.replace(found, columns={}) == dataclasses.replace(wanted, columns={})
    assert found.keys == (580, 600)
    for name in kinds:
        one, other = found.columns[name], wanted.columns[name]
        assert (one.rows, one.nulls, one.mean, one.sd) == pytest.approx((other.rows, other.nulls, other.mean, other.sd))
        if name not in ("key", "country"):  # whose classes are another hash
            assert one.bins == other.bins
            assert one.tells == pytest.approx(other.tells)
    assert found.columns["key"].distinct == pytest.approx(580, rel=0.1)
    assert sorted(found.columns["country"].words.values()) == ["DE", "GB"]
    assert found.columns["price"].nulls == found.columns["price"].rows == 600
    assert found.columns["raw"].rows == 600
    assert "k00" not in json.dumps(found.as_json())


def days(folder: Path, *numbers: int, unit: float = 1.0, rows: int = 150) -> None:
    """Files of a day each, below a folder."""
    for number in numbers:
        drawn = random.Random(number)
        lines = ["case_id,time,country,amount,fraud"]
        for row in range(rows):
            at = DAY + timedelta(days=number, minutes=drawn.randrange(1_440))
            country = drawn.choice(["GB", "GB", "DE"])
            lines.append(
                f"case{number}-{row:04d},{at},{country},{unit * drawn.uniform(5, 50):.2f},{drawn.random() < 0.1}"
            )
        (folder / f"day{number}.csv").write_text("\n".join(lines) + "\n")


def taken(spark: SparkSession, folder: Path, **quality: Any) -> dict[str, Any]:
    source = {"path": str(folder / "raw"), "persons": []}
    asked = Settings.model_validate(
        {
            "tables": {"root": str(folder / "tables")},
            "sources": {"cases": source},
            "quality": {"gate": "stop", **quality},
        }
    )
    task = dataclasses.replace(
        TASKS["recommend"], name="toy", reads=lambda _: {"cases": COLUMNS}, simulated={}, given=()
    )
    return source_tables.ingest(asked, Tables(spark, asked.tables.root), task)


def held(spark: SparkSession, folder: Path) -> list[Any]:
    return Tables(spark, str(folder / "tables")).read(verdicts.TABLE).orderBy("judged", "number").collect()


def test_a_table_is_held_against_what_it_was(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    days(tmp_path / "raw", 0)
    taken(spark, tmp_path)
    days(tmp_path / "raw", 1, unit=100)
    words = r"range of 'amount': .*; shift of 'amount': .* about \d+ times"
    with pytest.raises(QualityError, match=words) as stopped:
        taken(spark, tmp_path)
    tables = Tables(spark, str(tmp_path / "tables"))
    assert tables.read("cases").count() == 150
    assert tables.read("dispositions").count() == 1
    first, second = held(spark, tmp_path)
    assert [(one["verdict"], one["held_against"], one["rows"]) for one in (first, second)] == [
        ("pass", 0, 150),
        ("stop", 1, 150),  # those that are later than before
    ]
    assert f"quality.override.{second['batch']}=REASON" in str(stopped.value)
    assert "case0" not in first["profile"]
    assert '"GB"' in first["profile"]

    made = taken(spark, tmp_path, override={second["batch"]: "amounts are in cents from now on"})
    assert made["tables"]["cases"]["rows"] == 300
    assert taken(spark, tmp_path)["up_to_date"]  # and is not judged again
    *_, last = held(spark, tmp_path)
    assert (last["verdict"], last["override"]) == ("overridden", "amounts are in cents from now on")
    assert len(held(spark, tmp_path)) == 3
    days(tmp_path / "raw", 2)
    with pytest.raises(SettingsError, match=r"quality.labels.cases names 'wrong', which is no column of 'cases'"):
        taken(spark, tmp_path, labels={"cases": "wrong"})


def test_settings_of_another_table_and_labels_of_words_are_refused() -> None:
    asked = Settings.model_validate({"quality": {"labels": {"cases": "fraud"}}})
    with pytest.raises(
        SettingsError, match=r"quality.labels.cases names no table that 'recommend' .* these are: events"
    ):
        ingest.run(asked, None)
    rows: Any = SimpleNamespace(columns=["word"], schema=StructType([StructField("word", StringType())]))
    batch = Incoming("cases", "b", 0, rows, {}, ["word"], None, frozenset(), frozenset(), True)
    with pytest.raises(SettingsError, match=r"quality.labels.cases names 'word', which is a string; a label is a num"):
        gate.pass_through(None, lambda: batch, QualitySettings(gate="warn", labels={"cases": "word"}))  # type: ignore[arg-type]


def test_good_is_what_was_written_each_number_by_its_last_verdict(spark: SparkSession, tmp_path: Path) -> None:
    tables = Tables(spark, str(tmp_path))
    profile = json.dumps(Profile(rows=1, all_rows=1).as_json())

    def verdict(number: int, judged: int, what: str, batch: str) -> Verdict:
        return Verdict("cases", "here", batch, number, judged, what, None, 0, 1, 1_000 * number, [], profile)

    held = [verdict(1, 10, "pass", "a"), verdict(2, 20, "warn", "b"), verdict(2, 20, "overridden", "b")]
    again = [verdict(3, at, "pass", "c") for at in (30, 31, 32, 33, 34)]
    verdicts.keep(tables, [*held, *again, verdict(4, 40, "pass", "never written"), verdict(5, 50, "stop", "e")])
    asked = QualitySettings(against=2, override={"b": "so it is"})
    assert verdicts.last_good(tables, "cases", "here", "new", asked) == []  # none has come
    counts = dispositions.tally(tables, "a", {"here": {"kept": 1}})
    for name in "bc":
        counts = counts.union(dispositions.tally(tables, name, {"here": {"kept": 1}}))
    tables.write(dispositions.TABLE, counts, mode="append", job="ingest", inputs={})
    good = verdicts.last_good(tables, "cases", "here", "new", asked)
    assert [(one.number, one.judged, one.verdict) for one in good] == [(2, 20, "overridden"), (3, 34, "pass")]
    assert verdicts.written(tables, "cases", "new") == ({"here": 3_000}, 3)
    assert verdicts.written(tables, "cases", "c") == ({"here": 2_000}, 2)  # in whose place another comes


@pytest.mark.slow
def test_events_are_held_against_the_batches_before(spark: SparkSession, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    asked = settings_for(tmp_path, raw)

    def run(**quality: Any) -> dict[str, Any]:
        section = {"quality": asked.quality.model_copy(update={"gate": "stop", **quality})}
        return ingest.run(asked.model_copy(update=section), spark)

    def day(number: int, land: str = "GB", copies: int = 1) -> None:
        drawn = random.Random(number)
        at = f"2024-01-{number:02d}"
        lines = [
            f"{number}{row:03d},{10_000 + row % 30},cup,{1 + row % 3},{at} {drawn.randrange(24):02d}:10:00,"
            f"{drawn.uniform(1, 9):.2f},{row % 40},{land if row % 3 else 'FR'}"
            for row in range(120)
        ]
        write_lines(raw / f"day{number}.csv", *(lines * copies))

    day(1)
    run()
    day(2, land="UK", copies=2)
    with pytest.raises(QualityError, match=r"events from 'ingest': outcomes: 50.0% of the rows became 'duplicate'"):
        run()
    assert Tables(spark, asked.tables.root).read("events").count() == 120
    run(gate="warn")
    assert Tables(spark, asked.tables.root).read("events").count() == 240
    *_, warned = held(spark, tmp_path)
    assert (warned["verdict"], warned["batch"]) == ("warn", ingested_last(spark, tmp_path))
    assert "new: 'UK' (66.7%)" in [one["found"] for one in warned["findings"]]
    day(3, land="XX")
    with pytest.raises(QualityError, match=r"category of 'country': new: 'XX' \(66.7%\)"):
        run(override={warned["batch"]: "the land has another name"})
    *_, again, last = sorted(
        held(spark, tmp_path), key=lambda one: (one["judged"], one["number"], one["verdict"] == "overridden")
    )
    assert [(one["number"], one["verdict"], one["held_against"]) for one in (again, last)] == [
        (2, "overridden", 1),
        (3, "stop", 2),
    ]


def ingested_last(spark: SparkSession, folder: Path) -> str:
    rows = Tables(spark, str(folder / "tables")).read("ingested").orderBy("number").collect()
    return str(rows[-1]["batch"])
