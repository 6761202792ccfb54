"""Orders through the job, from planted forecasts: as worked out by hand, and what is wrong is told by series."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import answers, plan_stock, simulate
from jobs.artefacts import LATEST, write_json
from jobs.given import Given, given
from jobs.page.stock import Drawn
from jobs.settings import Settings, load_settings
from jobs.stock import checks
from jobs.stock import inputs as stock_inputs
from jobs.stock.inputs import tables_of
from jobs.tables import Tables
from jobs.task import Task
from jobs.tasks import TASKS
from spark_udfs.simulated.counts import quantile
from spark_udfs.simulated.planted import planted
from spark_udfs.simulated.stock import PRODUCT_ARRIVALS, PRODUCT_STOCK
from tests.spark_udfs.bundles import quantile_bundle
from training.errors import DataError, SettingsError, TableError, TooManyBadRows

PIPELINES = Path(__file__).resolve().parents[2] / "jobs" / "pipelines"
MOMENT = datetime(2025, 9, 1, tzinfo=UTC)
STEPS, LEVELS = 3, (0.1, 0.5, 0.9)
OTHERS = dict.fromkeys(
    [*(f"s{number:02}" for number in range(13)), "twice", "nan", "falls", "few", "owes", "high"], 2.0
)
MEANS = {"small": 2.0, "large": 40.0, "other": 40.0, **OTHERS}
TASK: Task = TASKS["demand"]
COLUMNS = "series_id,on_hand,lead,pack,shelf,min_order,unit_cost,price,service,order_cost,holding_cost"
GOOD = ["small,1,1,,,,10,,.9,,", "large,20,0,12,60,,2,3,,,", "other,20,1,,,,2,,,5,.1"]
COMING = ["series_id,arrives,quantity", "other,2025-09-03 10:00:00,7", "other,2026-01-01 00:00:00,1000"]


def settings_of(root: Path, **stock: Any) -> Settings:
    places = {"levels": {"path": str(root / "stock.csv")}, "on_order": {"path": str(root / "coming.csv")}}
    values = {"task": "demand", "tables": {"root": str(root / "tables")}, "run_dir": str(root / "run")}
    return Settings.model_validate({**values, "stock": {"correlation": 0.0, **places, **stock}})


def lenient(root: Path) -> Settings:
    settings = settings_of(root)
    return settings.model_copy(update={"tables": settings.tables.model_copy(update={"quarantine_limit": 1.0})})


def write(root: Path, rows: list[str], coming: list[str] = COMING) -> None:
    for name, lines in (("stock.csv", [COLUMNS, *rows]), ("coming.csv", coming)):
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def forecast(series: str, step: int) -> tuple[Any, ...]:
    mean = MEANS[series]
    held = [float(quantile(mean, 0.0, level)[0]) for level in LEVELS]  # type: ignore[arg-type]
    held = {"nan": [1.0, float("nan"), 3.0], "falls": [3.0, 2.0, 1.0], "high": [0.0, 2.0, 21.0]}.get(series, held)
    return series, 1, step, MOMENT + timedelta(weeks=step - 1), held, mean


@pytest.fixture(scope="module")
def root(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle's published forecasts, and stock of three series."""
    root = tmp_path_factory.mktemp("stock")
    bundle = quantile_bundle(root / "run" / "bundles", LEVELS, STEPS)
    write_json(str(root / "run"), LATEST, {"bundle": bundle.name, "identity": "planted", "summary": {}})
    rows = [forecast(series, step) for series in MEANS for step in range(1, STEPS + 1) if series != "few" or step < 3]
    kinds = "series_id string, series bigint, step int, period timestamp, quantiles array<float>, mean float"
    tables = Tables(spark, str(root / "tables"))
    answers.write(tables, TASK, spark.createDataFrame(rows, kinds), (), bundle.name, MOMENT, {"planted": 1})
    write(root, GOOD)
    return root


@pytest.fixture(scope="module")
def planned(spark: SparkSession, root: Path) -> dict[str, Any]:
    return plan_stock.run(settings_of(root), spark)


def orders(spark: SparkSession, root: Path) -> dict[str, Any]:
    rows = Tables(spark, str(root / "tables")).read("orders").collect()
    return {row["series_id"]: row for row in rows}


def test_orders_are_those_worked_out_by_hand(spark: SparkSession, root: Path, planned: dict[str, Any]) -> None:
    made = orders(spark, root)
    assert (planned["series"], planned["problems"], planned["price_of_money"]) == (3, {}, 0.0)
    small = made["small"]  # 1 on hand, lost sales: of the first week's count of mean 2 little or nothing is left
    assert (small["policy"], small["quantity"], str(small["arrives"])) == ("base stock", 4, "2025-09-08 00:00:00")
    assert small["level"] == pytest.approx(0.9)
    assert small["expected_service"] >= 0.9
    assert small["money"] == 40
    large = made["large"]  # earns 1, costs .01 to hold: the quantile .99 of 40 is 55; 35 more in packs of 12 are 36
    assert (large["quantity"], large["cut_by"], str(large["arrives"])) == (36, ["pack"], "2025-09-01 00:00:00")
    assert large["level"] == pytest.approx(1 / 1.01)
    assert "whole packs of 12" in large["reason"]
    other = made["other"]
    assert (other["policy"], other["position"]) == ("(s, S)", 27)
    assert other["order_up_to"] - other["reorder_at"] > 40  # a batch: an order costs as much as 50 pieces a week
    assert "demand until the next order's arrival is 80.0" in other["reason"]
    assert planned["money"] == sum(row["money"] for row in made.values())
    page = Path(planned["page"]).read_text()
    assert "large" in page


@pytest.mark.slow
def test_a_second_run_changes_nothing_and_other_stock_replaces_all(
    spark: SparkSession, root: Path, planned: dict[str, Any]
) -> None:
    again = plan_stock.run(settings_of(root), spark)
    assert again == planned | {"up_to_date": True}
    money = planned["money"]
    cut = plan_stock.run(settings_of(root, budget=money / 2), spark)
    assert money / 4 < cut["money"] <= money / 2
    assert cut["price_of_money"] > 0
    made = orders(spark, root)
    assert len(made) == 3
    assert any("budget" in row["cut_by"] for row in made.values())
    assert plan_stock.run(settings_of(root, budget=money * 2), spark)["money"] == money


NO_QUANTILES = "quantiles and mean of each step must be there, finite, not below 0 and not fall"
BAD = {
    "s00,,1,,,,10,,,,": ("a value is missing or of another type", "on_hand is missing"),
    "s01,-1,1,,,,10,,,,": ("on_hand must be 0 or more", "-1.0"),
    "s02,NaN,1,,,,10,,,,": ("a value is missing or of another type", "on_hand is no double"),
    "s03,1,1.5,,,,10,,,,": ("lead must be 0 or more whole periods", "1.5"),
    "s04,1,3,,,,10,,,,": ("lead and review must lie within the 3 periods that are forecast", "lead 3, review 1"),
    "s05,1,1,0,,,10,,,,": ("pack must be 1 or more", "0.0"),
    "s06,1,1,1.5,,,10,,,,": ("pack must be a whole number", "1.5"),
    "s07,1,1,,-2,,10,,,,": ("shelf must be 0 or more", "-2.0"),
    "s08,1,1,,,,10,,1,,": ("service must lie between 0 and 1", "1.0"),
    "s09,1,1,,,,,12,,,": ("price and salvage need a unit_cost", "price 12.0, salvage none"),
    "s10,1,1,,,,,,,,": ("a piece too many must cost something: holding_cost, or unit_cost (less salvage)", None),
    "s11,1,1,,,,10,9,,,": ("what a piece earns must be above 0", "-1.0"),
    "nobody,1,1,,,,10,,,,": ("there is no forecast of the series", ""),
    "nan,1,1,,,,10,,,,": (NO_QUANTILES, "3 steps"),
    "falls,1,1,,,,10,,,,": (NO_QUANTILES, "3 steps"),
    "few,1,1,,,,10,,,,": (NO_QUANTILES, "2 steps"),
    "high,1,1,,,,10,,,,": (
        "a quantile must be one that demand of the step's mean can have, mean / (1 - level) at most",
        "[2.0, 2.0, 2.0]",
    ),
    "s13,1,1,,,,10,,,1e308,": ("order_cost must be below 1e+12", "1.0E308"),
    "s12,1,1,,,,10,,,,-1": ("holding_cost must be 0 or more", "-1.0"),
    "owes,1,1,,,,10,,,,": ("what is on its way must have its values, and a quantity of 0 or more", "quantity -3.0"),
    **dict.fromkeys(["twice,1,1,,,,10,,,,"], ("the series has several rows", "2")),
}


def test_what_no_order_can_be_made_of_is_told(spark: SparkSession, root: Path) -> None:
    """All at once; a series with two rows has both of them there."""
    write(root, [*BAD, "twice,3,1,,,,10,,,,", *GOOD[:1]], [*COMING, "owes,2025-09-09 00:00:00,-3"])
    settings = settings_of(root)
    said = r"no order can be made of 21 of 23 rows .*over tables\.quarantine_limit 0\.05: .*series 's01' has -1\.0 in"
    with pytest.raises(TooManyBadRows, match=said):
        plan_stock.run(settings, spark)
    made = plan_stock.run(lenient(root), spark)
    found = Tables(spark, str(root / "tables")).read("order_problems").collect()
    assert {(row["series_id"], row["problem"], row["value"]) for row in found} == {
        (line.split(",")[0], *told) for line, told in BAD.items()
    }
    assert len(found) == len(BAD) + 1 == sum(made["problems"].values())
    assert made["series"] == 1
    assert all(json.loads(row["row"])["series_id"] == row["series_id"] for row in found)


@pytest.mark.slow
def test_who_planned_on_other_tables_meanwhile_is_not_undone(
    spark: SparkSession, root: Path, planned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, GOOD)
    tables, counted = Tables(spark, str(root / "tables")), checks.counted

    def while_another_writes(*given: Any) -> dict[str, int]:
        since, same = tables.version("orders"), tables.read("orders").limit(0)
        tables.write("orders", same, mode="append", job=plan_stock.JOB, inputs={"another": 1}, since=since)
        return counted(*given)

    monkeypatch.setattr(checks, "counted", while_another_writes)
    with pytest.raises(TableError, match=r"'orders' .* was changed by another writer while `plan_stock` wrote to it"):
        plan_stock.run(settings_of(root, service=0.5), spark)


def test_where_the_moment_lies_inside_the_first_period_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    late: Any = SimpleNamespace(moment=MOMENT + timedelta(days=2), starts=[MOMENT])
    plan_stock._tell_start(late)
    assert "inside their first period, which began at 2025-09-01T00:00:00+00:00" in capsys.readouterr().err
    plan_stock._tell_start(SimpleNamespace(moment=MOMENT, starts=[MOMENT]))  # type: ignore[arg-type]
    assert "inside" not in capsys.readouterr().err


def test_what_is_owed_is_drawn_below_nothing() -> None:
    drawn = Drawn({}, -50.0, 1, [0.0, 0.0], [10.0, 10.0], lost=False)
    assert drawn.stock(60) == [-60.0, -10.0]
    assert drawn._replace(lost=True, on_hand=5.0).stock(60) == [0.0, 50.0]


def test_what_is_no_plan_at_all_is_refused(spark: SparkSession, root: Path) -> None:
    write(root, ["nobody,1,1,,,,10,,,,"])
    with pytest.raises(DataError, match=r"none of the 1 series of stock.levels .* has a forecast, e.g. 'nobody'"):
        plan_stock.run(settings_of(root), spark)
    write(root, ["nobody,1,1,,,,10,,,,", "s00,,1,,,,10,,,,"])
    with pytest.raises(DataError, match=r"none of the 2 rows .*a value is missing or of another type .1.; there is no"):
        plan_stock.run(lenient(root), spark)
    write(root, GOOD[:2])
    with pytest.raises(DataError, match=r"none of its 2 rows is, e.g. that of 'other': correct stock.on_order.columns"):
        plan_stock.run(settings_of(root), spark)
    write(root, GOOD, [*COMING, ",2025-09-09 00:00:00,3"])
    with pytest.raises(DataError, match=r"each row of stock.on_order .* must have a series_id; 1 have none"):
        plan_stock.run(settings_of(root), spark)
    with pytest.raises(DataError, match=r"stock.moment is 2025-09-02T.* has forecast as of 2025-09-01T00:00:00"):
        plan_stock.run(settings_of(root, moment="2025-09-02"), spark)
    elsewhere = settings_of(root).model_dump(exclude_unset=True) | {"tables": {"root": str(root / "none")}}
    with pytest.raises(TableError, match=r"there are no forecasts at .*none/forecasts; run `millrace score` first"):
        plan_stock.run(Settings.model_validate(elsewhere), spark)
    lists = Settings.model_validate({**settings_of(root).model_dump(exclude_unset=True), "task": "recommend"})
    with pytest.raises(
        SettingsError, match=r"'recommend' answers without .*quantiles.*: set task to one that forecasts"
    ):
        plan_stock.run(lists, spark)


def test_a_bundle_that_has_not_forecast_and_a_table_without_rows_are_refused(
    spark: SparkSession, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = json.loads((root / "run" / LATEST).read_text())
    other = quantile_bundle(root / "run" / "bundles", (0.2, 0.5), STEPS)
    write_json(str(root / "run"), LATEST, held | {"bundle": other.name})
    with pytest.raises(DataError, match=rf"'{other.name}' must have forecast .* run `millrace score`"):
        plan_stock.run(settings_of(root), spark)
    write_json(str(root / "run"), LATEST, held)
    monkeypatch.setattr(stock_inputs, "COUNTS", "a_count")
    with pytest.raises(DataError, match=r"model.head 'a_count' forecasts; '.*' has 'negative_binomial', whose mean"):
        plan_stock.run(settings_of(root), spark)
    rows = spark.createDataFrame([], "series_id string, problem string, problem_value string, row string")
    source: Any = SimpleNamespace(name="stock.csv")
    with pytest.raises(DataError, match=r"'stock.csv' holds no rows; name the series' stock"):
        checks.counted(rows, Given(source, source, rows), 0.05)


@pytest.mark.slow
def test_the_simulated_shops_stock_is_read_where_no_other_is_named(spark: SparkSession, tmp_path: Path) -> None:
    """By the pipeline's own settings; with a place for the stock nothing simulated is on its way to it."""
    flags = [f"tables.root={tmp_path}/tables", "shop.items=20", "shop.days=30"]
    settings = load_settings(PIPELINES / "demand_shop.yaml", flags)
    for table in (PRODUCT_STOCK, PRODUCT_ARRIVALS):
        rows = planted(table, spark.range(20), settings.shop)
        simulate.raw_tables(settings, spark).write(table.name, rows, mode="overwrite", job="simulate", inputs={})
    held = given(settings, spark, "stock", tables_of(settings))
    for name, kinds in {"levels": "lead double", "on_order": "arrives timestamp"}.items():
        rows = held[name].rows
        assert rows.count() == rows.where("reason IS NULL AND series_id LIKE 'P%'").count() > 0
        assert kinds in {" ".join(column) for column in rows.dtypes}
    write(tmp_path, GOOD)
    own = settings_of(tmp_path, on_order={})
    assert list(given(own, spark, "stock", tables_of(own))) == ["levels"]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("stock.budget=0", "stock.budget: Input should be greater than 0 .value 0."),
        ("stock.service=1", "stock.service: Input should be less than 1 .value 1."),
        ("stock.unmet=kept", "stock.unmet: Input should be 'lost' or 'waits' .value 'kept'."),
        ("stock.review=0", "stock.review: Input should be greater than or equal to 1 .value 0."),
    ],
)
def test_settings_are_refused(flag: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_settings(None, [flag])
