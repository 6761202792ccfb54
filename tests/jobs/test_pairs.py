"""The same job twice at once, on tables that do not exist yet: each ends well or is refused in one message."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import build_examples, builds, console, ingest, score
from jobs.settings import Settings, load_settings
from jobs.tables import Tables
from spark_udfs import vocabularies
from tests.jobs.pairs import together
from tests.jobs.small_shop import small_shop
from training.errors import TableError

ROUNDS = 2
HEADER = "order,item,user,time,quantity,price"


@pytest.fixture(autouse=True)
def _no_spinner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs of one process would share the terminal's one spinner."""
    monkeypatch.setattr(console.CONSOLE, "status", lambda _: nullcontext())


def landed(spark: SparkSession, run: Callable[..., dict[str, Any]], *of: Settings) -> list[dict[str, Any]]:
    """What the runs that ended well returned; the others were refused for the other writer's sake."""
    results = together(spark, *(lambda session, settings=settings: run(settings, session) for settings in of))
    for result in results:
        if isinstance(result, Exception):
            assert isinstance(result, TableError)
            assert "was changed by another writer" in str(result)
    ended = [result for result in results if isinstance(result, dict)]
    assert ended, results
    return ended


def order_lines(folder: Path, name: str, items: range) -> Settings:
    """A shop whose file has an order of each item, and one that both shops' files have."""
    folder.mkdir(exist_ok=True)
    lines = [f"o{n},i{n},u{n % 3},2025-01-02 10:00:00,1,2.5" for n in (0, *items)]
    (folder / f"{name}.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    columns = "{order_id: order, item_id: item, user_id: user, time: time, quantity: quantity, price: price}"
    places = [f"tables.root={folder}/tables", f"run_dir={folder}/{name}", f"ingest.path={folder}/{name}.csv"]
    return load_settings(None, [*places, f"ingest.columns={columns}"])


@pytest.mark.slow
def test_two_ingests(spark: SparkSession, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        both = (order_lines(folder, "a", range(1, 5)), order_lines(folder, "b", range(5, 9)))
        ended = landed(spark, ingest.run, *both)
        events = Tables(spark, both[0].tables.root).read("events")
        assert events.count() == events.select("event_id").distinct().count() >= 5
        for settings in both:  # whoever was refused is right the second time
            ingest.run(settings, spark)
        assert Tables(spark, both[0].tables.root).read("events").count() == 9
        assert len(ended) in (1, 2)


@pytest.mark.slow
def test_two_builds(spark: SparkSession, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        settings = small_shop(spark, tmp_path / str(number))
        for name in ("builds", "vocabulary_users", "vocabulary_items", "examples", "queries", "catalogue"):
            shutil.rmtree(Path(settings.tables.root) / name)
        ended = landed(spark, build_examples.run, settings, settings)
        tables = Tables(spark, settings.tables.root)
        manifest = builds.published(tables)
        assert manifest in [{key: value for key, value in one.items() if key != "up_to_date"} for one in ended]
        for kind in ("users", "items"):
            held = tables.read(f"vocabulary_{kind}", manifest["versions"][f"vocabulary_{kind}"])
            assert vocabularies.faults(held) == {}


@pytest.mark.slow
def test_two_scores(spark: SparkSession, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        settings = small_shop(spark, tmp_path / str(number))
        of = settings if number else Settings(**(settings.model_dump() | {"scoring": {"k": 2, "moment": "2025-02-01"}}))
        other = of.model_copy(update={"run_dir": str(tmp_path / str(number) / "other")})
        shutil.copytree(settings.run_dir, other.run_dir)
        ended = landed(spark, score.run, settings, other)
        held = Tables(spark, settings.tables.root).read("recommendations")
        rows = {row["moment"]: row["count"] for row in held.groupBy("moment").count().collect()}
        assert sorted(rows.values()) == sorted({one["moment"]: one["rows"] for one in ended}.values())
        assert number or len(ended) == 2  # two moments go side by side
