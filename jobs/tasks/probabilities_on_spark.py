"""What tasks whose answer is a probability of a row share: boosted trees beside the bundle, the judge, and curves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.console import step, warn
from jobs.ground import Answer
from jobs.task import OURS, TRUTH
from spark_udfs import rows
from spark_udfs.baselines import trees
from spark_udfs.grouped import grouped_auc
from spark_udfs.scoring import predict
from training.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import Column, DataFrame

TREES = "lightgbm"


def with_ids(rows: DataFrame, key: str) -> DataFrame:
    """Rows with ids; where they have none, those that are equal in all but their label are one, and what they hold
    names them.

    Args:
        rows: with `label`.
        key: the column of ids.
    """
    if key in rows.columns:
        return rows
    told = sorted({*rows.columns} - {"label"})
    times = [name for name, kind in rows.dtypes if kind == "timestamp"]
    single = rows.groupBy(*told).agg(F.max("label").alias("label"))
    named = F.concat(F.to_json(F.struct(*told)), *(_below_a_millisecond(name) for name in times))
    return single.withColumn(key, F.sha2(named, 256))


def _below_a_millisecond(time: str) -> Column:
    """What JSON leaves out of a time; nothing where it leaves out nothing."""
    rest = F.pmod(F.unix_micros(time), F.lit(1_000))
    return F.when(rest > 0, F.concat(F.lit(f" {time} {{"), rest.cast("string"), F.lit("}"))).otherwise("")


def refuse_repeated(rows: DataFrame, key: str, table: str, row: str) -> None:
    """See that no row stands twice: at its later moment it would be told what was known of it.

    Args:
        rows: those of a table, with `key`.
        key: the column that names a row.
        table: its name.
        row: what a row is called.

    Raises:
        DataError: a row stands more than once.
    """
    repeated = rows.groupBy(key).count().where("count > 1")
    found, example = repeated.agg(F.count(F.lit(1)), F.min(key)).collect()[0]
    if found:
        raise DataError(
            f"a {key} must stand once in table '{table}'; {found:,} stand more often, such as '{example}'; keep one "
            f"row of each {row}, with what is known of its label by now, and run `millrace ingest` again"
        )


def bundled(bundles: Mapping[str, Path]) -> dict[str, Answer]:
    """Bundles' own answers to rows with a `key`."""
    return {name: partial(_by_bundle, path=str(path)) for name, path in bundles.items()}


def _by_bundle(asked: DataFrame, _: str, *, path: str) -> DataFrame:
    return predict(asked, path, key="key")


def boosted_trees(examples: DataFrame, key: str, names: Sequence[str], sample: int) -> dict[str, Answer]:
    """Boosted trees of a hash sample of the examples, which is what comes to the driver; none where it is not
    installed, and that is said.

    Args:
        examples: `key`, `names`, label.
        key: what tells rows apart.
        names: the columns to learn from.
        sample: rows.
    """
    if (missing := trees.missing()) is not None:
        warn(f"evaluate: without {TREES}: {missing}")
        return {}
    with step(f"evaluate: fit {TREES}"):
        model = trees.fit(examples.orderBy(F.xxhash64(key)).limit(sample), names, "label")
    return {TREES: partial(_by_trees, model=model, names=names)}


def _by_trees(asked: DataFrame, _: str, *, model: str, names: Sequence[str]) -> DataFrame:
    return trees.predict(asked, model, names, key="key")


def left_out() -> dict[str, str]:
    """Contenders that could not be asked, and why."""
    missing = trees.missing()
    return {} if missing is None else {TREES: missing}


def judged(
    asked: DataFrame, answers: DataFrame, names: Sequence[str], *, budget: float, resamples: int
) -> dict[str, Any]:
    """What `OnSpark.judge` gives, of probabilities; arguments as for `spark_udfs.rows.judge`. Where rows have a `unit`,
    also the AUC within units."""
    truth = asked.select("key", "label", *(name for name in ("unit",) if name in asked.columns))
    values = rows.judge(answers, truth, names, budget=budget, resamples=resamples)
    within = grouped_auc(answers, truth, names, resamples=resamples) if "unit" in truth.columns else {}
    judges = [of for of in (values, within) if of]
    others = [name for name in names[1:] if name != TRUTH]
    return {
        "users": values[OURS].users,
        "models": {name: _merged(of[name].intervals() for of in judges) for name in names},
        "differences": {name: _merged(of[OURS].minus(of[name]) for of in judges) for name in others},
    }


def _merged(parts: Iterable[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {name: value for part in parts for name, value in part.items()}


def curves(
    asked: DataFrame, answers: DataFrame, what: Mapping[str, str], *, no_probabilities: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Curves of precision over recall, and of what is predicted against what is.

    Args:
        asked: key, label.
        answers: model, key, p.
        what: how the label and the rows are called: `found` (in the plural) and `rows`.
        no_probabilities: models whose answers only rank.
    """
    names = [row[0] for row in answers.select("model").distinct().orderBy("model").collect()]
    cells = rows.cells(answers, asked.select("key", "label"), names)
    return [
        {
            "title": "Precision over recall",
            "x": f"share of all {what['found']} that is found",
            "y": f"share of {what['found']} among the {what['rows']} looked at",
            "lines": {name: rows.precision_recall(cells[name]) for name in names},
            "note": f"From the {what['rows']} that come first to all of them; a line above another finds as many with "
            "less work.",
        },
        {
            "title": "Predicted and actual",
            "x": f"predicted share of {what['found']}",
            "y": "actual share",
            "lines": {name: rows.reliability(cells[name]) for name in names if name not in no_probabilities},
            "diagonal": True,
            "note": f"In {rows.BANDS} parts of the {what['rows']} by what was predicted; on the dotted line a "
            "probability is what it says.",
        },
    ]
