"""A shop of 40 customers and 30 items with examples and an untrained bundle: made once a run, copied for each test."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from jobs import build_examples
from jobs.artefacts import LATEST, write_json
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.tasks.recommend_items import attached
from tests.conftest import SHARED
from tests.spark_udfs.bundles import example_schema, two_tower_bundle

START, TEST_FROM = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 2, 20)
USERS, ITEMS = 40, 30
LOOKER, NEWCOMER, NEW_ITEM = "looker", "newcomer", "new item"
EVENTS = (
    "event_id string, order_id string, user_id string, item_id string, kind string, time timestamp, "
    "arrival_time timestamp, quantity bigint, price double, name string"
)


def small_shop(spark: SparkSession, folder: Path, **sections: Any) -> Settings:
    """A copy of the shop in `folder`, and its settings; `sections` go over them."""
    shutil.copytree(_built(spark), folder, dirs_exist_ok=True)
    return _settings(folder, **sections)


def _settings(folder: Path, **sections: Any) -> Settings:
    values: dict[str, Any] = {
        "tables": {"root": str(folder / "tables")},
        "run_dir": str(folder / "run"),
        "examples": {"test_from": TEST_FROM, "validation_days": 10, "max_history": 20, "rows_per_group": 100},
        "evaluation": {"ks": (3, 5), "bootstrap": 100, "als_rank": 4, "als_iterations": 2},
        "scoring": {"k": 4},
    }
    return Settings(**(values | sections))


@functools.cache
def _built(spark: SparkSession) -> Path:
    """Where the shop lies; the first of the processes that run tests makes it, the others wait for it."""
    folder = Path(os.environ[SHARED], "small_shop")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "run" / LATEST).exists():
            _build(spark, folder)
    return folder


def _build(spark: SparkSession, folder: Path) -> None:
    settings = _settings(folder)
    tables = Tables(spark, settings.tables.root)
    events = spark.createDataFrame(_events(), EVENTS)
    tables.write("events", events, mode="overwrite", job="ingest", inputs={})
    items = events.select("item_id", "name").distinct()
    tables.write("items", items, mode="overwrite", job="ingest", inputs={})
    tables.write("users", events.select("user_id").distinct(), mode="overwrite", job="ingest", inputs={})
    build = build_examples.run(settings, spark)
    sizes = {"users": build["counts"]["training_users"] + 1, "items": build["counts"]["training_items"] + 1}
    provenance = {"build": {"cuts": build["cuts"]}}
    pinned = {"uri": f"{settings.tables.root}/catalogue", "version": build["versions"]["catalogue"], "splits": ["test"]}
    attachments = attached({"tables": {"catalogue": pinned}}, example_schema(**sizes), folder)
    bundle = two_tower_bundle(folder / "run" / "bundles", **sizes, provenance=provenance, attachments=attachments)
    write_json(folder / "run", LATEST, {"bundle": bundle.name, "identity": "untrained", "summary": {}})


def _events() -> list[tuple[Any, ...]]:
    """Half of the customers buy the first half of the items, half the second; three rows stand out."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        for day in np.sort(rng.uniform(0, 60, 12)):
            item = int(rng.integers(0, ITEMS // 2)) + ITEMS // 2 * (user % 2)
            rows.append((f"user {user}", f"item {item}", "purchase", float(day)))
    rows += [
        (LOOKER, "item 1", "view", 5.0),
        (NEWCOMER, "item 2", "purchase", 58.0),
        ("user 1", NEW_ITEM, "purchase", 59.0),
    ]
    return [
        (f"e{n}", f"o{n}", user, item, kind, at, at, 1, 2.5, f"the {item}")
        for n, (user, item, kind, day) in enumerate(rows)
        for at in [START + timedelta(days=day)]
    ]
