"""Plans of a simulated shop's campaigns, made and made again from feedback; what cannot be planned with is told."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import plan_ads, simulate
from jobs.ads import checks
from jobs.ads.inputs import BUDGETS, TABLES
from jobs.given import Given, given
from jobs.settings import Settings, load_settings
from jobs.tables import Tables
from spark_udfs.simulated.planted import planted
from spark_udfs.simulated.scenes import SCENES
from training.errors import DataError, SchemaError, SettingsError

CAMPAIGNS, STEPS, DAY = 4, 24, date(2025, 3, 2)
SHOP = {"users": 300, "items": 40, "days": 60, "tastes": 2, "start": "2025-01-01"}


def settings_of(root: Path, **ads: Any) -> Settings:
    return Settings.model_validate(
        {
            "tables": {"root": str(root / "tables")},
            "run_dir": str(root / "run"),
            "shop": SHOP,
            "ads": {"step_minutes": 60, **ads},
        }
    )


@pytest.fixture(scope="module")
def root(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop's opportunities and budgets, and one plan."""
    root = tmp_path_factory.mktemp("ads")
    settings, raw = settings_of(root), simulate.raw_tables(settings_of(root), spark)
    for table in SCENES["pacing"]:
        rows = planted(table, spark.range(table.units(settings.shop)), settings.shop)
        raw.write(table.name, rows.coalesce(2), mode="overwrite", job="simulate", inputs={})
    plan_ads.run(settings_of(root), spark)
    return root


def rows_of(spark: SparkSession, root: Path, table: str) -> Any:
    return Tables(spark, str(root / "tables")).read(table).orderBy("campaign_id").toPandas()


def test_a_day_is_planned_once(spark: SparkSession, root: Path) -> None:
    again = plan_ads.run(settings_of(root), spark)
    assert again["up_to_date"]
    assert (again["day"], again["first_step"], again["days"]) == (str(DAY), 0, 2)
    assert sum(again["bound_by"].values()) == again["campaigns"] == CAMPAIGNS
    steps, outlook = rows_of(spark, root, "ads_plan"), rows_of(spark, root, "ads_outlook")
    assert len(steps) == CAMPAIGNS * STEPS
    assert (outlook["spend"] <= outlook["budget"] * (1 + 1e-6)).all()
    assert (outlook["spend_low"] <= outlook["spend"]).all()
    assert steps.groupby("campaign_id")["spend"].sum().to_numpy() == pytest.approx(outlook["spend"].to_numpy())
    assert str(steps["starts"].min()) == "2025-03-02 00:00:00"
    assert outlook["campaign_id"][0] in Path(again["page"]).read_text()


@pytest.mark.slow
def test_feedback_changes_the_steps_to_come(spark: SparkSession, root: Path) -> None:
    """Half the budget is gone in the first hour: the rest of the day is bid for with less, and the hour stays."""
    before, outlook = rows_of(spark, root, "ads_plan"), rows_of(spark, root, "ads_outlook")
    told = [(row.campaign_id, "2025-03-02 00:30:00", row.budget / 2, 3.0) for row in outlook.itertuples()]
    path = root / "feedback.csv"
    lines = ["campaign_id,time,spend,expected", *(",".join(map(str, row)) for row in told)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    summary = plan_ads.run(settings_of(root, feedback={"path": str(path)}), spark)
    assert summary["first_step"] == 1
    after, held = rows_of(spark, root, "ads_plan"), rows_of(spark, root, "ads_outlook")
    assert len(after) == len(before)
    kept = after[after["step"] == 0].set_index("campaign_id")["of_value"]
    assert kept.equals(before[before["step"] == 0].set_index("campaign_id")["of_value"])
    assert (held["spend"] <= held["budget"] / 2 * (1 + 1e-6)).all()
    assert (held["budget_multiplier"].to_numpy() >= outlook["budget_multiplier"].to_numpy()).all()
    path.write_text(
        "\n".join(lines[:1] + [line.replace(" 00:", " 23:") for line in lines[1:]]) + "\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"reaches to the last step of 2025-03-02: name the next day in ads\.day"):
        plan_ads.run(settings_of(root, feedback={"path": str(path)}), spark)


def test_a_table_without_currency_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "budgets.csv"
    path.write_text("campaign_id,budget\nA,10\n", encoding="utf-8")
    asked = settings_of(tmp_path, budgets={"path": str(path)}, opportunities={"path": str(path)})
    with pytest.raises(
        SchemaError, match=r"no column .*'currency' \(our currency\).*Correct ads\.opportunities\.columns"
    ):
        given(asked, spark, "ads", TABLES)


def test_a_mapping_of_no_column_is_refused(tmp_path: Path) -> None:
    asked = settings_of(tmp_path, budgets={"path": "budgets.csv", "columns": {"targett": "cpa"}})
    with pytest.raises(
        SettingsError, match=r"ads\.budgets\.columns has the unknown name 'targett'; it may name .*target"
    ):
        given(asked, cast("SparkSession", None), "ads", TABLES)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("ads.price_rule=third", "ads.price_rule: Input should be 'second' or 'first' .value 'third'."),
        ("ads.step_minutes=50", "must be a whole number of steps; set 15, 30 or 60 .value 50."),
        ("ads.day=20250302", "must be a day or a time"),
    ],
)
def test_settings_are_refused(flag: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_settings(None, [flag])


def held(spark: SparkSession, name: str, schema: str, rows: list[tuple[Any, ...]]) -> Given:
    source: Any = SimpleNamespace(name=f"{name}.csv")
    frame = spark.createDataFrame(rows, schema).withColumns({"row": F.lit("{}")})
    return Given(source, source, frame)


TERMS = "campaign_id string, budget double, target double, currency string, reason string"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("A", 0.0, None, "EUR", None)], r"a budget must be above 0; campaign 'A' has 0\.0 in ads\.budgets"),
        ([("A", -3.0, None, "EUR", None)], r"campaign 'A' has -3\.0 .* leave the campaign out"),
        ([("A", 1.0, 0.0, "EUR", None)], r"a target must be above 0; campaign 'A' has 0\.0"),
        ([("A", 1.0, None, None, "currency is missing")], "campaign 'A' has currency is missing in"),
        ([("A", 1.0, None, "EUR", None)] * 2, "must have one row in ads.budgets 'budgets.csv'; 'A' has 2: keep one"),
        ([], "'budgets.csv' holds no rows; name the campaigns' budgets"),
    ],
)
def test_budgets_that_are_none_are_refused(spark: SparkSession, rows: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        checks.budgets(held(spark, BUDGETS, TERMS, rows))


SEEN = (
    "campaign_id string, day_ string, step int, probability double, value double, price double, bid double, "
    "won boolean, currency string, reason string"
)
GOOD = ("A", "2025-03-01", 0, 0.1, 2.0, 0.5, None, None, "EUR", None)


def but(**changed: Any) -> tuple[Any, ...]:
    names = [part.split()[0] for part in SEEN.split(", ")]
    return tuple((dict(zip(names, GOOD, strict=True)) | changed).values())


def of_days(spark: SparkSession, rows: list[tuple[Any, ...]], rule: str = "second") -> checks.Days:
    found = held(spark, "opportunities", SEEN, rows)
    timed = found._replace(rows=found.rows.withColumn("time", F.to_timestamp("day_")))
    terms = spark.createDataFrame([("A", "EUR")], "campaign_id string, currency string")
    return checks.opportunities(timed, terms, 2, rule)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (but(probability=1.2), r"a probability must lie from 0 to 1; campaign 'A' has 1\.2 in ads\.opportunities"),
        (but(probability=-0.1), r"campaign 'A' has -0\.1 .* correct what scored it"),
        (but(probability=None, reason="probability is no double"), "campaign 'A' has probability is no double in"),
        (but(value=-1.0), r"value must not lie below 0; campaign 'A' has -1\.0"),
        (but(price=-1.0), r"price must not lie below 0; campaign 'A' has -1\.0"),
        (but(price=None), "there must be a bid above 0, and whether it won; campaign 'A' has bid none, won none"),
        (but(currency="USD"), "in the currency of the campaign's budget; campaign 'A' has USD and a budget in EUR"),
        (GOOD, r"must cover whole days in UTC; 2025-03-01 .* none in the 720 minutes from 12:00: give all of the day"),
    ],
)
def test_opportunities_that_no_day_is_planned_by_are_refused(spark: SparkSession, row: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        of_days(spark, [row])


def test_days_are_counted_and_strangers_told(spark: SparkSession) -> None:
    rows = [but(day_=day, step=step) for day in ("2025-03-01", "2025-03-02") for step in (0, 1)]
    assert of_days(spark, [*rows, but(campaign_id="Z")]) == checks.Days((date(2025, 3, 1), DAY), 4, 1)
    with pytest.raises(DataError, match=r"a price must be above 0; campaign 'A' has 0\.0 .* give bid and won"):
        of_days(spark, [but(price=0.0)], "first")
    with pytest.raises(
        DataError, match=r"'opportunities.csv' holds no rows of days before .* name scored opportunities"
    ):
        of_days(spark, [])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("A", "2025-03-02", 11.1, 1.0), r"10% more than its budget at most; 'A' has spent 11\.1 of 10 by ads"),
        (("A", "2025-03-01", 1.0, 1.0), "of the day that is planned, 2025-03-02; campaign 'A' has 2025-03-01 00:00:00"),
        (("B", "2025-03-02", 1.0, 1.0), "of campaigns that have a budget; campaign 'B' has none"),
        (("A", "2025-03-02", -1.0, 1.0), r"spend must not lie below 0; campaign 'A' has -1\.0"),
    ],
)
def test_feedback_that_cannot_be_is_refused(spark: SparkSession, row: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        _check_feedback(spark, row)


def test_a_campaign_that_spent_a_little_too_much_holds_no_plan_up(
    spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    _check_feedback(spark, ("A", "2025-03-02", 10.4, 1.0))
    said = " ".join(capsys.readouterr().err.split())
    assert "1 campaigns have spent more than their budget and bid no more; 'A' has spent 10.4 of 10" in said


def _check_feedback(spark: SparkSession, row: Any) -> None:
    found = held(spark, "feedback", "campaign_id string, day_ string, spend double, expected double", [row])
    none = {"actions": F.lit(None).cast("double"), "opportunities": F.lit(1.0), "reason": F.lit(None).cast("string")}
    rows = found.rows.withColumns(none | {"time": F.to_timestamp("day_")})
    terms = spark.createDataFrame([("A", 10.0)], "campaign_id string, budget double")
    checks.feedback(found._replace(rows=rows), terms, DAY)
