"""Cases answered as they come: what a batch job finds over the same cases, each once, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import build_examples, erase, stream
from jobs.artefacts import LATEST, write_json
from jobs.erasure import erased
from jobs.live import follower, held, source
from jobs.live.follower import Follower
from jobs.live.progress import Progress
from jobs.settings import Settings
from jobs.settings_sources import TableSource
from jobs.tables import Tables
from jobs.tasks import TASKS, fraud_on_spark
from spark_udfs import live, windows
from spark_udfs.scoring import predict
from training.errors import DataError, LockHeldError, SchemaError, SettingsError, TableError, TooManyBadRows
from training.models import MODELS
from training.state import lock
from training.state.lock import only_writer
from training.state.publish import write_bundle

START = datetime(2025, 1, 1, tzinfo=UTC)
DAY, BEGIN, CUT = timedelta(days=1), START + timedelta(days=60), START + timedelta(days=40)
CASES = (
    "case_id string, time timestamp, label boolean, label_time timestamp, card string, terminal string, amount double"
)
NAMES = ("case_id", "time", "label", "label_time", "card", "terminal", "amount")
Case = tuple[Any, ...]


def planted() -> list[Case]:
    """700 cases of 100 days in order of time; most get a label after some days, some never."""
    rng, cases = random.Random(5), []
    for number in range(700):
        time = START + rng.random() * 100 * DAY
        label, told = rng.random() < 0.2, time + rng.choice([0.5, 3, 6.5, 20]) * DAY
        card, terminal = f"card {rng.randrange(25)}", rng.choice([None, *(f"terminal {n}" for n in range(8))])
        amount = None if rng.random() < 0.1 else round(rng.random() * 100, 2)
        known = rng.random() < 0.8
        cases.append(
            (f"case {number}", time, label if known else None, told if known else None, card, terminal, amount)
        )
    return sorted(cases, key=lambda case: case[1])


def values_in(folder: Path) -> dict[str, Any]:
    return {
        "task": "fraud",
        "tables": {"root": str(folder / "tables")},
        "run_dir": str(folder / "run"),
        "sources": {"cases": {"path": "history", "time_format": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"}},
        "options": {
            "entities": ["card", "terminal"], "numbers": ["amount"], "means": ["amount"], "calendar": True,
            "has": ["case_id", "label_time"], "label_delay_days": 20, "alarm_share": 0.1,
        },
        "examples": {"test_from": CUT, "validation_days": 15, "rows_per_group": 100},
        "model": {"name": "row_mlp", "hidden": [8]},
        "stream": {"path": str(folder / "incoming"), "format": "json", "once": True, "files": 1},
    }  # fmt: skip


def settings_in(folder: Path, **sections: Any) -> Settings:
    return Settings(**(values_in(folder) | sections))


def as_of(case: Case, moment: datetime) -> Case:
    """A case with its label where that was known by then."""
    return case if case[3] is not None and case[3] <= moment else (*case[:2], None, None, *case[4:])


def events(cases: Sequence[Case]) -> list[tuple[datetime, Case]]:
    """What comes after the history, in the order in which it comes: cases without labels, and labels."""
    came = [(case[1], as_of(case, case[1])) for case in cases if case[1] > BEGIN]
    return sorted([*came, *((case[3], case) for case in cases if case[3] and case[3] > BEGIN)], key=lambda one: one[0])


def put(folder: Path, name: str, cases: Sequence[Case]) -> None:
    def told(value: Any) -> Any:
        return value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value

    folder.mkdir(parents=True, exist_ok=True)
    rows = [{key: told(value) for key, value in zip(NAMES, case, strict=True)} for case in cases]
    (folder / f".{name}").write_text("".join(json.dumps(row) + "\n" for row in rows))
    newest = max((file.stat().st_mtime for file in folder.glob("*.json")), default=0)
    os.utime(folder / f".{name}", (max(time.time(), newest + 1),) * 2)  # what comes in one moment comes in any order
    (folder / f".{name}").rename(folder / f"{name}.json")


def bundle_in(settings: Settings) -> None:
    """An untrained bundle, that answers differently to different cases."""
    schema = TASKS["fraud"].schema({}, settings)
    kind = MODELS["row_mlp"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(kind.Config.parse({"hidden": [8]}), schema)
        for weights in model.parameters():
            torch.nn.init.normal_(weights, std=0.3)
    made = write_bundle(
        Path(settings.run_dir) / "bundles", model_name="row_mlp", config={"hidden": [8]}, schema=schema,
        tensors=model.state_dict(), provenance={}, settings={}, metrics={},
    )  # fmt: skip
    write_json(settings.run_dir, LATEST, {"bundle": made.name, "identity": "x", "summary": {}})


def begun(folder: Path, spark: SparkSession, **sections: Any) -> Settings:
    """A pipeline whose history ends at BEGIN, built, with a bundle."""
    settings = settings_in(folder, **sections)
    history = [as_of(case, BEGIN) for case in planted() if case[1] <= BEGIN]
    history.append(("of another age", START + 9_999 * DAY, None, None, "card of another age", None, 1.0))
    rows = spark.createDataFrame(history, CASES)
    Tables(spark, settings.tables.root).write("cases", rows, mode="overwrite", job="ingest", inputs={})
    build_examples.run(settings, spark)
    bundle_in(settings)
    return settings


def rows_of(settings: Settings, spark: SparkSession) -> DataFrame:
    return Tables(spark, settings.tables.root).read("fraud_live")


def told_of(settings: Settings, spark: SparkSession) -> dict[tuple[str, str], Any]:
    """Each row of the stream's table but for the batch; none stands twice."""
    rows = rows_of(settings, spark).drop("batch").collect()
    held = {(row["case_id"], row["what"]): row for row in rows}
    assert len(held) == len(rows)
    return held


def by_batch_job(settings: Settings, spark: SparkSession) -> dict[str, Any]:
    """What a batch job finds of the stream's cases, from the history and the rows as they arrived there."""
    options, tables = fraud_on_spark.options_of(settings), Tables(spark, settings.tables.root)
    came = rows_of(settings, spark)
    labels = came.where("what = 'label'").select("case_id", "label", "label_time")
    cases = came.where("what = 'case'").drop("label", "label_time").join(labels, on="case_id", how="left")
    history = tables.read("cases").withColumn("arrival_time", F.col("time"))
    told = labels.withColumnsRenamed({"label": "said", "label_time": "said_at"})
    joined = history.join(told, on="case_id", how="left")
    history = joined.withColumns(
        {"label": F.coalesce("label", "said"), "label_time": F.coalesce("label_time", "said_at")}
    )
    every = history.select(*NAMES, "arrival_time").unionByName(cases.select(*NAMES, "arrival_time"))
    known = windows.as_of(fraud_on_spark.given(every, options), "case_id", options.entities, options.means)
    features = fraud_on_spark.with_known(known, {}, options)
    wide = features.withColumn("answered", F.struct("case_id", fraud_on_spark.reasons(options).alias("reasons")))
    answered = predict(wide, str(stream.latest_bundle(settings.run_dir)), key="answered").select("answered.*", "p")
    return {row["case_id"]: row for row in answered.collect()}


def assert_as_by_batch_job(settings: Settings, spark: SparkSession) -> None:
    expected = by_batch_job(settings, spark)
    cases = [row for (_, what), row in told_of(settings, spark).items() if what == "case"]
    assert len({row["p"] for row in cases}) > len(cases) / 2
    for row in cases:
        assert row["reasons"] == expected[row["case_id"]]["reasons"], row
        assert row["p"] == pytest.approx(expected[row["case_id"]]["p"], rel=1e-4, abs=1e-6), row


@pytest.fixture(scope="module")
def begun_here(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Path:
    """A folder with a pipeline whose history ends at BEGIN."""
    folder = tmp_path_factory.mktemp("stream")
    begun(folder, spark)
    return folder


def copied(begun_here: Path, folder: Path, **sections: Any) -> Settings:
    """The same pipeline in a folder of its own."""
    shutil.copytree(begun_here, folder, dirs_exist_ok=True)
    return settings_in(folder, **sections)


def in_files(settings: Settings, came: Sequence[Case], each: int) -> None:
    assert settings.stream.path is not None
    for number in range(0, len(came), each):
        put(Path(settings.stream.path), f"{number:05}", came[number : number + each])


def stirred() -> list[Case]:
    """What comes, a little out of order: some come behind cases that were answered before."""
    rng = random.Random(7)
    late = [(when + rng.choice([0, 0, 0, 0.4]) * DAY, number) for number, (when, _) in enumerate(events(planted()))]
    in_order = [case for _, case in events(planted())]
    return [in_order[number] for _, number in sorted(late)]


STEPS = ("nothing", "answers", "all of the batch")


def failing(monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    """End the next batch once so much of it was kept."""
    of = Progress if after == STEPS[2] else Follower
    name = "end" if after == STEPS[2] else "_append"
    whole = getattr(of, name)

    def ended(*args: Any) -> None:
        if after != STEPS[0]:
            whole(*args)
        raise InterruptedError(f"ended after {after}")

    monkeypatch.setattr(of, name, ended)


@pytest.mark.slow
def test_answers_are_those_of_a_batch_job_whatever_ended_on_the_way(
    begun_here: Path, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cases that come behind others, labels days later, a stream that ends in the middle of batches and begins again,
    and what is kept written anew on the way."""
    settings = copied(begun_here, tmp_path)
    came = stirred()
    in_files(settings, came, 90)
    monkeypatch.setattr(held, "BATCHES", 2)
    for after in STEPS:
        with monkeypatch.context() as once:
            failing(once, after)
            with pytest.raises(InterruptedError, match=f"ended after {after}"):
                stream.run(settings, spark)
    said = stream.run(settings, spark)
    assert said["table"] == "fraud_live"
    rows = told_of(settings, spark)
    assert {key for key, _ in rows} == {case[0] for case in came}
    assert len(rows) == len(came)
    assert {row["bundle"] for row in rows.values()} == {said["bundle"]}
    assert_as_by_batch_job(settings, spark)
    alarms = [row for row in rows.values() if row["alarm"]]
    limit = Progress(settings.run_dir).held["limit"]
    assert {row["case_id"] for row in alarms} == {key for (key, _), row in rows.items() if (row["p"] or 0) >= limit}
    kept = Progress(settings.run_dir).held["kept"]
    assert kept["number"] > 0
    facts = Tables(spark, settings.tables.root).read("fraud_live_facts", kept["versions"]["facts"])
    first = facts.agg(F.min("time")).collect()[0][0]
    assert first > (BEGIN - 30 * DAY).timestamp() * 1e6  # what no case can ask for any more is added up
    assert stream.run(settings, spark)["batches"] == 0


def children(process: int, name: str) -> list[int]:
    """Processes that one has started and that are called so."""
    found = subprocess.run(["pgrep", "-P", str(process), "-f", name], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.slow
def test_a_driver_and_a_worker_are_killed(begun_here: Path, spark: SparkSession, tmp_path: Path) -> None:
    settings = copied(begun_here, tmp_path)
    came = stirred()
    in_files(settings, came, 40)
    (tmp_path / "settings.yaml").write_text(json.dumps(values_in(tmp_path), default=str))
    command = [sys.executable, "-m", "jobs.stream", "--settings", str(tmp_path / "settings.yaml")]

    def begin(until: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2])
        while Progress(settings.run_dir).next < until:
            assert process.poll() is None
            time.sleep(0.2)
        return process

    driver = begin(2)
    driver.kill()
    driver.wait()
    driver = begin(4)
    [worker, *_] = [
        worker
        for jvm in children(driver.pid, "java")
        for daemon in children(jvm, "pyspark.daemon")
        for worker in children(daemon, "pyspark")
    ]
    os.kill(worker, signal.SIGKILL)
    assert driver.wait(600) == 0
    assert {key for key, _ in told_of(settings, spark)} == {case[0] for case in came}
    assert len(told_of(settings, spark)) == len(came)
    assert_as_by_batch_job(settings, spark)


@pytest.mark.slow
def test_what_is_no_case_and_no_label_goes_to_quarantine(
    begun_here: Path, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(follower, "MANY", 11)
    monkeypatch.setattr(follower, "warn", told.append)
    settings = copied(begun_here, tmp_path)
    old = next(case for case in planted() if BEGIN - 10 * DAY < case[1] < BEGIN - 2 * DAY)
    one, two, three = [case for case in planted() if case[1] > BEGIN + DAY and case[3] is not None][:3]
    case, ahead = as_of(one, START), datetime.now(UTC) + 0.02 * DAY
    batches: list[list[Case]] = [
        [case, one, as_of(two, START)],
        [
            as_of(old, START),  # longer ago than a case may come behind
            ("new", old[1], None, None, *old[4:]),
            case,
            one,
            three,
            (two[0], two[1], *two[2:4], "card of nobody", *two[5:]),
            ("far", ahead, None, None, *two[4:]),
            (None, *case[1:]),
        ],
    ]
    for number, batch in enumerate(batches):
        put(tmp_path / "incoming", f"{number}", batch)
    assert stream.run(settings, spark)["rows"] == {
        "case": 2, "label": 1, live.LATE: 2, live.TWICE: 1, live.TOLD: 1, live.NO_CASE: 1, live.OTHER: 1, live.AHEAD: 1,
        "case_id is missing": 1,
    }  # fmt: skip
    (line,) = told
    assert "3 of the last 11 rows came too late or lie in the future, over tables.quarantine_limit 0.05" in line
    aside = Tables(spark, settings.tables.root).read("quarantine").collect()
    assert sorted(row["reason"] for row in aside).count(live.LATE) == 2
    assert len(aside) == 8
    assert {*told_of(settings, spark)} == {(one[0], "case"), (one[0], "label"), (two[0], "case")}


@pytest.mark.slow
def test_late_cases_move_no_clock_back_and_only_whole_files_are_read(
    begun_here: Path, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second start settles what both have added, and takes a file that is older than those of the first."""
    settings, moment = copied(begun_here, tmp_path), BEGIN + 10 * DAY
    incoming = tmp_path / "incoming"

    def at(name: str, hours: float) -> Case:
        return (name, moment + hours * DAY / 24, None, None, "card of late", "terminal 1", 5.0)

    monkeypatch.setattr(held, "BATCHES", 3)
    for number, case in enumerate([at("first", 0), at("late", -10), at("less late", -5)]):
        put(incoming, f"{number}", [case])
    assert stream.run(settings, spark)["rows"] == {"case": 3}
    assert Progress(settings.run_dir).seen == moment.timestamp() * 1e6
    put(incoming, "3", [at("moved in", 1)])
    week_ago = time.time() - 10 * 86_400
    os.utime(incoming / "3.json", (week_ago, week_ago))
    (incoming / "4.json").touch()
    (incoming / "5.json.part").write_text((incoming / "3.json").read_text()[:20])
    assert stream.run(settings, spark)["rows"] == {"case": 1}
    assert Progress(settings.run_dir).held["kept"]["number"] == 2
    assert_as_by_batch_job(settings, spark)
    assert rows_of(settings, spark).columns[0] == "batch"


def test_new_rows_may_lack_the_label_and_nothing_else(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("case_id,time,card\na,2025-01-01,c\n")
    asked = TableSource.model_validate({"path": str(tmp_path), "format": "csv", "time_format": "yyyy-MM-dd"})
    columns = {"case_id": "string", "time": "timestamp", "card": "string?", "label": "boolean?"}
    came = spark.createDataFrame([(str(tmp_path / "new.csv"),)], "path string")
    later = TASKS["fraud"].live.later  # type: ignore[union-attr]
    row = source.typed(settings_in(tmp_path), asked, "cases", columns, came, None, later).collect()[0]
    assert (row["case_id"], row["label"], row["reason"]) == ("a", None, None)
    with pytest.raises(SchemaError, match=r"has no column 'terminal' .* Correct sources\.cases\.columns"):
        source.typed(settings_in(tmp_path), asked, "cases", columns | {"terminal": "string?"}, came, None, later)


@pytest.mark.slow
def test_other_columns_end_the_stream_before_anything_of_the_batch_is_written(
    begun_here: Path, spark: SparkSession, tmp_path: Path
) -> None:
    settings = copied(begun_here, tmp_path)
    came = [case for _, case in events(planted())][:100]
    put(tmp_path / "incoming", "0", came)
    file = tmp_path / "incoming" / "0.json"
    right = file.read_text()
    file.write_text(right.replace('"card":', '"card_number":'))
    with pytest.raises(
        SchemaError,
        match=r"batch 0 of .* none of 100 rows says anything in card \(of .* 100% do\): a column has another",
    ):
        stream.run(settings, spark)
    file.write_text(right.replace('"time": "', '"time": "on '))
    with pytest.raises(TooManyBadRows, match=r"batch 0 .* 100 of 100 rows are bad, .*: time is no timestamp: 100"):
        stream.run(settings, spark)
    assert rows_of(settings, spark).isEmpty()
    file.write_text(right)  # put right, it goes on with the same batch
    assert sum(stream.run(settings, spark)["rows"].values()) == 100


def test_one_stream_at_a_time_and_on_its_own_table(
    begun_here: Path, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = copied(begun_here, tmp_path)
    (tmp_path / "incoming").mkdir()
    folder = Path(settings.run_dir) / "stream"
    monkeypatch.setattr(lock, "WAIT_S", 0.2)
    with (
        only_writer(folder, print, what="stream's folder", who="stream"),
        pytest.raises(LockHeldError, match="one stream at a time may write into stream's folder"),
    ):
        stream.run(settings, spark)
    put(tmp_path / "incoming", "0", [case for _, case in events(planted())][:3])
    stream.run(settings, spark)
    shutil.move(folder / "checkpoint", tmp_path / "checkpoint")
    with pytest.raises(TableError, match=r"goes on from Spark's checkpoint .* has none: put it back, or remove"):
        stream.run(settings, spark)
    shutil.rmtree(folder)
    with pytest.raises(
        TableError, match=r"table 'fraud_live' at .* is that of another stream, .*: two would answer rows"
    ):
        stream.run(settings, spark)


@pytest.mark.slow
def test_rows_that_are_added_to_a_delta_table_are_followed(
    begun_here: Path, spark: SparkSession, tmp_path: Path
) -> None:
    """A column that comes meanwhile ends the stream, which goes on with it; the answers are those of files."""
    shop = str(tmp_path / "shop")
    settings = copied(begun_here, tmp_path, stream={"path": shop, "format": "delta", "once": True})
    came = [case for _, case in events(planted())]
    rows = spark.createDataFrame(came, CASES)
    first, second = (rows.where(f"time {than} '2025-03-20'") for than in ("<", ">="))
    first.write.format("delta").save(shop)
    said = [stream.run(settings, spark)["rows"]]
    second.withColumn("more", F.lit(1)).write.format("delta").mode("append").option("mergeSchema", "true").save(shop)
    said.append(stream.run(settings, spark)["rows"])
    assert sum(sum(rows.values()) for rows in said) == len(came)
    assert_as_by_batch_job(settings, spark)
    spark.sql(f"UPDATE delta.`{shop}` SET amount = 1 WHERE case_id = '{came[0][0]}'")
    with pytest.raises(TableError, match=r"rows of table '.*/shop' were changed, .* begin a new stream"):
        stream.run(settings, spark)


def test_a_delta_table_is_followed_from_where_the_history_ended(spark: SparkSession, tmp_path: Path) -> None:
    tables, shop = Tables(spark, str(tmp_path / "tables")), Tables(spark, str(tmp_path / "shop"))
    rows = spark.createDataFrame([("case 1",)], "case_id string")
    shop.write("cases", rows, mode="overwrite", job="shop", inputs={})
    state = [shop.pin("cases").content, shop.id("cases")]
    tables.write("cases", rows, mode="overwrite", job="ingest", inputs={"files": state})
    asked, progress = TableSource(path=shop.path("cases"), format="delta"), Progress(str(tmp_path / "run"))
    assert source.opened(tables, asked, "cases", 1, progress) is None
    shop.write("cases", rows.withColumn("case_id", F.lit("case 2")), mode="append", job="shop", inputs={})
    came = source.opened(tables, asked, "cases", 1, progress)
    assert came is not None
    came.writeStream.format("memory").queryName("came").trigger(availableNow=True).start().awaitTermination()
    assert [row["case_id"] for row in spark.table("came").collect()] == ["case 2"]


@pytest.mark.slow
def test_a_stream_whose_table_is_gone_begins_no_other(spark: SparkSession, tmp_path: Path) -> None:
    progress, task_live = Progress(str(tmp_path / "run")), TASKS["fraud"].live
    assert task_live is not None
    progress.say(kept={})
    tables = Tables(spark, str(tmp_path / "tables"))
    with pytest.raises(TableError, match=r"table 'fraud_live' at .* is gone, and .*stream' says that its batches"):
        stream._take_table(tables, task_live, progress, {})
    assert not tables.exists("fraud_live")


def test_a_batch_is_begun_again_once_where_a_worker_or_what_it_held_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    lost = PySparkException("Checkpoint block rdd_12_0 not found! Either the executor that checkpointed it is gone")

    def query(*_: Any) -> None:
        begun.append("a batch")
        raise lost

    monkeypatch.setattr(stream, "_query", query)
    followed = SimpleNamespace(open=lambda: None, close=lambda: None, error=None)
    given: Any = (settings_in(tmp_path), None, None, None, followed, SimpleNamespace(next=3))
    with pytest.raises(PySparkException, match="Checkpoint block rdd_12_0 not found"):
        stream._follow(*given)
    assert len(begun) == 2


@pytest.mark.slow
def test_persons_are_erased_and_the_stream_goes_on(
    begun_here: Path, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those who are erased while it is at work, and where an erasure has removed what was kept."""
    cases = values_in(tmp_path)["sources"]["cases"] | {"persons": ["card"]}
    settings = copied(begun_here, tmp_path, sources={"cases": cases})
    tables = Tables(spark, settings.tables.root)
    came = [case for _, case in events(planted())][:60]
    in_files(settings, came, 30)
    monkeypatch.setattr(held, "BATCHES", 1)
    stream.run(settings, spark)
    theirs = F.col("case_id").isin([case[0] for case in came if case[4] == "card 3"])
    assert not tables.read("fraud_live_waiting").where(theirs).isEmpty()
    monkeypatch.setattr(lock, "WAIT_S", 0.2)
    with (
        only_writer(Path(settings.run_dir) / "stream", print, what="stream's folder", who="stream"),
        pytest.raises(LockHeldError, match="one stream or erasure at a time may write into stream's folder"),
    ):
        erase.run(settings, ["card 3"], spark)
    erase.run(settings, ["card 3"], spark)
    assert all(tables.read(name).where(theirs).isEmpty() for name in ("fraud_live", "fraud_live_waiting"))
    last = max(case[1] for case in came)
    put(tmp_path / "incoming", "next", [
        (f"new {number}", last + DAY, None, None, f"card {number}", "terminal 1", 5.0) for number in (3, 5, 77, 99)
    ])  # fmt: skip
    begin, write = Progress.begin, Follower._write

    def after_begin(*args: Any) -> Any:
        erased.remember(tables, ["card 77"])
        return begin(*args)

    def after_write(*args: Any) -> None:
        write(*args)
        erased.remember(tables, ["card 99"])

    with monkeypatch.context() as once:
        once.setattr(Progress, "begin", after_begin)
        with pytest.raises(DataError, match=r"while `millrace stream` read them, .*; nothing was written"):
            stream.run(settings, spark)
    with monkeypatch.context() as once:
        once.setattr(Follower, "_write", after_write)
        with pytest.raises(DataError, match=r"`millrace stream` wrote rows of theirs; .* \(1 of 'fraud_live'\)"):
            stream.run(settings, spark)
    ingested = [(f"new {number}", last + DAY, None, None, f"card {number}", "terminal 1", 5.0) for number in (5, 6)]
    rows = spark.createDataFrame(ingested, CASES)  # an ingest has read them too, before they came by the stream
    tables.write("cases", rows, mode="append", job="ingest", inputs={})
    assert stream.run(settings, spark)["rows"] == {"case": 1}
    (row,) = rows_of(settings, spark).where("case_id LIKE 'new%'").collect()
    assert Progress(settings.run_dir).held["shares"]["card"] > 0.9
    # Of the terminal too, which those who were erased had in common with others.
    tables.remove("cases", rows.select("case_id"), job="ingest", inputs={})
    assert row["reasons"] == by_batch_job(settings, spark)[row["case_id"]]["reasons"]


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"stream": {}}, "stream.path must name the folder"),
        ({"stream": {"path": "history"}}, "stream.path must be another folder than that of the history"),
        (
            {"task": "intent", "options": {}, "sources": {}},
            "rows of task 'intent' are not answered as they come; .*: fraud",
        ),
        ({"options": {"has": []}}, r"options.has must name case_id where .*; it is \[\]"),
        ({"sources": {"cases": {"order_by_hash_of": ["card"]}}}, "must have rows with times of their own"),
    ],
)
def test_what_cannot_be_streamed_is_refused(tmp_path: Path, sections: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        stream.run(settings_in(tmp_path, **sections))
