"""Feedback on hand-made recommendations: from events, from given rows, twice."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs import ingest_feedback
from jobs.artefacts import FEEDBACK, read_json
from jobs.erasure import erased
from jobs.settings import Settings
from jobs.tables import Tables
from tests.jobs.anew import make_anew
from training.errors import DataError, SchemaError, TableError, TooManyBadRows

FIRST, SECOND = datetime(2025, 3, 1), datetime(2025, 3, 8)
SHOWN = (
    "user_id string, user bigint, rank int, item_id string, item bigint, score float, fallback boolean, "
    "bundle string, moment timestamp"
)
OUTCOMES = "user_id string, item_id string, outcome string, outcome_time timestamp, bundle string"


def at(days: float) -> datetime:
    return FIRST + timedelta(days=days)


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two moments: `a` and `b` shown to u and v at the first, `a` again to u at the second."""
    root = tmp_path_factory.mktemp("shop") / "tables"
    tables = Tables(spark, str(root))
    rows = [
        (user, 1, rank, item, rank, 0.5, False, "b1", FIRST) for user in "uv" for rank, item in ((1, "a"), (2, "b"))
    ]
    rows.append(("u", 1, 1, "a", 1, 0.5, False, "b2", SECOND))
    tables.write("recommendations", spark.createDataFrame(rows, SHOWN), mode="overwrite", job="score", inputs={})
    events = [
        ("u", "a", "purchase", at(9)),
        ("u", "b", "view", at(1)),
        ("v", "z", "purchase", at(1)),
        ("v", "a", "purchase", at(-1)),
        ("v", "b", "purchase", at(20)),
        (None, "b", "purchase", at(1)),
    ]
    event_rows = spark.createDataFrame(events, "user_id string, item_id string, kind string, time timestamp")
    tables.write("events", event_rows, mode="overwrite", job="ingest", inputs={})
    return root


@pytest.fixture
def settings(shop: Path, tmp_path: Path) -> Settings:
    """A copy of the shop for each test."""
    shutil.copytree(shop, tmp_path / "tables")
    return Settings(tables={"root": str(tmp_path / "tables")}, run_dir=str(tmp_path / "run"))


def of(settings: Settings, moment: datetime | None, **feedback: Any) -> Settings:
    return Settings(**(settings.model_dump() | {"feedback": {"moment": moment, **feedback}}))


def feedback(spark: SparkSession, settings: Settings) -> dict[tuple[str, str, str], tuple[str, Any]]:
    rows = Tables(spark, settings.tables.root).read("feedback").collect()
    return {(r["user_id"], r["item_id"], r["bundle"]): (r["outcome"], r["outcome_time"]) for r in rows}


def given(spark: SparkSession, *rows: tuple[Any, ...]) -> DataFrame:
    return spark.createDataFrame(list(rows), OUTCOMES)


def test_events_are_attributed_to_the_latest_showing(spark: SparkSession, settings: Settings) -> None:
    summary = ingest_feedback.run(of(settings, FIRST), spark)
    assert feedback(spark, settings) == {
        ("u", "a", "b1"): ("ignored", None),
        ("u", "b", "b1"): ("viewed", at(1)),
        ("v", "a", "b1"): ("ignored", None),
        ("v", "b", "b1"): ("ignored", None),
    }
    counts = {name: summary[name] for name in ("shown", "purchased", "viewed", "ignored", "unmatched")}
    assert counts == {"shown": 4, "purchased": 0, "viewed": 1, "ignored": 3, "unmatched": 1}
    # The purchase came after the second showing too, so it is that one's. By default the latest moment is taken.
    assert ingest_feedback.run(settings, spark)["moment"] == "2025-03-08 00:00:00"
    assert feedback(spark, settings)["u", "a", "b2"] == ("purchased", at(9))
    assert len(feedback(spark, settings)) == 5


def test_a_shorter_window_lets_go(spark: SparkSession, settings: Settings) -> None:
    summary = ingest_feedback.run(of(settings, FIRST, window_days=5), spark)
    assert (summary["purchased"], summary["viewed"], summary["unmatched"]) == (0, 1, 1)


def test_a_second_run_changes_nothing_and_new_events_replace_the_rows(spark: SparkSession, settings: Settings) -> None:
    first = ingest_feedback.run(of(settings, FIRST), spark)
    again = ingest_feedback.run(of(settings, FIRST), spark)
    assert (first.pop("up_to_date"), again.pop("up_to_date")) == (False, True)
    assert again == first
    tables = Tables(spark, settings.tables.root)
    assert tables.version("feedback") == first["version"]
    more = spark.createDataFrame([("v", "a", "purchase", at(3))], tables.read("events").schema)
    tables.write("events", more, mode="append", job="ingest", inputs={"more": 1})
    assert ingest_feedback.run(of(settings, FIRST), spark)["purchased"] == 1
    assert len(feedback(spark, settings)) == 4


@pytest.mark.parametrize("name", ["events", "recommendations"])
def test_tables_that_were_made_anew_under_their_old_versions_are_others(
    spark: SparkSession, settings: Settings, name: str
) -> None:
    ingest_feedback.run(of(settings, FIRST), spark)
    make_anew(Tables(spark, settings.tables.root), name, "item_id != 'b'")
    assert ingest_feedback.run(of(settings, FIRST), spark)["viewed"] == 0


@pytest.mark.slow
def test_a_run_killed_before_it_told_of_its_commit_tells_at_the_next(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for a kill."""

    def killed(*_: object) -> None:
        raise Killed

    earlier = ingest_feedback.run(settings, spark)
    with monkeypatch.context() as patch:
        patch.setattr(ingest_feedback, "write_json", killed)
        with pytest.raises(Killed):
            ingest_feedback.run(of(settings, FIRST), spark)
    version = Tables(spark, settings.tables.root).version("feedback")
    summary = ingest_feedback.run(of(settings, FIRST), spark)
    assert (summary["moment"], summary["shown"], summary["unmatched"]) == ("2025-03-01 00:00:00", 4, 1)
    assert (summary["version"], summary["up_to_date"]) == (version, True)
    assert earlier["moment"] == "2025-03-08 00:00:00"
    assert read_json(settings.run_dir, FEEDBACK) | {"up_to_date": True} == summary  # type: ignore[operator]


def test_given_outcomes_are_checked_and_bad_ones_set_aside(spark: SparkSession, settings: Settings) -> None:
    good = [("u", "a", "purchased", at(1), "b1"), ("v", "b", "ignored", None, None)]
    bad = [("u", None, "viewed", at(1), None), ("u", "a", "viewed", at(1), "b7"), ("v", "a", "viewed", at(-2), None)]
    lenient = Settings(
        **(of(settings, FIRST).model_dump() | {"tables": settings.tables.model_copy(update={"quarantine_limit": 0.7})})
    )
    summary = ingest_feedback.run(lenient, spark, given(spark, *good, *bad))
    assert summary["purchased"] == 1
    assert summary["quarantined"] == {"null key": 1, "outcome before shown": 1, "unknown bundle": 1}
    tables = Tables(spark, settings.tables.root)
    aside = {(row["source"], row["reason"]) for row in tables.read("quarantine").collect()}
    assert aside == {("outcomes", reason) for reason in summary["quarantined"]}
    assert ingest_feedback.run(lenient, spark, given(spark, *bad, *good))["up_to_date"]  # whatever their order
    assert tables.read("quarantine").count() == 3


@pytest.mark.slow
def test_given_outcomes_of_erased_persons_are_dropped(spark: SparkSession, settings: Settings) -> None:
    tables = Tables(spark, settings.tables.root)
    erased.remember(tables, ["u"])
    rows = given(
        spark, (" u", "a", "viewed", at(1), None), ("u", None, "viewed", at(1), None), (None, "a", "x", None, "")
    )
    others = ingest_feedback._of_others(settings, tables, rows)
    assert [tuple(row) for row in others.collect()] == [(None, "a", "x", None, "")]
    invisible = given(spark, ("u\u200b", "a", "viewed", at(1), None))
    assert ingest_feedback._of_others(settings, tables, invisible).count() == 1
    normalising = settings.model_copy(update={"ingest": settings.ingest.model_copy(update={"normalise_ids": True})})
    assert ingest_feedback._of_others(normalising, tables, invisible).count() == 0
    with pytest.raises(SchemaError, match="column 'user_id' must be string, it is bigint; column 'item_id'"):
        ingest_feedback.run(of(settings, FIRST), spark, spark.createDataFrame([(7,)], "user_id bigint"))


def test_outcomes_of_what_was_shown_at_another_moment_are_no_bad_rows(spark: SparkSession, settings: Settings) -> None:
    rows = given(spark, ("u", "a", "viewed", at(8), "b2"), ("u", "a", "viewed", at(1), "b1"))
    summary = ingest_feedback.run(of(settings, FIRST), spark, rows)
    assert (summary["viewed"], summary["quarantined"]) == (1, {})


def test_too_many_bad_rows_stop_the_job(spark: SparkSession, settings: Settings) -> None:
    rows = given(spark, ("u", "a", "liked", at(1), None), ("u", "b", "viewed", at(1), None))
    with pytest.raises(
        TooManyBadRows, match=r"1 of 2 outcomes are bad, over tables\.quarantine_limit 0\.05: unknown outcome: 1"
    ):
        ingest_feedback.run(of(settings, FIRST), spark, rows)
    assert not Tables(spark, settings.tables.root).exists("feedback")


def test_no_outcomes_are_refused(spark: SparkSession, settings: Settings) -> None:
    with pytest.raises(DataError, match="outcomes must hold at least one row; got 0"):
        ingest_feedback.run(of(settings, FIRST), spark, given(spark).where("false"))


def test_a_moment_without_recommendations_is_refused(spark: SparkSession, settings: Settings) -> None:
    with pytest.raises(
        TableError, match=r"no rows of feedback\.moment 2025-03-02 00:00:00; it has .*2025-03-01 00:00:00, 2025"
    ):
        ingest_feedback.run(of(settings, datetime(2025, 3, 2)), spark)
    tables = Tables(spark, settings.tables.root)
    spark.sql(f"DELETE FROM delta.`{tables.path('recommendations')}`")
    with pytest.raises(TableError, match=r"'recommendations' at .* is empty; run `millrace score`"):
        ingest_feedback.run(settings, spark)
    with pytest.raises(TableError, match="table 'recommendations' does not exist"):
        ingest_feedback.run(Settings(tables={"root": str(Path(settings.run_dir) / "none")}), spark)
