"""A score of many buckets: killed and gone on with, checked, published at once; what is left is cleared."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from cluster.errors import EnvironmentProblem
from jobs import score, staged
from jobs.artefacts import SCORE
from jobs.ground import Scored
from jobs.publishing import Publication
from jobs.settings import Settings
from jobs.settings_sections import ScoringSettings
from jobs.staged import STALE, Staged, bucket_of
from jobs.stages import timed
from jobs.tables import Tables
from jobs.tasks import TASKS, recommend_on_spark
from jobs.trained import latest_bundle
from tests.jobs.small_shop import ITEMS, USERS, small_shop
from training.errors import DataError, TableError

TASK, BUCKETS = TASKS["recommend"], 3


def shop(spark: SparkSession, folder: Path, **scoring: Any) -> Settings:
    return small_shop(spark, folder, scoring={"k": 4, **scoring})


def staged_in(settings: Settings) -> list[Path]:
    return sorted(Path(settings.tables.root).glob("staged_*"))


def commits_in(settings: Settings) -> int:
    return sum(len(list(place.glob("_delta_log/*.json"))) for place in staged_in(settings))


def published(settings: Settings, spark: SparkSession) -> list[Row]:
    rows = Tables(spark, settings.tables.root).read(TASK.table)
    return rows.orderBy("user_id", "rank").collect()


def see_same(rows: list[Row], others: list[Row]) -> None:
    """The same rows; a score may differ by what a processor's sums over other batches differ by."""
    names = ("user_id", "rank", "item_id", "fallback")
    assert [[row[name] for name in names] for row in rows] == [[row[name] for name in names] for row in others]
    assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in others], rel=1e-6)


@pytest.mark.slow
def test_a_score_that_was_broken_off_goes_on_and_publishes_the_same(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the same as one that answers everybody at once."""
    settings, add = shop(spark, tmp_path, buckets=BUCKETS, reasons=2), Staged.add

    def broken(place: Staged, bucket: int, rows: DataFrame) -> None:
        add(place, bucket, rows)
        if bucket == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Staged, "add", broken)
    with pytest.raises(KeyboardInterrupt):
        score.run(settings, spark)
    monkeypatch.undo()
    assert commits_in(settings) == 2
    assert not (Path(settings.tables.root) / TASK.table).exists()
    capsys.readouterr()
    at_once, made = list[Row](), recommend_on_spark.score

    def with_all(*of: Any) -> Scored:
        scored = made(*of)
        at_once.extend(scored.answer(scored.asked).orderBy("user_id", "rank").collect())
        return scored

    monkeypatch.setattr(recommend_on_spark, "score", with_all)
    summary = score.run(settings, spark)
    told = capsys.readouterr().err
    assert f"goes on, 2 of {BUCKETS} buckets are in" in told
    assert told.count(f" of {BUCKETS}: ") == BUCKETS - 2
    assert (summary["keys_asked"], summary["coverage"], summary["rows"]) == (USERS + 2, 1.0, 4 * (USERS + 2))
    assert staged_in(settings) == []
    assert Tables(spark, settings.tables.root).version(TASK.table) == 1  # made, and replaced at once
    see_same(published(settings, spark), at_once)
    reasons = [row["reasons"] for row in at_once if not row["fallback"]]
    assert all(len(why) <= 2 and all(reason["share"] > 0 for reason in why) for why in reasons)
    assert any(reasons)


@pytest.mark.slow
def test_a_killed_score_goes_on_and_publishes_the_same(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = shop(spark, tmp_path, buckets=BUCKETS)
    score.run(settings, spark)
    unbroken = published(settings, spark)
    shutil.rmtree(Path(settings.tables.root) / TASK.table)
    capsys.readouterr()
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "jobs.score", "--settings", str(file), "spark.driver_memory=1g"]
    job = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 600
    while not commits_in(settings) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    assert job.wait(30) == -signal.SIGKILL, "it ended before it could be killed"
    assert not (Path(settings.tables.root) / TASK.table).exists()
    held = commits_in(settings)
    assert 0 < held < BUCKETS
    score.run(settings, spark)
    said = capsys.readouterr().err
    assert f"goes on, {held} of {BUCKETS} buckets are in" in said
    assert said.count(f" of {BUCKETS}: ") == BUCKETS - held
    see_same(published(settings, spark), unbroken)
    assert staged_in(settings) == []


def planted(scored: Scored, change: Callable[[DataFrame], DataFrame]) -> Scored:
    return Scored(scored.asked, lambda part: change(scored.answer(part)), scored.counts)


@pytest.mark.slow
def test_wrong_answers_are_not_published(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, made = shop(spark, tmp_path), recommend_on_spark.score
    nothing = F.when(F.col("user_id") != "user 3", F.col("score"))
    monkeypatch.setattr(
        recommend_on_spark, "score", lambda *of: planted(made(*of), lambda rows: rows.withColumn("score", nothing))
    )
    with pytest.raises(DataError, match=r'4 rows have a null .*, as {"user_id":"user 3",.*Nothing was published'):
        score.run(settings, spark)
    assert not Tables(spark, settings.tables.root).exists(TASK.table)
    assert not (Path(settings.run_dir) / SCORE).exists()


class Looks:
    """A watch that sees an erasure when it looks the third time, if it ever does."""

    def __init__(self, *, sees: bool) -> None:
        self.sees, self.looked = sees, 0

    @property
    def is_outdated(self) -> bool:
        self.looked += 1
        return self.sees and self.looked == 3

    def before_writing(self) -> None:
        raise DataError("persons were erased")


@pytest.mark.slow
def test_buckets_that_another_job_removed_are_made_again_and_none_stays_after_an_erasure(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, add = Tables(spark, str(tmp_path)), Staged.add
    asked = spark.createDataFrame([(f"u{number}",) for number in range(9)], "user_id string")
    scored = Scored(asked, lambda part: part, lambda _: {})

    def filled(watch: Looks) -> Staged:
        place = Staged(tables, TASK, {"bundle": "b"}, 3)
        publication = Publication(tables, TASK, ScoringSettings(), "b", datetime(2025, 1, 1), {}, watch, place)  # type: ignore[arg-type]
        publication._fill(place, scored)
        return place

    with pytest.raises(DataError, match="persons were erased"):
        filled(Looks(sees=True))
    assert list(tmp_path.iterdir()) == []
    made = list[int]()

    def torn(place: Staged, bucket: int, rows: DataFrame) -> None:
        add(place, bucket, rows)
        shutil.rmtree(tmp_path / place.name / "_delta_log")
        raise PySparkException("no log")  # as tasks find that write while an erasure removes the place

    monkeypatch.setattr(Staged, "add", torn)
    for sees, error in ((True, "persons were erased"), (False, "no log")):
        watch = Looks(sees=sees)
        watch.looked = 1
        with pytest.raises((DataError, PySparkException), match=error):
            filled(watch)
        assert [path.name.startswith("staged_") for path in tmp_path.iterdir()] == [True] * (not sees)
    shutil.rmtree(next(tmp_path.iterdir()))

    def with_another(place: Staged, bucket: int, rows: DataFrame) -> None:
        add(place, bucket, rows)
        add(place, bucket, rows)  # as one of the same inputs does at once
        if not made:
            place.remove()  # as it does when it has published
        made.append(bucket)

    monkeypatch.setattr(Staged, "add", with_another)
    place = filled(Looks(sees=False))
    assert (made, place.missing()) == ([0, 1, 2, 0], [])
    assert sorted(place.rows().collect()) == sorted(asked.collect())


def test_a_bucket_is_in_by_its_commit_and_once(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = Tables(spark, str(tmp_path))
    rows = spark.createDataFrame([("u1",), ("u2",)], "user_id string")
    place = Staged(tables, TASK, {"bundle": "b"}, 3)
    assert place.missing() == [0, 1, 2]
    place.add(2, rows)
    place.add(0, rows.limit(0))
    place.add(2, rows)
    assert (place.missing(), place.rows().count()) == ([1], 2)
    assert Staged(tables, TASK, {"bundle": "other"}, 3).missing() == [0, 1, 2]
    assert [row[0] for row in rows.select(bucket_of("user_id", 1_000)).collect()] == [287, 372]
    held = place.rows()

    def read_too_late() -> None:
        place.remove()
        held.collect()

    with pytest.raises(TableError, match=r"staged answers at .* must be readable, and are not"), place.there():
        read_too_late()
    place.add(0, rows)  # as one does that was slower
    assert (place.missing(), place.rows().count()) == ([1, 2], 2)
    (tmp_path / place.name / "_delta_log" / f"{0:020}.json").write_text("{}")
    with pytest.raises(TableError, match="remove the folder"):
        place.missing()
    with monkeypatch.context() as patched:
        patched.setattr(staged, "is_remote", lambda: True)
        with pytest.raises(EnvironmentProblem, match=r"scoring.buckets=3 needs a classic session"):
            Staged(tables, TASK, {}, 3)


def test_what_others_left_goes_after_a_week(spark: SparkSession, tmp_path: Path) -> None:
    def left(name: str, *, age: float) -> Path:
        file = tmp_path / name / "_delta_log" / "0.json"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (time.time() - age,) * 2)
        return file

    week = STALE.total_seconds()
    gone = left(f"staged_{TASK.table}_0123456789ab", age=week + 60)
    kept = [
        left(f"staged_{TASK.table}_0123456789ac", age=week - 60),
        left("staged_forecasts_0123456789ab", age=week + 60),
        left("staged_of_mine", age=week + 60),
    ]
    Staged(Tables(spark, str(tmp_path)), TASK, {"erased": 3}, 2).add(
        0, spark.createDataFrame([("u",)], "user_id string")
    )
    staged.remove_stale(Tables(spark, str(tmp_path)), TASK)
    assert sorted(place.name for place in tmp_path.iterdir()) == sorted(file.parents[1].name for file in kept)
    assert not gone.parents[1].exists()
    assert all(file.exists() for file in kept)
    assert staged.remove_all(Tables(spark, str(tmp_path))) == [
        "staged_forecasts_0123456789ab", f"staged_{TASK.table}_0123456789ac"
    ]  # fmt: skip


def test_a_dry_run_says_what_it_takes_and_writes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    settings = shop(spark, tmp_path, dry_run=True)
    summary = timed(settings.run_dir, "score", lambda: score.run(settings, spark))
    assert summary["dry_run"]
    found, dim, dense = summary["estimate"], 8, 8 * (8 + 1) + 2
    users = USERS + 2
    assert (found["keys"], found["rows"], found["items"], found["pairs"]) == (users, 4 * users, ITEMS, ITEMS * users)
    assert found["flops"] == users * 2 * (ITEMS * dim + dense)
    assert (found["bytes"], found["bytes_of"], found["slots"]) == (4 * users * 20, "constant", 2)
    assert (found["sample_keys"], found["minutes"]) == (users, pytest.approx(found["sample_seconds"] / 60))
    assert not Tables(spark, settings.tables.root).exists(TASK.table)
    assert not [path for path in Path(settings.run_dir).glob("*.json") if path.name != "latest.json"]
    assert latest_bundle(settings.run_dir).name == summary["bundle"]
