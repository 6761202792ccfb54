"""What every task keeps, each on a small planted world: what comes after the cut changes nothing before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import build_examples, builds, erase
from jobs.ground import Ground
from jobs.settings import Settings, load_settings
from jobs.settings_sections import OWN
from jobs.settings_sources import TableSource
from jobs.tables import Tables
from jobs.task import BY_ID, BY_LINE
from jobs.tasks import TASKS
from spark_udfs import features, vocabularies
from spark_udfs.features import Cuts
from spark_udfs.pieces import Pieces
from tests.jobs import (
    small_shop,
    test_click,
    test_customers,
    test_demand,
    test_fraud,
    test_image,
    test_intent,
    test_product_texts,
    test_sentiment,
    test_service,
)
from tests.jobs.test_erase import naming
from training.errors import SettingsError
from training.schema import Kind

SPARK_TYPES = {
    Kind.ID: {"bigint"},
    Kind.IDS: {"array<bigint>"},
    Kind.DENSE: {"float", "double", "array<float>", "array<double>"},
    Kind.LABEL: {"float", "double", "boolean", "array<float>", "array<double>"},
    Kind.WEIGHT: {"float", "double", "array<float>", "array<double>"},
    Kind.TIME: {"timestamp"},
    Kind.POSITION: {"bigint"},
    Kind.IMAGE: {"binary"},
}


@dataclass(frozen=True)
class World:
    """A planted world.

    Attributes:
        settings: folder -> the pipeline's.
        tables: name -> (rows, schema).
        later: rows that are not known at the cut: of a later time, or of before and not there yet; by table.
        person: the id of one who stands in the tables.
        sources: what the settings say of the tables' persons.
    """

    settings: Callable[[Path], Settings]
    tables: dict[str, tuple[list[tuple[Any, ...]], str]]
    later: dict[str, list[tuple[Any, ...]]]
    person: str
    sources: dict[str, TableSource] = field(default_factory=dict)


def shop() -> World:
    """A customer's later purchases, one of before that arrives late, and one of an item that nobody had bought."""
    rows = small_shop._events()
    items = sorted({(row[3], row[9]) for row in rows})
    cut = small_shop.TEST_FROM
    at = [(cut + timedelta(days=1),) * 2, (cut - timedelta(days=3), cut + timedelta(days=2))]
    later = [
        (f"later{n}", f"o{n}", f"user {n}", item, "purchase", time, arrival, 1, 2.5, "a name")
        for n in range(5)
        for time, arrival in at
        for item in ("item 1", "never seen")
    ]
    return World(
        lambda folder: small_shop._settings(folder),
        {"events": (rows, small_shop.EVENTS), "items": (items, "item_id string, name string")},
        {"events": later},
        "user 3",
    )


def cases() -> World:
    """Cases after the cut of addresses that were there before; and labels that nobody knows at the cut."""
    later = [
        (f"later {n}", test_fraud.CUT + timedelta(days=n), n % 2 == 0, f"address {n}", "domain 0", 5.0)
        for n in range(10)
    ]
    late = test_fraud.CUT - timedelta(days=1)
    later += [(f"late {n}", late, n % 2 == 0, f"address {n}", "domain 1", 7.0) for n in range(10)]
    persons = {"cases": TableSource(persons=("address",))}
    tables = {"cases": (test_fraud.planted(), test_fraud.CASES)}
    return World(test_fraud.settings_in, tables, {"cases": later}, "address 7", persons)


def lists() -> World:
    """Lists after the cut, of users and items that were there before; and one of before that nobody knows yet. Of each
    it is told what came of its clicks, at times of which some are too late to count."""
    at = [
        (test_click.CUT + timedelta(hours=1), None),
        (test_click.CUT - timedelta(days=3), test_click.CUT + timedelta(days=2)),
    ]
    later = [
        (f"later {n} {time}", f"user {n}", f"item {n}", 1, time, arrival, True, "d1")
        for n in range(10)
        for time, arrival in at
    ]
    young = test_click.CUT - timedelta(minutes=3)  # it may still be clicked
    later += [(f"young {n}", f"user {n}", "item 1", 1, young, None, n % 2 == 0, "d0") for n in range(10)]
    persons = {"impressions": TableSource(persons=("user_id",))}

    def carted(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return [(*row, row[4] + timedelta(minutes=n % 80) if row[6] else None) for n, row in enumerate(rows)]

    def settings(folder: Path) -> Settings:
        plain = test_click.settings_in(folder).model_dump(mode="json")["options"]
        return test_click.settings_in(folder, options=plain | {"heads": {"cart": 60}})

    shown = test_click.planted()[: 250 * test_click.LONG]
    tables = {"impressions": (carted(shown), f"{test_click.IMPRESSIONS}, cart_time timestamp")}
    return World(settings, tables, {"impressions": carted(later)}, "user 7", persons)


def sales() -> World:
    """More of each series, and a series that nobody knew."""
    weeks = [test_demand.week(test_demand.CUT + n) for n in range(6)]
    later = [(series, week, 99.0) for series in ("P0", "P1", "new") for week in weeks]
    schema = "series_id string, time timestamp, quantity double"
    persons = {"sales": TableSource(persons=("series_id",))}
    return World(test_demand.settings_of, {"sales": (test_demand.planted(), schema)}, {"sales": later}, "P3", persons)


def orders() -> World:
    """More purchases and returns of those who had ordered before, and some of before that nobody knows yet."""
    cut = test_customers.CUT
    at = [(cut + timedelta(days=1),) * 2, (cut - timedelta(days=3), cut + timedelta(days=2))]
    later = [
        (f"later {n} {kind} {time}", f"user {n}", "item 1", kind, time, arrival, 2, 50.0)
        for n in range(10)
        for kind in ("purchase", "return")
        for time, arrival in at
    ]
    tables = {"events": (test_customers.planted(), test_customers.EVENTS)}
    return World(test_customers.settings_in, tables, {"events": later}, "user 7")


def reviews() -> World:
    """More reviews, of words that nobody had said before; and some of before that nobody knows yet."""
    cut = test_sentiment.CUT
    at = [(cut + timedelta(days=1), None), (cut - timedelta(days=3), cut + timedelta(days=2))]
    later = [
        (f"later {n} {time}", time, arrival, "product 1", f"lovely and unheard {n % 3}", n % 2 == 0, f"user {n}")
        for n in range(10)
        for time, arrival in at
    ]
    persons = {"reviews": TableSource(persons=("user_id",))}
    tables = {"reviews": (test_sentiment.planted()[:600], test_sentiment.REVIEWS)}
    return World(test_sentiment.settings_in, tables, {"reviews": later}, "user 7", persons)


def messages() -> World:
    """More messages, of intents that were there and of a new one; and some of before that nobody knows yet."""
    cut = test_service.CUT
    at = [(cut + timedelta(days=1), None), (cut - timedelta(days=3), cut + timedelta(days=2))]
    later = [
        (f"later {n} {time}", time, arrival, "talk 1", f"cancel {n}", "cancel" if n % 2 else "never had", f"user {n}")
        for n in range(10)
        for time, arrival in at
    ]
    persons = {"messages": TableSource(persons=("user_id",))}
    tables = {"messages": (test_service.planted()[:600], test_service.MESSAGES)}
    return World(test_service.settings_in, tables, {"messages": later}, "user 7", persons)


def pictures() -> World:
    """More pictures, of categories that were there and of a new one; and some of before that nobody knows yet."""
    cut, some = test_image.CUT, test_image.planted()
    at = [(cut + timedelta(days=1), None), (cut - timedelta(days=3), cut + timedelta(days=2))]
    later = [
        (f"later {n} {time}", time, arrival, some[n][3], "down" if n % 2 else "never had", f"user {n}")
        for n in range(10)
        for time, arrival in at
    ]
    persons = {"pictures": TableSource(persons=("user_id",))}
    return World(
        test_image.settings_in, {"pictures": (some, test_image.PICTURES)}, {"pictures": later}, "user 7", persons
    )


def visits() -> World:
    """More visits after the cut, of sessions that were there before too; and steps of before that arrive late."""
    cut = test_intent.CUT
    after = [(cut + timedelta(days=1, seconds=n), None) for n in range(3)]
    late = [(cut - timedelta(days=3, seconds=n), cut + timedelta(days=2)) for n in range(3)]
    later = [
        (f"session {n}", f"user {n}", "item 1", time, arrival, "paid" if n % 2 else "never seen")
        for n in range(20)
        for time, arrival in (*after, *late)
    ]
    persons = {"steps": TableSource(persons=("user_id",))}
    tables = {"steps": (test_intent.planted(), test_intent.STEPS)}
    return World(test_intent.settings_in, tables, {"steps": later}, "user 7", persons)


def records() -> World:
    """More products, and texts that people said something of, of which some is not known yet."""
    cut = test_product_texts.CUT
    at = [(cut + timedelta(days=1), None), (cut - timedelta(days=3), cut + timedelta(days=2))]
    later = [
        (f"later {n} {time}", time, arrival, f"Lamp {n}", "red", "12 cm", None, "Never said before.", f"u{n}")
        for n in range(10)
        for time, arrival in at
    ]
    verdicts = [(f"item {n}", cut - timedelta(days=30), None, "edit", f"Edited {n}.") for n in range(20)]
    late = [(f"item {n}", time, arrival, "accept", "Later.") for n in range(10) for time, arrival in at]
    persons = {"products": TableSource(persons=("user_id",)), "verdicts": TableSource(persons=())}
    tables = {
        "products": (test_product_texts.planted(), test_product_texts.PRODUCTS),
        "verdicts": (verdicts, test_product_texts.VERDICTS),
    }
    made = {"products": later, "verdicts": late}
    return World(test_product_texts.settings_in, tables, made, "u7", persons)


WORLDS: dict[str, Callable[[], World]] = {
    "recommend": shop,
    "click": lists,
    "fraud": cases,
    "demand": sales,
    "customers": orders,
    "sentiment": reviews,
    "service": messages,
    "image": pictures,
    "intent": visits,
    "product_texts": records,
}


def test_every_task_has_a_world() -> None:
    assert set(WORLDS) == set(TASKS)


@pytest.fixture(scope="module", params=sorted(WORLDS))
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "image":
        pytest.importorskip("PIL")
    if request.param == "product_texts":
        pytest.importorskip("tokenizers")
    return str(request.param)


@cache
def world_of(name: str) -> World:
    return WORLDS[name]()


def cuts_of(settings: Settings) -> Cuts:
    test = settings.examples.test_from
    assert test is not None
    cut = features.utc(test)
    return Cuts(validation=cut - timedelta(days=settings.examples.validation_days), test=cut)


def examples(spark: SparkSession, name: str, folder: Path, *, later: bool, partitions: int) -> DataFrame:
    """The task's examples as `build_examples` has them made, of the world with or without what comes later."""
    world, task = world_of(name), TASKS[name]
    settings = world.settings(folder)
    read = {
        table: spark.createDataFrame(rows + (world.later.get(table, []) if later else []), schema).repartition(
            partitions
        )
        for table, (rows, schema) in world.tables.items()
    }
    lines = task.spark().lines(read)
    cuts, held = cuts_of(settings), spark.createDataFrame([], vocabularies.SCHEMA)
    known = lines.where(features.known_before(cuts.test))
    ids = {
        kind: known.where(F.col(column).isNotNull()).select(F.col(column).alias("id"))
        for kind, column in task.kinds(settings).items()
    }
    for kind, more in task.more_ids(read, settings, cuts.test).items():
        ids[kind] = ids[kind].unionByName(more) if kind in ids else more
    read |= {f"vocabulary_{kind}": vocabularies.new_entries(of, held) for kind, of in ids.items()}
    ground = Ground(read | {"lines": lines}, settings, folder)
    made = task.spark().examples(ground, cuts)["examples"]
    rows = spark.createDataFrame(made.toPandas(), made.schema)
    ground.release()
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def plain(spark: SparkSession, name: str, folder: Path) -> DataFrame:
    return examples(spark, name, folder, later=False, partitions=1)


def texts(rows: DataFrame) -> list[str]:
    return sorted(row[0] for row in rows.select(F.to_json(F.struct(*sorted(rows.columns)))).collect())


def test_what_comes_after_the_cut_changes_no_example(
    spark: SparkSession, name: str, folder: Path, plain: DataFrame
) -> None:
    """And where rows lie changes none either."""
    changed = examples(spark, name, folder, later=True, partitions=5)
    assert texts(changed) == texts(plain)
    assert len(texts(plain)) > 100


def test_columns_are_the_schemas_and_rows_are_told_apart(name: str, folder: Path, plain: DataFrame) -> None:
    task = TASKS[name]
    settings = world_of(name).settings(folder)
    schema = task.schema(dict.fromkeys((*task.kinds(settings), *task.numbers(settings)), 1_000), settings)
    types = {field.name: field.dataType.simpleString() for field in plain.schema.fields}
    wrong = {
        column.name: types.get(column.name)
        for column in schema
        if types.get(column.name) not in SPARK_TYPES[column.kind]
    }
    assert not wrong
    assert types["known_at"] == "timestamp"
    key = [column for column in task.key if column in plain.columns]
    assert plain.select(*key).distinct().count() == plain.count()
    assert 0 < task.spread <= len(key)


def test_splits_are_by_when_all_was_known(name: str, folder: Path, plain: DataFrame) -> None:
    cuts = cuts_of(world_of(name).settings(folder))
    pieces = Pieces((cuts.validation,))
    rows = plain.withColumn("piece", pieces.of(F.col("known_at"))).groupBy("piece")
    last = rows.agg(*(F.unix_micros(F.max(of)).alias(of) for of in ("known_at", "time"))).collect()
    assert len(last) == 2
    for split, end in (("train", cuts.validation), ("validation", cuts.test)):
        (row,) = (row for row in last if row["piece"] in pieces.of_splits(cuts)[split])
        assert all(datetime.fromtimestamp(row[of] / 1e6, tz=UTC) < end for of in ("known_at", "time"))


def test_an_option_of_another_task_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"options\.no_such_option: unknown key"):
        load_settings(None, [f"task={name}", "options.no_such_option=3"])


def test_a_setting_of_another_tasks_section_is_refused(name: str) -> None:
    others = {
        f"{section}.{key}"
        for section in OWN
        for task in TASKS.values()
        for key in set(task.sections[section].model_fields) - set(TASKS[name].sections[section].model_fields)
    }
    with pytest.raises(SettingsError) as raised:
        load_settings(None, [f"task={name}", *(f"{key}=1" for key in others)])
    lines = str(raised.value).splitlines()[1:]
    assert {line.split(": unknown key")[0].removeprefix("  - ") for line in lines} == others


def test_its_files_and_metrics_are_there(name: str, folder: Path) -> None:
    task, settings = TASKS[name], world_of(name).settings(folder)
    pipelines = Path(__file__).resolve().parents[2] / "jobs" / "pipelines"
    assert {task.demo.pipeline, task.demo.pipeline_of_file} <= {path.stem for path in pipelines.glob("*.yaml")}
    columns = task.columns
    known = {columns.key, *columns.scores, columns.spread, *(name for once in columns.once for name in once)}
    assert known | {columns.fallback or columns.key} <= {*task.answer}
    headline = task.headline(settings)
    assert headline.judged
    assert set(headline.lower) <= {*headline.judged.values(), *headline.beside.values()}
    for file in (task.demo.pipeline, task.demo.pipeline_of_file):
        assert load_settings(pipelines / f"{file}.yaml").task == name
    module = task.spark()
    wanted = ("lines", "examples", "slices", "contenders", "judge", "looks", "score")
    assert all(callable(getattr(module, function)) for function in wanted)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_person_is_erased_from_all_that_was_made(spark: SparkSession, name: str, tmp_path: Path) -> None:
    """From the tables read, from vocabularies, examples and side tables, and from the answers; others stay."""
    world, task = world_of(name), TASKS[name]
    settings = world.settings(tmp_path).model_copy(update={"sources": world.sources})
    tables, marks = Tables(spark, settings.tables.root), task.persons(settings)
    for table, (rows, schema) in world.tables.items():
        tables.write(table, spark.createDataFrame(rows, schema), mode="overwrite", job="ingest", inputs={})
    build_examples.run(settings, spark)
    read = {table: tables.read(table) for table in world.tables}
    (column, how) = next(iter(marks[task.table].items()))
    ids = task.lines(read, settings) if how == BY_LINE else next(read[table] for table in read if table in marks)
    tables.write(task.table, ids.select(column).distinct(), mode="overwrite", job="score", inputs={})
    there = [table for table in marks if tables.exists(table)]
    before = {table: tables.read(table).count() for table in there}
    assert naming(tmp_path, world.person)
    said = erase.run(settings, [world.person], spark)
    assert naming(tmp_path, world.person) == []
    removed = {table: said["tables"][table]["rows"] for table in there}
    assert all(0 < removed[table] < before[table] for table in there)
    after = {table: tables.read(table).count() for table in there}
    kept = {table: 0 if table.startswith("vocabulary_") else removed[table] for table in there}
    assert after == {table: before[table] - kept[table] for table in there}
    built = builds.published(tables)["versions"]
    assert built["examples"] == tables.version("examples")


def test_what_it_makes_of_persons_is_named(name: str, folder: Path) -> None:
    """Of each vocabulary that an index is of, the ids; and the answers, where what is read has persons."""
    world, task = world_of(name), TASKS[name]
    marks = task.persons(world.settings(folder).model_copy(update={"sources": world.sources}))
    hows = {how for columns in marks.values() for how in columns.values()}
    assert {task.table, "examples"} <= {*marks}
    assert all(marks[how] == {"id": BY_ID} for how in hows - {BY_ID, BY_LINE})
