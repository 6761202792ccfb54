"""Orders from quantiles, played over weeks that no bundle knew, against base-stock levels from a mean.

    python benchmarks/stock_policies.py sales_weekly.csv.gz [WEEK ...]

For each week (36, 40 and 44: what is chosen is chosen on the first two) a bundle is trained on what lies before it by
the pipeline's own settings (jobs/pipelines/demand.yaml). The eight weeks from there on are played: each week a review,
at which both sides know all sales until then; an order arrives a lead time later; demand that finds no stock is lost.
Both begin with the same stock, what the mean of 26 weeks sells until the first order's window ends, and order for the
same service .9, .95 and .98 (a piece short costs service / (1 - service) times what a piece left costs). Weeks count
from the first in which an order can be there. The other side orders up to a quantile of the weeks' sum about the mean
of the newest 26 weeks, in four ways: by normal errors (to the nearest piece, or up), Poisson, negative binomial. All
are shown. The ratio is of the costs of all rounds of the last of the weeks, against the way that was cheapest on the
earlier ones; above .95 it fails the goal, and the exit code says so.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

import numpy as np  # noqa: E402
from _stock import Cut, Floats, base_stock, cost, covered, mean_and_error, measured_correlation, service, sums_of_mean  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402
from run import NOTHING_MEASURED  # noqa: E402

from cluster.session import build_session  # noqa: E402
from jobs import build_examples, ingest, train  # noqa: E402
from jobs.settings import Settings, load_settings  # noqa: E402
from jobs.tables import Tables  # noqa: E402
from jobs.trained import latest_bundle  # noqa: E402
from spark_udfs import panel  # noqa: E402
from spark_udfs.periods import Form  # noqa: E402
from spark_udfs.scoring import predicted  # noqa: E402
from spark_udfs.stocking.levels import Costs  # noqa: E402
from spark_udfs.stocking.lots import Lots, order  # noqa: E402
from spark_udfs.stocking.needs import Shelf, needs  # noqa: E402
from spark_udfs.stocking.paths import demand_paths, places  # noqa: E402
from spark_udfs.stocking.play import Seen, play  # noqa: E402

GOAL = 0.95
WEEKS = (36, 40, 44)
TARGETS = (0.9, 0.95, 0.98)
LEADS = (1, 2)
PEERS = ("normal, nearest", "normal, up", "Poisson", "negative binomial")
START, HORIZON = np.datetime64("2025-01-06"), 8
FORM = Form("week", HORIZON, 26)


def main() -> int:
    if len(sys.argv) < 2:
        print("stock_policies: name the file of weekly sales (UCI 396)")
        return NOTHING_MEASURED
    weeks = [int(week) for week in sys.argv[2:]] or list(WEEKS)
    spark = build_session("bench-stock-policies", master="local[2]", driver_memory="3g", shuffle_partitions=2)
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for week in weeks:
            told[str(week)] = of_cut(forecast(spark, settings_of(sys.argv[1], folder, week), week))
            print(f"  week {week}: {json.dumps(told[str(week)])}", flush=True)
    spark.stop()
    *earlier, judged = (told[str(week)]["rounds"] for week in weeks)
    theirs = min(PEERS, key=lambda name: sum(one[name] for rounds in earlier for one in rounds.values()))
    ratios = {name: round(one["ours"] / one[theirs], 4) for name, one in judged.items()}
    against = {name: round(_of_all(judged, "ours") / _of_all(judged, name), 4) for name in PEERS}
    ratio = against[theirs]
    result = {"name": "stock_policies", "ratio": ratio, "goal": GOAL, "unit": "of its cost, over all rounds"}
    mean, off = float(np.mean([*ratios.values()])), {name: one["off"] for name, one in judged.items()}
    told |= {
        "theirs": theirs,
        "against": against,
        "ratios": ratios,
        "mean_of_ratios": round(mean, 4),
        "service_less_target": off,
    }
    print(json.dumps(result | {"detail": told}))
    return int(ratio > GOAL)


def _of_all(rounds: dict[str, dict[str, float]], name: str) -> float:
    return sum(one[name] for one in rounds.values())


def settings_of(path: str, folder: str, week: int) -> Settings:
    flags = [f"sources.sales.path={path}", f"tables.root={folder}/tables", f"run_dir={folder}/run{week}"]
    flags += [f"examples.test_from={START + np.timedelta64(7 * week, 'D')}", "training.ranks=1"]
    return load_settings(ROOT / "jobs" / "pipelines" / "demand.yaml", flags)


def forecast(spark: SparkSession, settings: Settings, week: int) -> Cut:
    """Train on what lies before a week, and forecast in it and in each of those after it."""
    for job in (ingest, build_examples, train):
        job.run(settings, spark)
    tables, bundle = Tables(spark, settings.tables.root), latest_bundle(settings.run_dir)
    lines = tables.read("sales").selectExpr("series_id", "time", "quantity")
    sums = panel.quantities(lines, tables.read("vocabulary_series"), FORM).persist()
    first = FORM.number(START.astype("datetime64[s]").item()) + week
    held: list[dict[str, Floats]] = []
    for origin in range(first, first + HORIZON):
        asked = panel.asked(sums, FORM, origin, origin + HORIZON).persist()
        given = predicted(asked, str(bundle), key="series", names=["quantiles", "mean"])
        rows = asked.select("series", "history", "target").join(given, on="series").orderBy("series").toPandas()
        held.append({name: np.stack(rows[name].to_list()).astype(np.float64) for name in rows if name != "series"})
        asked.unpersist()
    sums.unpersist()
    levels, (means, history) = (
        tuple(settings.model["levels"]),
        ([one[name] for one in held] for name in ("mean", "history")),
    )
    quantiles = [one["quantiles"].reshape(*one["mean"].shape, len(levels)) for one in held]
    return Cut(week, quantiles, means, history, held[0]["target"], levels)


def of_cut(cut: Cut) -> dict[str, Any]:
    """Coverage of sums, and what playing cost."""
    correlation = Settings().stock.correlation
    return {
        "correlation": round(measured_correlation(cut), 3),
        "coverage": covered(cut, correlation, TARGETS),
        "rounds": {
            f"lead {lead}, service {target}": round_of(cut, lead, target, correlation)
            for lead in LEADS
            for target in TARGETS
        },
    }


def round_of(cut: Cut, lead: int, target: float, correlation: float) -> dict[str, float]:
    """What each side cost, and the shares of weeks without a piece short."""
    series, window = len(cut.then), lead + 1
    under, leads = np.full(series, target / (1 - target)), np.full(series, lead)
    stock = np.round(mean_and_error(cut.history[0])[0] * window)
    policies = {"ours": from_quantiles(cut, lead, under, correlation)}
    policies |= {
        name: base_stock(cut, window, upto) for name, upto in sums_of_mean(window, target, correlation).items()
    }
    came = {name: play(cut.then, stock, leads, 1, policy, lost=True) for name, policy in policies.items()}
    costs = {name: round(cost(one, under, 1.0, lead), 1) for name, one in came.items()}
    services = {f"service_{name}": round(service(one, lead), 4) for name, one in came.items()}
    return {**costs, **services, "off": round(services["service_ours"] - target, 4)}


def from_quantiles(cut: Cut, lead: int, under: Floats, correlation: float) -> Any:
    """Our orders: what plan_stock makes of a series without pack, shelf and cost of an order."""
    series, steps = len(under), lead + 1
    ones = np.ones(series)

    def policy(seen: Seen) -> Floats:
        quantiles, means = cut.quantiles[seen.period], cut.means[seen.period]
        paths = demand_paths(quantiles, means, cut.levels, places(steps, correlation))
        shelf = Shelf(seen.on_hand, seen.arrivals[:, :steps], np.full(series, lead))
        need = np.sort(needs(paths, shelf, 1, lost=True), axis=1)
        return order(need, Costs(under, ones, 0 * ones, ones, ones < 0), Lots(ones, 0 * ones, np.inf * ones)).quantity

    return policy


if __name__ == "__main__":
    sys.exit(main())
