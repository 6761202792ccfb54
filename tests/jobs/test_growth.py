"""A build that goes on from the one before gives what a build of all rows gives, and reads what came since."""

from __future__ import annotations

import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import build_examples, build_vocabularies, builds, moved_builds
from jobs.growth import Growth
from jobs.settings import Settings
from jobs.tables import Tables
from tests.jobs.anew import make_anew

START = datetime(2025, 1, 1, tzinfo=UTC)
EVENTS = (
    "event_id string, user_id string, item_id string, kind string, time timestamp, arrival_time timestamp, name string"
)
COMPARED = ("catalogue", "histories", "queries", "examples")


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def event(number: int, user: str | None, item: str, at: float, late: float = 0) -> tuple[Any, ...]:
    return (f"e{number}", user, item, "purchase", day(at), day(at + late), f"the {item}")


def planted() -> list[tuple[Any, ...]]:
    """Twelve customers, of whom one has very many lines; some lines arrive days later, some twice; new ids come, one of
    an item that only strangers had bought."""
    rng, rows = random.Random(7), []
    for number in range(900):
        at = rng.randrange(60 * 4) / 4
        user = rng.choice(["guest", *(f"u{n}" for n in range(int(4 + at / 7))), None])
        item = f"i{rng.randrange(int(6 + at / 5))}"
        late = rng.choice([0, 0, 0, 0.5, 3, 9])
        rows.append(event(number, user, item, at, late))
        if number % 50 == 0:
            rows.append(event(10_000 + number, user, item, at, late + 5))
    rows += [event(20_000, "rare", "i1", 2), event(20_001, "rare", "i2", 3, 44), event(20_002, "rare", "i2", 45)]
    rows += [event(21_000, None, "of strangers", 4), event(21_001, "rare", "of strangers", 46)]
    return rows


def known_at(row: tuple[Any, ...]) -> datetime:
    return max(row[4], row[5])


def settings_for(folder: Path, test_from: datetime, **sections: Any) -> Settings:
    examples = {"validation_days": 6, "max_history": 3, "recent_days": 5, "rows_per_group": 100, "max_lines": 1_000}
    examples |= {"test_from": test_from.replace(tzinfo=None), **sections}
    return Settings(
        **{"tables": {"root": str(folder / "tables")}, "run_dir": str(folder / "run"), "examples": examples}
    )


def ingest(spark: SparkSession, settings: Settings, rows: list[tuple[Any, ...]], batch: int) -> None:
    tables, events = Tables(spark, settings.tables.root), spark.createDataFrame(rows, EVENTS).coalesce(2)
    tables.merge_new("events", events, ["event_id"], job="ingest", inputs={"batch": batch})
    items = tables.read("events").select("item_id", "name").distinct()
    tables.write("items", items, mode="overwrite", job="ingest", inputs={"batch": batch})


def content(spark: SparkSession, settings: Settings, manifest: dict[str, Any]) -> dict[str, list[str]]:
    """The rows of each table as texts; of the examples without their piece."""
    tables, found = Tables(spark, settings.tables.root), {}
    for name in COMPARED:
        rows = tables.read(name, manifest["versions"][name]).drop("piece")
        found[name] = sorted(row[0] for row in rows.select(F.to_json(F.struct(*sorted(rows.columns)))).collect())
    return found


def build(spark: SparkSession, settings: Settings, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    manifest = build_examples.run(settings, spark)
    return manifest, capsys.readouterr().err


@pytest.fixture(scope="module")
def begun(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop of 40 days that was built."""
    folder = tmp_path_factory.mktemp("growth")
    settings = settings_for(folder, day(40))
    ingest(spark, settings, [row for row in planted() if known_at(row) < day(41)], 0)
    build_examples.run(settings, spark)
    return folder


def copied(begun: Path, folder: Path) -> Path:
    shutil.copytree(begun, folder, dirs_exist_ok=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("days", [(48,), (40, 48)])
def test_it_gives_what_a_build_of_all_rows_gives(
    days: tuple[int, ...],
    spark: SparkSession,
    begun: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the cut stays, and where it moves beyond the validation of the build before. What a build that was killed
    has written since is no part: older pieces stay those of the build in force, whatever lies there now."""
    folder, last = copied(begun, tmp_path), 41
    settings = settings_for(folder, day(40))
    before = builds.published(Tables(spark, settings.tables.root))
    with monkeypatch.context() as patched:
        patched.setattr(builds, "publish", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_examples.run(settings_for(folder, day(40), max_history=2), spark)
    for to in days:
        settings = settings_for(folder, day(to))
        ingest(spark, settings, [row for row in planted() if day(last) <= known_at(row) < day(to + 2)], to)
        grown, said = build(spark, settings, capsys)
        assert "from all rows" not in said
        stays = grown["versions"]["histories"] == before["versions"]["histories"]
        assert stays == (to == 40)
        last = to + 2
    assert grown["pieces"] == {"train": ["0001-01-01", "2025-02-04"], "validation": ["2025-02-12"]}
    whole, said = build(spark, settings_for(folder, day(48), rows_per_group=101), capsys)
    assert "examples are built from all rows: settings" in said
    assert whole["counts"] == grown["counts"]
    found, wanted = (content(spark, settings, manifest) for manifest in (grown, whole))
    for name in COMPARED:
        assert found[name] == wanted[name], name


def test_the_span_is_of_all_lines(spark: SparkSession) -> None:
    added = spark.createDataFrame([(day(-1),), (day(1),)], "time timestamp")
    first, last = (round(day(number).timestamp() * 1e6) for number in (0, 3))
    held = Growth({"span": [first, last]}, added)
    assert held.span(added) == [round(day(-1).timestamp() * 1e6), last]
    assert held.span(added.limit(0)) == [first, last]


@pytest.mark.slow
def test_after_an_erasure_the_sums_are_made_anew(
    spark: SparkSession, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(copied(begun, tmp_path), day(40))
    tables = Tables(spark, settings.tables.root)
    movable, person = moved_builds.movable(tables), spark.createDataFrame([("u1",)], "user_id string")
    assert tables.remove("events", person, job="erase", inputs={})
    moved_builds.move(tables, ["events"], movable, job="erase")
    built, said = build(spark, settings, capsys)
    assert "persons were erased since" in said
    rows = tables.read("catalogue", built["versions"]["catalogue"]).where("split LIKE 'test%'")
    known = tables.read("events").where((F.col("time") < day(40)) & (F.col("arrival_time") <= day(40))).count()
    assert rows.agg(F.sum("count")).collect()[0][0] == known


@pytest.mark.slow
@pytest.mark.parametrize("name", ["events", "histories"])
def test_versions_of_a_table_that_was_made_anew_are_others(
    spark: SparkSession,
    begun: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """As by another ingest, or by a build that was killed: its histories would have the new lines already."""
    monkeypatch.setattr(build_vocabularies, "append_all", lambda *_, **__: 1 / 0)
    settings = settings_for(copied(begun, tmp_path), day(40))
    make_anew(Tables(spark, settings.tables.root), name)
    with pytest.raises(ZeroDivisionError):
        build(spark, settings, capsys)
    assert "examples are built again" in capsys.readouterr().err
    ingest(spark, settings, [event(30_000, "u1", "i1", 42)], 1)
    with pytest.raises(ZeroDivisionError):
        build(spark, settings, capsys)
    assert "others lie there now" in capsys.readouterr().err.replace("other tables lie", "others lie")


@pytest.mark.slow
def test_why_a_build_is_made_of_all_rows(
    spark: SparkSession,
    begun: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says why before it makes anything, and is stopped there."""
    monkeypatch.setattr(build_vocabularies, "append_all", lambda *_, **__: 1 / 0)

    def said(settings: Settings) -> str:
        with pytest.raises(ZeroDivisionError):
            build(spark, settings, capsys)
        return capsys.readouterr().err

    folder = copied(begun, tmp_path)
    settings = settings_for(folder, day(40))
    assert "a cut lies before the last one" in said(settings_for(folder, day(39)))
    tables, events = Tables(spark, settings.tables.root), [event(30_000, "u1", "i1", 3), event(30_001, "u1", "i1", 42)]
    ingest(spark, settings, events, 1)
    assert "1 lines were added that would have been known at the last cut" in said(settings)
    assert "sequences run through a customer's lines of all times" in said(
        settings_for(folder, day(40), form="sequences")
    )
    tables.remove("events", spark.createDataFrame([("e1",)], "event_id string"), job="erase", inputs={})
    assert "rows of events were changed or removed since" in said(settings)
    vocabulary = f"delta.`{tables.path('vocabulary_users')}`"
    spark.sql(f"ALTER TABLE {vocabulary} SET TBLPROPERTIES ('delta.appendOnly' = 'false')")
    spark.sql(f"DELETE FROM {vocabulary} WHERE index > 5")
    assert "rows of vocabulary_users were changed or removed since" in said(settings)
    root = str(tmp_path / "cloned")
    for name in ("builds", "events", "items"):
        tables.clone(name, root)
    elsewhere = settings.model_copy(update={"tables": settings.tables.model_copy(update={"root": root})})
    assert "other tables lie there now" in said(elsewhere)
