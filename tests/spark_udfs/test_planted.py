"""What every table of every scene of the simulated shop keeps: rows by number alone, columns as on its page."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.settings_sections import SimulateSettings
from spark_udfs.simulated import bayes
from spark_udfs.simulated.planted import Planted, planted
from spark_udfs.simulated.scenes import SCENES
from spark_udfs.simulated.shop import Shop

SHOP = Shop(users=60, items=40, days=60, orders_per_user=4.0, tastes=4, seed=7)
TABLES = [table for tables in SCENES.values() for table in tables]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "simulated_shop.md"
every_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)


def made(table: Planted, shop: Shop = SHOP) -> dict[str, pa.Array]:
    return {
        name: pa.array(values, from_pandas=True)
        for name, values in table.make(np.arange(table.units(shop)), shop).items()
    }


@every_table
def test_rows_do_not_depend_on_partitions(spark: SparkSession, table: Planted) -> None:
    units = spark.range(table.units(SHOP))
    one, three = (planted(table, part, SHOP, truth=True) for part in (units.coalesce(1), units.repartition(3)))
    fields = table.fields + table.truth
    assert one.dtypes == [(field.name, field.type) for field in fields]
    assert planted(table, units, SHOP).columns == [field.name for field in table.fields]
    rows = [
        frame.toPandas().map(str).sort_values([field.name for field in fields], ignore_index=True)
        for frame in (one, three)
    ]
    assert len(rows[0]) > 0
    assert rows[0].equals(rows[1])


@every_table
def test_another_seed_makes_another_shop(table: Planted) -> None:
    other = Shop(users=60, items=40, days=60, orders_per_user=4.0, tastes=4, seed=8)
    assert made(table) != made(table, other)
    assert made(table) == made(table)


@every_table
def test_rows_grow_with_the_shop(table: Planted) -> None:
    larger = Shop(users=600, items=400, days=60, orders_per_user=4.0, tastes=12, seed=7)
    for shop in (SHOP, larger):
        rows = len(next(iter(made(table, shop).values())))
        assert rows == pytest.approx(table.units(shop) * table.rows_per_unit(shop), rel=0.7)
    assert table.units(larger) > table.units(SHOP)


def test_the_page_names_every_column() -> None:
    held = PAGE.read_text(encoding="utf-8").splitlines()
    lines = [
        f"| `{table.name}` | `{field.name}` | {field.type} | {said}{field.meaning} |"
        for table in TABLES
        for said, fields in (("", table.fields), ("truth: ", table.truth))
        for field in fields
    ]
    assert [line for line in held if line.startswith("| `") and line.count("|") == 5] == lines


def test_settings_know_every_scene() -> None:
    (scene, _) = get_args(SimulateSettings.model_fields["scenes"].annotation)
    assert get_args(scene) == tuple(SCENES)


def test_figures_of_the_truth() -> None:
    """Against labels drawn often, and against the same probabilities counted in bins."""
    generator = np.random.default_rng(0)
    p = np.repeat(generator.uniform(0, 1, 50) ** 3, 2_000)
    label = generator.uniform(size=len(p)) < p
    positive, negative = p[label], p[~label]
    above = np.searchsorted(np.sort(negative), positive) + np.searchsorted(np.sort(negative), positive, side="right")
    assert bayes.auc(p) == pytest.approx(above.mean() / 2 / len(negative), abs=0.005)
    scores = np.unique(p)[::-1]
    precision = np.asarray([label[p >= score].mean() for score in scores])
    share = np.asarray([label[p == score].sum() / label.sum() for score in scores])
    assert bayes.average_precision(p) == pytest.approx(float(precision @ share), abs=0.01)
    drawn = -np.where(label, np.log(p), np.log1p(-p)).mean()
    assert bayes.log_loss(p) == pytest.approx(drawn, abs=0.01)
    bins, weight = np.unique(p, return_counts=True)
    for figure in (bayes.auc, bayes.average_precision, bayes.log_loss):
        assert figure(bins, weight.astype(np.float64)) == pytest.approx(figure(p))
