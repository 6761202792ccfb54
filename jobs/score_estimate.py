"""What a score will take, said before it answers: how many keys, operations, minutes and bytes.

Minutes are measured, by answering a sample of the keys twice and then a part of it: the first time opens the bundle in
each worker, and makes the items' matrix; what the other two differ by is what more keys cost. A small shop would wait
longer for that than it is worth: there it is done for `scoring.dry_run` alone.
"""

from __future__ import annotations

import time
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F
from safetensors import safe_open

from jobs.console import show_counts, step
from jobs.sessions import parallelism, persisted
from jobs.staged import bucket_of
from spark_udfs.scoring import bundle_schema
from training.state.json_files import read_json

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.ground import Scored
    from jobs.tables import Tables
    from jobs.task import Task

MANY = 1_000_000  # keys from which on a sample is answered without being asked for
SAMPLE = 4_000  # keys of a sample, about
PARTS = 4  # one of so many of a sample is answered once more
BYTES_A_ROW = 20  # of a table that is not there yet


def estimated(tables: Tables, task: Task, scored: Scored, bundle: Path, *, timed: bool) -> dict[str, Any]:
    """What answering all that is asked will take.

    Args:
        tables: where the answers are to lie.
        task: whose they are.
        scored: how they are made.
        bundle: the folder of the one that answers.
        timed: whether a sample is answered, however little is asked.

    Returns:
        keys; rows, at most; of lists items, and pairs of a key and an item; flops, of the products with the items and
        with the weights that are no tables of ids; bytes, by bytes_a_row of the table as it is (bytes_of: table) or of
        none (constant); slots, tasks at a time; and, where a sample was answered, minutes, with sample_keys and
        sample_seconds.
    """
    key = task.columns.key
    asked = scored.asked.agg(F.count(F.lit(1)).alias("rows"), F.count_distinct(key).alias("keys")).collect()[0]
    a_row, of = _bytes_a_row(tables, task.table)
    rows = asked["rows"] * scored.each
    found = {"keys": asked["keys"], "rows": rows}
    if scored.items is not None:
        found |= {"items": scored.items, "pairs": asked["rows"] * scored.items}
    found |= {"flops": asked["rows"] * flops(bundle, scored.items)}
    found |= {"bytes": round(rows * a_row), "bytes_a_row": a_row, "bytes_of": of, "slots": parallelism(tables.spark)}
    if asked["keys"] and (timed or asked["keys"] >= MANY):
        with step("score: answering a sample, to tell how long all takes"):
            found |= _measured(scored, key, asked["keys"], found["slots"])
    show_counts("What this score takes", {name: value for name, value in found.items() if name != "bytes_of"})
    return found


def flops(bundle: Path, items: int | None) -> int:
    """Operations with floating-point numbers for one row, two a product: with each item's vector, and with each weight
    of a matrix, but for tables of vectors of ids, which are looked up. A model of sequences does the latter for each
    line of a history."""
    description, sizes = read_json(bundle / "bundle.json", dict[str, Any]), bundle_schema(str(bundle)).vocabularies()
    with safe_open(bundle / "weights.safetensors", framework="np") as weights:
        shapes = [tuple(weights.get_slice(name).get_shape()) for name in weights.keys()]  # noqa: SIM118
    dense: int = sum(prod(shape) for shape in shapes if len(shape) > 1 and shape[0] not in sizes.values())
    return 2 * (dense + (0 if items is None else items * int(description["config"]["dim"])))


def _bytes_a_row(tables: Tables, name: str) -> tuple[float, str]:
    rows = tables.read(name).count() if tables.exists(name) else 0
    return (tables.size(name) / rows, "table") if rows else (float(BYTES_A_ROW), "constant")


def _measured(scored: Scored, key: str, keys: int, slots: int) -> dict[str, Any]:
    """Minutes for all keys, by those whose hash falls into one of so many buckets that each has a sample."""
    buckets = max(1, keys // SAMPLE)
    with persisted(scored.asked.where(bucket_of(key, buckets) == 0).coalesce(slots)) as drawn:
        part = drawn.where(bucket_of(key, buckets * PARTS) == 0)
        held, fewer = (one.select(key).distinct().count() for one in (drawn, part))
        _, seconds, least = (_seconds(scored.answer(one)) for one in (drawn, drawn, part))
    each = max(0.0, seconds - least) / max(1, held - fewer)
    minutes = (seconds + each * (keys - held)) / 60
    return {"minutes": minutes, "sample_keys": held, "sample_seconds": seconds}


def _seconds(answers: DataFrame) -> float:
    started = time.perf_counter()
    answers.write.format("noop").mode("overwrite").save()
    return time.perf_counter() - started
