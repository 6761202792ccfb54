"""Demand through the jobs, on a planted world: sales that grow by the week, which a mean of late cannot follow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import build_examples, builds, evaluate, score, train
from jobs.learn_spec import learn_spec
from jobs.settings import Settings, load_settings
from jobs.tables import Tables
from jobs.tasks import TASKS, demand
from spark_udfs.baselines.panel_classic import poisson_quantiles
from spark_udfs.pieces import FIRST
from training.batch import Batch
from training.errors import SettingsError
from training.schema import Schema
from training.world import World

START = datetime(2025, 1, 6, tzinfo=UTC)
SERIES, WEEKS, HORIZON, CUT = 40, 36, 4, 32
GROWTH = 0.04  # a week
LATE = "late one"
LEVELS = [0.1, 0.5, 0.9]
MODELS = {"millrace", "mean_of_26", "seasonal_naive", "median_of_13"}


def week(number: int) -> datetime:
    return START + timedelta(weeks=number)


def planted() -> list[tuple[str, datetime, float]]:
    rng = np.random.default_rng(0)
    base = rng.uniform(2, 12, SERIES)
    rows = [
        (f"P{series}", week(at), float(rng.poisson(base[series] * np.exp(GROWTH * at))))
        for series in range(SERIES)
        for at in range(WEEKS)
    ]
    return [*rows, *((LATE, week(at), 3.0) for at in (CUT + 1, CUT + 3))]


def settings_of(folder: Path, **sections: Any) -> Settings:
    values: dict[str, Any] = {
        "task": "demand",
        "tables": {"root": str(folder / "tables")},
        "run_dir": str(folder / "run"),
        "options": {"ids": True, "horizon": HORIZON, "lags": 26, "quantiles": LEVELS},
        "examples": {"test_from": week(CUT), "validation_days": 7 * HORIZON, "rows_per_group": 200},
        "model": {
            "name": "quantile_mlp",
            "head": "negative_binomial",
            "levels": LEVELS,
            "hidden": [16],
            "dropout": 0.0,
        },
        "training": {"ranks": 1, "epochs": 30, "batch_size": 128, "learning_rate": 0.01, "schedule": "cosine"},
        "evaluation": {"bootstrap": 200},
    }
    return Settings.model_validate(values | sections)


@pytest.fixture(scope="module")
def settings(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The world, built and trained."""
    settings = settings_of(tmp_path_factory.mktemp("demand"))
    sales = spark.createDataFrame(planted(), "series_id string, time timestamp, quantity double")
    Tables(spark, settings.tables.root).write("sales", sales, mode="overwrite", job="ingest", inputs={})
    build_examples.run(settings, spark)
    train.run(settings, spark)
    return settings


@pytest.fixture(scope="module")
def judged(spark: SparkSession, settings: Settings) -> dict[str, Any]:
    return evaluate.run(settings, spark)


def test_examples_have_the_schema_and_no_target_after_a_cut(spark: SparkSession, settings: Settings) -> None:
    tables = Tables(spark, settings.tables.root)
    build = builds.published(tables)
    examples = tables.read("examples", build["versions"]["examples"])
    wanted = TASKS["demand"].schema({"series": SERIES + 1}, settings)
    assert build["schema"] == wanted.to_json()
    assert set(wanted.names) <= set(examples.columns)
    last = examples.select(
        "piece", (F.unix_date(F.to_date("time")) + 7 * F.expr("size(filter(known, k -> k > 0))")).alias("until")
    )
    until = {row["piece"]: row["until"] for row in last.groupBy("piece").agg(F.max("until").alias("until")).collect()}
    first = (START - datetime(1970, 1, 1, tzinfo=UTC)).days
    assert until[FIRST] == first + 7 * (CUT - HORIZON)
    assert examples.where("time >= '2025-08-18'").count() == 0  # the test cut
    assert LATE not in {row["id"] for row in tables.read("vocabulary_series").collect()}


def test_it_beats_what_cannot_follow_and_the_baselines_are_right(judged: dict[str, Any]) -> None:
    protocol = judged["protocols"]["next"]
    assert protocol["users"] == SERIES
    assert set(protocol["models"]) | set(judged["left_out"]) == MODELS | {"auto_ets"}
    assert set(protocol["models"]) >= MODELS
    wql = {name: metrics["wql"]["value"] for name, metrics in protocol["models"].items()}
    assert wql["millrace"] < min(value for name, value in wql.items() if name != "millrace")
    assert protocol["differences"]["mean_of_26"]["wql"]["high"] < 0
    assert abs(protocol["models"]["millrace"]["bias"]["value"]) < 0.1
    assert 0.7 <= protocol["models"]["millrace"]["coverage_80"]["value"] <= 0.95
    sold: dict[str, list[float]] = {}
    for series, _, quantity in planted():
        sold.setdefault(series, []).append(quantity)
    sold.pop(LATE)
    panel = np.array(list(sold.values()))
    mean, then = panel[:, CUT - 26 : CUT].mean(axis=1), panel[:, CUT : CUT + HORIZON]
    error = then[..., None] - poisson_quantiles(mean, LEVELS)[:, None]
    level = np.array(LEVELS)
    wanted = 2 * np.maximum(level * error, (level - 1) * error).mean(axis=2).sum() / then.sum()
    assert wql["mean_of_26"] == pytest.approx(wanted)
    assert protocol["models"]["mean_of_26"]["mae_of_mean"]["value"] == pytest.approx(
        np.abs(then - mean[:, None]).mean()
    )


def test_what_people_look_at(judged: dict[str, Any], spark: SparkSession, settings: Settings) -> None:
    assert len(judged["panels"]) == 10
    one = judged["panels"][0]
    weeks = ["2025-08-18", "2025-08-25", "2025-09-01", "2025-09-08"]
    assert [day for day, _ in one["truth"]] == weeks
    assert {level: [day for day, _ in points] for level, points in one["quantiles"].items()} == dict.fromkeys(
        ("0.1", "0.5", "0.9"), weeks
    )
    assert one["history"][-1][0] == "2025-08-11"
    quantities = [quantity for series, _, quantity in planted() if series == one["name"]]
    assert [sold for _, sold in one["history"]] == quantities[CUT - 26 : CUT]
    assert [sold for _, sold in one["truth"]] == quantities[CUT:]
    by_step = judged["protocols"]["next"]["by_step"]
    assert set(by_step) >= MODELS
    assert {len(points) for points in by_step.values()} == {HORIZON}
    assert len(judged["drawn"]["rows"]) == 10
    assert evaluate.run(settings, spark)["up_to_date"]


def test_scores_are_of_every_series_and_a_second_run_changes_nothing(spark: SparkSession, settings: Settings) -> None:
    made = score.run(settings, spark)
    assert (made["series"], made["unknown_series"], made["rows"]) == (SERIES + 1, 1, (SERIES + 1) * HORIZON)
    rows = Tables(spark, settings.tables.root).read("forecasts").collect()
    assert {row["period"].date() for row in rows} == {week(WEEKS + step).date() for step in range(HORIZON)}
    for row in rows:
        assert len(row["quantiles"]) == len(LEVELS)
        assert list(row["quantiles"]) == sorted(row["quantiles"])
        assert row["quantiles"][0] <= row["mean"] <= row["quantiles"][-1]
        assert row["period"].date() == week(WEEKS + row["step"] - 1).date()
    known = {row["series_id"]: row["series"] for row in rows}
    assert known[LATE] == 0
    assert 0 not in {series for name, series in known.items() if name != LATE}
    assert score.run(settings, spark)["up_to_date"]


def test_levels_of_the_model_must_be_those_of_the_task(spark: SparkSession, settings: Settings) -> None:
    model = settings.model | {"levels": (0.5,)}
    with pytest.raises(SettingsError, match=r"model\.levels must be options\.quantiles, \[0\.1, 0\.5, 0\.9\]"):
        train.run(settings.model_copy(update={"model": model}), spark)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("options.horizons=3", "did you mean 'horizon'"),
        ("options.quantiles=[0.9,0.5]", "quantiles must ascend, with 0.5 among them"),
        ("options.quantiles=[0.1,0.9]", "quantiles must ascend, with 0.5 among them"),
        ("options.period=month", "day"),
    ],
)
def test_wrong_options_are_refused(flag: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(None, ["task=demand", flag])


def test_validation_gives_0_to_nothing_forecast_and_1_to_the_truth(settings: Settings) -> None:
    spec = learn_spec(settings, splits=("train",), validate=True)
    validate = demand.validation(spec, Schema.from_json(spec["schema"]), World())
    assert validate is not None
    assert validate(Says(0.0))["skill"] == pytest.approx(0)
    assert validate(Says(1.0))["skill"] == pytest.approx(1)


class Says(torch.nn.Module):
    """Answers a share of the truth."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = torch.nn.Parameter(torch.tensor(share))

    def predict(self, batch: Batch) -> dict[str, torch.Tensor]:
        truth = torch.as_tensor(batch["target"])
        return {"quantiles": (truth * self.share)[..., None].expand(*truth.shape, len(LEVELS))}
