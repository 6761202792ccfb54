"""Stages against a Spark Connect server, in a process of its own.

    python -m tests.jobs.connect_client sc://127.0.0.1:15002 FOLDER STAGE...

A process that has a classic session cannot have one of Spark Connect. Prints a line of JSON a stage.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from jobs.sessions import open_session, parallelism
from jobs.settings import Settings, load_settings
from jobs.tables import Tables

SMALL = {
    "shop.users": 60,
    "shop.items": 40,
    "shop.days": 90,
    "shop.start": "2025-01-01",
    "examples.test_from": "2025-03-20",
    "examples.validation_days": 15,
    "training.ranks": 2,
    "training.launcher": "barrier",
    "training.batch_size": 64,
    "tuning.trials": 1,
    "tuning.epochs": 1,
    "evaluation.als_rank": 4,
    "evaluation.als_iterations": 1,
    "evaluation.bootstrap": 100,
}


def main(url: str, folder: str, *stages: str) -> None:
    """Run the stages, the first of which opens the session."""
    places = {"tables.root": f"{folder}/tables", "run_dir": f"{folder}/run", "spark.master": url}
    values = SMALL | places | {"tuning.storage": f"journal:{folder}/study"}
    settings = load_settings(None, [f"{name}={value}" for name, value in values.items()])
    for name in stages:
        print(json.dumps({"stage": name, **_run(name, settings)}, default=str), flush=True)


def _run(name: str, settings: Settings) -> dict[str, Any]:
    stage = globals().get(name) or importlib.import_module(f"jobs.{name}").run
    result: dict[str, Any] = stage(settings)
    return result


def session(settings: Settings) -> dict[str, Any]:
    spark = open_session(settings)
    zone = spark.conf.get("spark.sql.session.timeZone")
    connect: Any = spark
    return {
        "class": type(spark).__module__,
        "id": connect.session_id,
        "parallelism": parallelism(spark),
        "zone": zone,
    }


def doctor(settings: Settings) -> dict[str, Any]:
    """What each check says of a server's session; this machine's versions have tests of their own."""
    return {finding.check: finding.level for finding in importlib.import_module("jobs.doctor").examine(settings)}


def mistaken(settings: Settings) -> dict[str, Any]:
    """What a wrong setting is told; Connect asks the server late."""
    columns = {name: name for name in ("order_id", "item_id", "user_id", "time", "quantity", "price")}
    section = settings.ingest.model_copy(update={"path": f"{settings.run_dir}/nowhere.csv", "columns": columns})
    ingest = importlib.import_module("jobs.ingest").run
    return {"path": _refusal(lambda: ingest(settings.model_copy(update={"ingest": section})))}


def tables(settings: Settings) -> dict[str, Any]:
    """A table's whole life, and what is refused."""
    spark = open_session(settings)
    held = Tables(spark, f"{settings.run_dir}/apart")
    rows = [spark.createDataFrame([(number, str(number))], "id bigint, name string") for number in range(3)]
    missing = _refusal(lambda: held.read("t"))
    first = held.write("t", rows[2], mode="overwrite", job="j", inputs={"n": 0})
    held.write("t", rows[0], mode="overwrite", job="j", inputs={"n": 1}, since=first)
    unseen = _refusal(lambda: held.write("t", rows[2], mode="overwrite", job="j", inputs={"n": 4}, since=first))
    held.merge_new("t", rows[1], ["id"], job="j", inputs={"n": 2})
    gone = _refusal(lambda: held.read("t", 7))
    held.note_nothing_new("t", "j", {"n": 3})
    return {
        "ids": sorted(row["id"] for row in held.read("t").collect()),
        "pin": held.pin("t"),
        "size": held.size("t"),
        "up_to_date": [held.up_to_date("t", "j", {"n": number}) for number in range(4)],
        "refused": [missing, unseen, gone],
        "removed": held.remove("t", rows[0].select("id"), job="j", inputs={}),
    }


def refused(settings: Settings) -> dict[str, Any]:
    """What cannot run there."""
    training = settings.training.model_copy(update={"launcher": "spark", "seed": 1})
    by_rdds = settings.model_copy(update={"training": training})
    erase, train = (importlib.import_module(f"jobs.{name}").run for name in ("erase", "train"))
    return {"launcher": _refusal(lambda: train(by_rdds)), "erase": _refusal(lambda: erase(settings, ["somebody"]))}


def _refusal(call: Callable[[], object]) -> str:
    """The error's class and words; none: it was not refused."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
