"""Fraud on a planted world: some addresses are in wrong hands, and labels come a week late."""

from __future__ import annotations

import math
import random
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from pyspark.errors import PythonException
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from jobs import build_examples, evaluate, score, train
from jobs.artefacts import SCORE
from jobs.in_sql import register
from jobs.learn_spec import learn_spec
from jobs.learning import model_of_rows
from jobs.settings import Settings
from jobs.table_reads import maker
from jobs.tables import Tables
from jobs.task import OURS
from jobs.tasks import TASKS, fraud, fraud_on_spark
from jobs.trained import latest_bundle
from spark_udfs.pieces import FIRST
from spark_udfs.pieces import name as piece_of
from spark_udfs.scoring import predict
from tests.training.test_row_models import MODELS_OF_ROWS
from training.batch import Batch
from training.errors import BundleError, DataError, SettingsError
from training.models import MODELS
from training.schema import Schema
from training.state.bundle import load_bundle
from training.state.publish import write_bundle
from training.tables.sharded import Tables as ShardedTables
from training.world import World

START = datetime(2025, 1, 1, tzinfo=UTC)
CUT, VALIDATION = START + timedelta(days=90), START + timedelta(days=75)
DELAY = timedelta(days=7)
CASES = "case_id string, time timestamp, label boolean, address string, domain string, amount double"
BAD = 6  # of 40 addresses


def planted() -> list[tuple[Any, ...]]:
    """1,200 cases in 120 days; a case of a bad address is fraud in 9 of 10, any other in 1 of 50."""
    rng, cases = random.Random(2), []
    for number in range(1_200):
        address = rng.randrange(40)
        fraud = rng.random() < (0.9 if address < BAD else 0.02)
        time = START + timedelta(days=120 * rng.random())
        label = None if rng.random() < 0.05 else fraud
        named = None if rng.random() < 0.02 else f"address {address}"
        amount = None if rng.random() < 0.1 else rng.random() * 100
        cases.append((f"case {number}", time, label, named, f"domain {number % 3}", amount))
    return cases


def settings_in(folder: Path, **sections: Any) -> Settings:
    values: dict[str, Any] = {
        "task": "fraud",
        "tables": {"root": str(folder / "tables")},
        "run_dir": str(folder / "run"),
        "options": {
            "entities": ["address"],
            "ids": ["domain"],
            "numbers": ["amount"],
            "means": ["amount"],
            "calendar": True,
            "alarm_share": 0.1,
            "prior": 0.3,
        },
        "examples": {"test_from": CUT, "validation_days": 15, "rows_per_group": 100},
        "model": {"name": "row_mlp", "hidden": [16]},
        "training": {"ranks": 1, "epochs": 8, "batch_size": 64, "learning_rate": 0.01},
        "evaluation": {"bootstrap": 100},
    }
    return Settings(**(values | sections))


def write(spark: SparkSession, settings: Settings, cases: list[tuple[Any, ...]]) -> Tables:
    tables = Tables(spark, settings.tables.root)
    rows = spark.createDataFrame(cases, CASES).repartition(3)
    tables.write("cases", rows, mode="overwrite", job="ingest", inputs={"cases": len(cases)})
    return tables


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Settings:
    settings = settings_in(tmp_path_factory.mktemp("fraud"))
    write(spark, settings, planted())
    build_examples.run(settings, spark)
    return settings


@pytest.fixture(scope="module")
def trained(settings: Settings, spark: SparkSession) -> Settings:
    train.run(settings, spark)
    return settings


@pytest.fixture(scope="module")
def result(trained: Settings, spark: SparkSession) -> dict[str, Any]:
    return evaluate.run(trained, spark)


def held(settings: Settings, spark: SparkSession, name: str, where: str = "true") -> dict[str, Row]:
    return {row["case_id"]: row for row in Tables(spark, settings.tables.root).read(name).where(where).collect()}


def test_examples_are_the_cases_whose_label_was_known_before_the_cut(settings: Settings, spark: SparkSession) -> None:
    examples = held(settings, spark, "examples")
    wanted = {
        case[0]: FIRST if case[1] + DELAY <= VALIDATION else piece_of(VALIDATION)
        for case in planted()
        if case[2] is not None and case[1] + DELAY <= CUT
    }
    assert {name: row["piece"] for name, row in examples.items()} == wanted
    schema = TASKS["fraud"].schema({"domain": 4}, settings)
    assert {*schema.names} <= {*next(iter(examples.values())).asDict()}
    built = Schema.from_json(build_examples.run(settings, spark)["schema"])
    assert built.names == schema.names
    assert built.vocabularies() == {"domain": 4}


@pytest.mark.parametrize("name", MODELS_OF_ROWS)
def test_any_model_of_rows_may_be_named(name: str, tmp_path: Path) -> None:
    settings = settings_in(tmp_path, model={"name": name})
    model = model_of_rows({"model": settings.model}, fraud.schema({"domain": 4}, settings), ShardedTables())
    assert type(model) is MODELS[name]


def test_amounts_are_told_beside_those_before_them(settings: Settings, spark: SparkSession) -> None:
    """And when on the clock, and whether on a weekend, a case was."""
    examples, cases = held(settings, spark, "examples"), sorted(planted(), key=lambda case: case[1])
    seen: dict[str, list[tuple[datetime, float]]] = {}
    means = {}
    for name, time, _, address, _, amount in cases:
        before = [held for when, held in seen.get(address, []) if when > time - timedelta(days=7)]
        means[name] = sum(before) / len(before) if before and address else 0
        if amount is not None:
            seen.setdefault(address, []).append((time, amount))
    times = {case[0]: case[1] for case in cases}
    for name, row in examples.items():
        hour = times[name].hour + times[name].minute / 60 + times[name].second / 3600
        assert row["address_amount_mean_7d"] == pytest.approx(means[name], rel=1e-4), name
        assert math.atan2(row["hour_sine"], row["hour_cosine"]) % (2 * math.pi) == pytest.approx(
            hour / 24 * 2 * math.pi, abs=1e-3
        )
        assert row["weekend"] == (times[name].weekday() >= 5)


def test_cases_after_a_cut_are_held_out_whole(settings: Settings, spark: SparkSession) -> None:
    after = held(settings, spark, "queries", "split = 'test'")
    assert {*after} == {case[0] for case in planted() if case[1] >= CUT}
    assert any(row["label"] is None for row in after.values())
    between = held(settings, spark, "queries", "split = 'validation'")
    assert {*between} == {case[0] for case in planted() if case[2] is not None and VALIDATION <= case[1] <= CUT - DELAY}


@pytest.mark.slow
def test_frauds_that_were_reported_soon_teach_nothing_yet(spark: SparkSession, tmp_path: Path) -> None:
    """Of cases as young only the frauds have a label."""
    options = {"entities": ["address"], "has": ["case_id", "label_time"], "label_delay_days": 30}
    settings = settings_in(tmp_path, options=options)
    labelled = [(*case, case[1] + (timedelta(days=1) if case[2] else timedelta(days=30))) for case in planted()[:300]]
    rows = spark.createDataFrame(labelled, f"{CASES}, label_time timestamp")
    Tables(spark, settings.tables.root).write("cases", rows, mode="overwrite", job="ingest", inputs={})
    build_examples.run(settings, spark)
    old = {case[0] for case in labelled if case[2] is not None and case[1] + timedelta(days=30) <= CUT}
    assert {*held(settings, spark, "examples")} == old


def test_a_case_that_stands_twice_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    """It would be told what was known of it when it stood there again."""
    settings, cases = settings_in(tmp_path), planted()[:300]
    write(spark, settings, [*cases, (cases[7][0], cases[7][1] + DELAY, True, *cases[7][3:])])
    with pytest.raises(DataError, match=r"a case_id must stand once in table 'cases'; 1 stand more .* as 'case 7';"):
        build_examples.run(settings, spark)


def test_cases_without_ids_are_told_apart_by_all_that_they_hold(spark: SparkSession) -> None:
    """To the microsecond; where there is none, they have the name that JSON gives."""
    time = START + timedelta(milliseconds=5)
    cases = [(time, True, "a"), (time, None, "a"), (time + timedelta(microseconds=1), True, "a"), (time, True, None)]
    held = spark.createDataFrame(cases, "time timestamp, label boolean, address string")
    rows = fraud_on_spark.lines({"cases": held}).collect()
    assert len({row["case_id"] for row in rows}) == len(rows) == 3
    plain = held.select(F.sha2(F.to_json(F.struct("address", "time")), 256)).distinct().collect()
    assert {row[0] for row in plain} < {row["case_id"] for row in rows}


def test_a_model_finds_the_planted_addresses(result: dict[str, Any]) -> None:
    judged = result["protocols"]["after"]
    assert judged["users"] == sum(case[1] >= CUT and case[2] is not None for case in planted())
    assert list(judged["models"])[:3] == [OURS, "past_fraud_rate", "rows_so_far"]
    ours, newness = (judged["models"][name] for name in (OURS, "rows_so_far"))
    assert ours["average_precision"]["value"] > 0.7
    assert ours["auc"]["value"] > 0.85
    assert judged["differences"]["rows_so_far"]["average_precision"]["low"] > 0
    assert ours["log_loss"]["value"] < newness["log_loss"]["value"]
    assert 0.5 < ours["predicted_to_actual"]["value"] < 1.6


@pytest.mark.slow
def test_further_bundles_are_judged_beside_the_latest(
    result: dict[str, Any], trained: Settings, spark: SparkSession, tmp_path: Path
) -> None:
    """One that answers the same differs by nothing; ours twice, and one that is not there, are refused."""
    (ours,) = (Path(trained.run_dir) / "bundles").iterdir()
    held = load_bundle(ours)
    other = write_bundle(
        tmp_path,
        model_name=held.model_name,
        config=held.config,
        schema=held.schema,
        tensors={name: held.tensor(name) for name in held.tensor_names()},
        provenance=held.provenance,
        settings=held.settings,
        metrics={"auc": 0.5},
    )
    asked = trained.evaluation.model_copy(update={"bundles": (str(other.path),)})
    judged = evaluate.run(trained.model_copy(update={"evaluation": asked}), spark)["protocols"]["after"]
    assert list(judged["models"])[:2] == [OURS, other.name]
    assert judged["models"][other.name] == judged["models"][OURS] == result["protocols"]["after"]["models"][OURS]
    assert {judged["differences"][other.name]["auc"][key] for key in ("value", "low", "high")} == {0}
    for folder, problem in ((ours, "would answer twice"), (tmp_path / "none", "no bundle at")):
        wrong = trained.evaluation.model_copy(update={"bundles": (str(folder),)})
        with pytest.raises(BundleError, match=problem):
            evaluate.run(trained.model_copy(update={"evaluation": wrong}), spark)


def test_the_truth_as_an_answer_scores_best(
    result: dict[str, Any], trained: Settings, spark: SparkSession, tmp_path: Path
) -> None:
    tables = Tables(spark, trained.tables.root)
    asked = tables.read("queries").where("split = 'test' AND label IS NOT NULL").withColumnRenamed("case_id", "key")
    answers = asked.selectExpr("'millrace' AS model", "key", "CAST(label AS double) AS p")
    ground = fraud_on_spark.Ground({}, trained, tmp_path)
    truth = fraud_on_spark.judge(ground, asked, answers, [OURS])["models"][OURS]
    assert truth["average_precision"]["value"] == pytest.approx(1)
    assert truth["recall_at_1_percent_false_alarms"]["value"] == pytest.approx(1)


def test_curves_and_examples_are_there_to_look_at(result: dict[str, Any]) -> None:
    models = {*result["protocols"]["after"]["models"]}
    curve, bands = result["curves"]
    assert {*curve["lines"]} == models == {*bands["lines"], "rows_so_far"}
    drawn = result["drawn"]["rows"]
    assert len(drawn) == 10
    assert [p for _, p, _, _ in drawn] == sorted((p for _, p, _, _ in drawn), reverse=True)
    assert "yes" in {fraud for _, _, fraud, _ in drawn}
    assert all(reasons.startswith("address: ") for _, _, _, reasons in drawn)
    assert any(re.search(r"; amount: \d+\.\d\d; mean of 30 days: address \d+\.\d\d$", row[3]) for row in drawn)
    assert ("lightgbm" in result["left_out"]) != ("lightgbm" in result["protocols"]["after"]["models"])


def test_open_cases_are_scored_and_a_second_run_changes_nothing(trained: Settings, spark: SparkSession) -> None:
    moment = START + timedelta(days=100)
    asked = settings_in(Path(trained.run_dir).parent, scoring={"moment": moment})
    summary = score.run(asked, spark)
    rows = held(asked, spark, "fraud_scores")
    assert {*rows} == {
        case[0] for case in planted() if case[1] < moment and (case[2] is None or case[1] + DELAY > moment)
    }
    assert all(0 <= row["p"] <= 1 for row in rows.values())
    alarms = [row["p"] for row in rows.values() if row["alarm"]]
    highest = sorted((row["p"] for row in rows.values()), reverse=True)[: math.ceil(0.1 * len(rows))]
    assert len(alarms) == summary["alarms"]
    assert sorted(alarms, reverse=True)[: len(highest)] == highest
    assert set(alarms) == set(highest)  # further ones are as high as the last
    assert min(alarms) >= max(row["p"] for row in rows.values() if not row["alarm"])
    assert score.run(asked, spark)["up_to_date"]
    assert maker("fraud_scores") == "score"
    (Path(asked.run_dir) / SCORE).unlink()
    in_two = settings_in(Path(trained.run_dir).parent, scoring={"moment": moment, "buckets": 2})
    again = score.run(in_two, spark)  # the limit of alarms is that of all cases
    assert (again["alarms"], again["coverage"]) == (summary["alarms"], 1.0)
    assert "drift" not in again  # answers of the same inputs are not held against themselves
    assert {key for key, row in held(asked, spark, "fraud_scores").items() if row["alarm"]} == {
        key for key, row in rows.items() if row["alarm"]
    }


def test_sql_gives_what_the_model_does(trained: Settings, spark: SparkSession) -> None:
    bundle = latest_bundle(trained.run_dir)
    queries = Tables(spark, trained.tables.root).read("queries")
    queries.createOrReplaceTempView("asked_in_sql")
    assert register(spark, bundle, name="fraud") == "fraud"
    found = spark.sql("SELECT case_id, fraud(struct(*)).p AS p FROM asked_in_sql").collect()
    expected = {row["case_id"]: row["p"] for row in predict(queries, str(bundle), key="case_id").collect()}
    assert {row["case_id"]: row["p"] for row in found} == pytest.approx(expected, rel=1e-5)
    with pytest.raises(PythonException, match=r"the struct lacks .*amount.*, and has domain: name the fields so"):
        spark.sql("SELECT fraud(struct(1L AS domain)) FROM asked_in_sql").collect()
    with pytest.raises(SettingsError, match=r"tables must be left out for bundle .*: it answers rows"):
        register(spark, bundle, tables=trained.tables.root)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"entities": ["label"]}, "names must differ"),
        ({"entities": []}, "at least 1"),
        ({"means": ["amount"]}, "means has 'amount', which numbers has not; name it there too"),
        ({"delay": 3}, "delay"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        settings_in(tmp_path, options=options)


def test_validation_counts_what_a_model_ranks_right(settings: Settings) -> None:
    """On one rank: of the cases held out at the validation cut, by a model that knows which addresses are bad."""
    spec = learn_spec(settings, splits=("train",), validate=True)
    columns = Schema.from_json(spec["schema"])

    class Knowing(torch.nn.Linear):
        right = True

        def predict(self, batch: Batch) -> dict[str, torch.Tensor]:
            rate = batch["address_rate"]
            assert isinstance(rate, torch.Tensor)
            return {"p": rate if self.right else 1 - rate}

    validate, model = fraud.validation(spec, columns, World()), Knowing(1, 1)
    assert validate is not None
    found = validate(model)
    model.right = False
    wrong = validate(model)
    assert set(found) == set(TASKS["fraud"].metrics)
    assert found["auc"] > 0.85
    assert found["auc"] + wrong["auc"] == pytest.approx(1, abs=0.02)
    assert found["average_precision"] > 2 * wrong["average_precision"]
    assert fraud.validation(spec | {"validate": False}, columns, World()) is None


def test_what_answers_are_calibrated_by_is_left_out_of_the_training(
    trained: Settings, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a start that had seen it is refused, as are 80 cases."""
    asked = trained.model_copy(update={"model": {**trained.model, "calibration": "isotonic"}})
    with pytest.raises(SettingsError, match=r"model.calibration=isotonic needs 100 validation rows.*'label' has"):
        train.run(asked, spark)
    begun = {"start_from": str(latest_bundle(trained.run_dir))}
    with pytest.raises(SettingsError, match="learnt from nothing behind the validation cut"):
        train.run(asked.model_copy(update={"training": trained.training.model_copy(update=begun)}), spark)
    told: list[dict[str, Any]] = []

    def started(settings: Settings, spec: dict[str, Any], *_: Any, **__: Any) -> None:
        told.append(spec)
        raise InterruptedError

    monkeypatch.setattr(train, "start", started)
    with pytest.raises(InterruptedError):
        train.run(asked, spark)
    [spec] = told
    assert spec["tables"]["examples"]["partitions"] == {"piece": spec["build"]["pieces"]["train"]}
    assert spec["tables"]["queries"]["partitions"] == {"split": ["validation"]}
