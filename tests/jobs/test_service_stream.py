"""Messages answered as they come: what the batch's code says of all of them together, each once."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from jobs import stream
from jobs.erasure.erased import Watch
from jobs.ground import Ground
from jobs.live import threads
from jobs.live.progress import FOLDER, Progress
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.task_live import Live
from jobs.tasks import TASKS, service_on_spark
from jobs.tasks.service_replies import with_replies
from jobs.tasks.service_texts import numbered
from jobs.trained import latest_bundle
from spark_udfs import live
from tests.jobs import test_service
from tests.jobs.test_service import CUT, planted
from training.errors import SettingsError

settings, trained = test_service.settings, test_service.trained
NAMES = ("message_id", "time", "arrival_time", "conversation", "text", "intent", "user_id")
HOUR_US = 3_600_000_000
Message = tuple[Any, ...]


def after_the_cut() -> list[Message]:
    return sorted((message for message in planted() if message[1] >= CUT), key=lambda message: message[1])


def put(folder: Path, name: str, messages: list[Message]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {key: value.isoformat() if key == "time" else value for key, value in zip(NAMES, message, strict=True)}
        for message in messages
    ]
    (folder / f".{name}").write_text("".join(json.dumps(row) + "\n" for row in rows))
    newest = max((file.stat().st_mtime for file in folder.glob("*.json")), default=0)
    os.utime(folder / f".{name}", (max(time.time(), newest + 1),) * 2)  # what comes in one moment comes in any order
    (folder / f".{name}").rename(folder / f"{name}.json")


def streaming(settings: Settings, folder: Path, **options: Any) -> Settings:
    values = settings.model_dump(mode="json")
    values["sources"] = {"messages": {"path": "history", "time_format": "yyyy-MM-dd'T'HH:mm:ss[.SSSSSS]XXX"}}
    values["stream"] = {"path": str(folder), "format": "json", "once": True, "files": 1, "late_hours": 8_000}
    values["options"] |= options
    return Settings.model_validate(values)


def in_one_go(settings: Settings, messages: list[Message], spark: SparkSession) -> dict[str, Row]:
    """What the batch's code says of messages."""
    tables, task = Tables(spark, settings.tables.root), TASKS["service"]
    ground = stream._ground(settings, tables, task, latest_bundle(settings.run_dir))
    rows = spark.createDataFrame(messages, test_service.MESSAGES).withColumns(
        {"intent": F.lit(None).cast("string"), "arrival_time": F.col("time")}
    )
    made = service_on_spark.answered(ground, numbered(ground, rows)).localCheckpoint()
    told = with_replies(made, replace(ground, read={**ground.read, "lines": rows}))
    return {row["message_id"]: row for row in told.collect()}


@pytest.mark.slow
def test_messages_are_answered_as_they_come_as_they_are_together(
    settings: Settings, trained: dict[str, Any], spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "BATCHES", 1)
    incoming, messages = tmp_path / "incoming", after_the_cut()
    asked = streaming(settings, incoming)
    for number in range(2):
        put(incoming, f"{number}", messages[number * 60 : (number + 1) * 60])
        assert stream.run(asked, spark)["batches"] == 1
    late = messages[0]
    wrong = [
        ("late", late[1] - timedelta(days=400), *late[2:]),
        ("ahead", late[1] + timedelta(days=40_000), *late[2:]),
        messages[0],
        (messages[120][0], messages[120][1] + timedelta(seconds=1), *messages[120][2:]),
        (None, *messages[0][1:]),
    ]
    for number, of in enumerate((messages[120:180], [*messages[180:], *wrong])):
        put(incoming, f"{number + 2}", of)
    summary = stream.run(asked, spark)
    assert summary["batches"] == 2
    assert summary["rows"] == {
        "message": len(messages) - 120, live.LATE: 1, live.AHEAD: 1, live.THERE: 2, "message_id is missing": 1
    }  # fmt: skip
    tables = Tables(spark, settings.tables.root)
    found = {row["message_id"]: row for row in tables.read("replies_live").collect()}
    assert len(found) == tables.read("replies_live").count() == len(messages)
    wanted = in_one_go(settings, messages, spark)
    for name, row in found.items():
        of = wanted[name]
        said = [of["intent"], of["in_scope"], of["reply"], of["text"], of["used"], of["why"], of["summary"]]
        assert [row[of] for of in ("intent", "in_scope", "reply", "reply_text", "used", "why", "summary")] == said, name
        assert row["confidence"] == pytest.approx(of["confidence"], abs=1e-5)
    assert {row["reply"] for row in found.values()} == {"answer", "ask", "hand_over"}
    alone = {row["message_id"]: row for row in found.values() if row["why"]}
    assert alone  # what a conversation has come to is part of its replies
    assert stream.run(asked, spark)["batches"] == 0
    _a_batch_that_was_written_and_not_noted_is_not_written_again(asked, spark)


def _a_batch_that_was_written_and_not_noted_is_not_written_again(asked: Settings, spark: SparkSession) -> None:
    progress, tables = Progress(asked.run_dir), Tables(spark, asked.tables.root)
    held = progress.held["batch"]
    progress.say(batch={name: value for name, value in held.items() if name != "after"})
    commits = Path(asked.run_dir) / FOLDER / "checkpoint" / "commits" / str(held["number"])
    commits.unlink()
    commits.with_name(f".{held['number']}.crc").unlink(missing_ok=True)
    before = tables.read("replies_live").count()
    assert stream.run(asked, spark)["batches"] == 1
    assert tables.read("replies_live").count() == before


def test_rows_that_are_not_answered_are_told_apart(spark: SparkSession) -> None:
    """By time and by key; of two of one key the earlier one counts, and none that does not fit."""
    start = 1_000_000 * HOUR_US
    rows = [
        ("late", start - 3 * HOUR_US, None), ("in time", start - HOUR_US, None), ("ahead", start + 9 * HOUR_US, None),
        ("twice", start + 2, None), ("twice", start + 1, None), ("was there", start, None), ("bad", start, "no text"),
    ]  # fmt: skip
    typed = spark.createDataFrame(rows, "message_id string, at bigint, reason string").select(
        "message_id", F.timestamp_micros("at").alias("time"), F.col("at").cast("string").alias("row"), "reason"
    )
    there = spark.createDataFrame([("was there",)], "message_id string")
    clock = live.Clock(seen=start, now=start + HOUR_US, late=2 * HOUR_US, delay=0)
    told = live.told_apart(typed, there, "message_id", "message", clock)
    assert {(row["message_id"], row["what"] or row["reason"], row["row"]) for row in told.collect()} == {
        ("late", live.LATE, str(start - 3 * HOUR_US)), ("in time", "message", str(start - HOUR_US)),
        ("ahead", live.AHEAD, str(start + 9 * HOUR_US)), ("twice", "message", str(start + 1)),
        ("twice", live.THERE, str(start + 2)), ("was there", live.THERE, str(start)), ("bad", "no text", str(start)),
    }  # fmt: skip


def test_messages_without_ids_are_not_answered_as_they_come(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"options\.has must name message_id and conversation where messages"):
        stream.run(streaming(test_service.settings_in(tmp_path), tmp_path, has=["arrival_time"]))


class _Counting:
    """A task whose answers are what a message's conversation is remembered by."""

    def __init__(self) -> None:
        self.before: list[list[str]] = []

    def remembered(self) -> tuple[str, ...]:
        return ("text",)

    def begin(self, ground: Any) -> None:
        """Nothing is to be refused."""

    def answers(self, ground: Any, rows: DataFrame, before: DataFrame) -> DataFrame:
        self.before.append(sorted(row["message_id"] for row in before.collect()))
        return rows.select("message_id", F.lit("told").alias("reply"))


def test_a_conversation_has_each_message_once(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of a batch that was written and not noted, and of batches that came since what is kept was read."""
    task, at = _Counting(), datetime(2026, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(Live, "spark", lambda _: task)
    asked, held = test_service.settings_in(tmp_path), TASKS["service"].live
    assert held is not None
    tables, progress = Tables(spark, asked.tables.root), Progress(asked.run_dir)

    def batch(number: int) -> DataFrame:
        row = (number, f"m{number}", "c", at + timedelta(seconds=number), "text")
        return spark.createDataFrame(
            [row], "batch bigint, message_id string, conversation string, time timestamp, text string"
        )

    def write(number: int) -> None:
        tables.append_batch(held.table, batch(number), stream="s", number=number, job="stream", inputs={})

    progress.say(batch={"number": 0, "seen": None, "now": 0})
    write(0)
    kept = threads.Threads(
        asked, tables, held, Ground({}, asked, tmp_path), progress, Watch(tables, "stream", held.table), None
    )
    kept.open()
    kept.add(batch(0), batch(0))  # as the follower does with what it finds written
    for number in (1, 2):
        answered = kept.answered(batch(number))
        write(number)
        kept.add(batch(number), answered)
    assert task.before == [["m0"], ["m0", "m1"]]
    kept.close()
