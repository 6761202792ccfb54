"""Score a Delta table of features as it lies: a bundle's answers to all its rows, into another table, in one commit.

    millrace score-table /shop/tables/features /runs/now/bundles/dcn_v2-3f9c0a1b22d4 /shop/scores --key case_id

Workers read the pinned version's files, score, and write the files of the answers themselves, which one commit takes
in. Each row names its bundle, whose earlier rows are replaced; running it again on the same version changes nothing. A
job that is killed has committed nothing, and is run again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pyspark.sql import functions as F

from cluster.session import TO_SCORE, check_workers
from jobs import added_files, command
from jobs.command import run_alone
from jobs.console import say, step
from jobs.sessions import in_utc
from jobs.tables import Tables
from spark_udfs.answer_files import Written, remove_files, write_answers
from spark_udfs.direct import Asked, answered, asked_of
from training.errors import SchemaError, TableError
from training.masking import masked

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JOB, BUNDLE = "score_table", "bundle"
TO_READ = ("deltalake", "pyroaring")  # what workers need beside TO_SCORE
CODEC = "spark.sql.parquet.compression.codec"


@in_utc
def score_table(
    spark: SparkSession,
    source: str,
    bundle: str | Path,
    into: str,
    *,
    key: str,
    names: Sequence[str] = ("p",),
    version: int | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Answer all rows of a version of a table.

    Where the session or the table of the answers does not let files be taken in (`added_files.obstacle`), the answers
    go through Spark, which is said; the rows are the same.

    Args:
        spark: a session whose executors reach both tables and the bundle.
        source: the table's path or URL, with the columns that the bundle takes in, of their types.
        bundle: its folder, readable on every executor.
        into: the path or URL of the answers' table; made if it does not exist. Below its folder lies nothing else.
        key: the column that tells rows apart, bigint or string.
        names: of the answers of the model's `predict`.
        version: of the source; None: the newest.
        storage_options: credentials for an object store, of both tables (docs/loader.md).

    Returns:
        table, bundle, source_version, version; `way`, "files" or "rows"; or up_to_date.

    Raises:
        BundleError: the bundle is torn.
        SchemaError: the source lacks columns of the bundle's schema, or has them of another type; or two columns of the
            answers would have one name.
        TableError: there is no such source or version, the table of the answers has other columns or is no folder, or
            another writer changed it meanwhile.
        EnvironmentProblem: executors lack a package, or Spark went away meanwhile.
    """
    columns = [key, *names, BUNDLE]
    if len({one.lower() for one in columns}) < len(columns):  # to Spark `P` is `p`
        raise SchemaError(f"columns of answers must have names of their own; they are {', '.join(columns)}")
    root, name = _root_and_name(into)
    check_workers(spark, (*TO_SCORE, *TO_READ))
    tables, path = Tables(spark, root), _unlinked(bundle)
    asked = asked_of(source, path, key=key, names=names, version=version, storage_options=storage_options)
    named = Path(path).name
    inputs = {
        "bundle": named, "source": asked.table, "id": asked.table_id, "version": asked.version, "key": key,
        "names": list(names),
    }  # fmt: skip
    told = {"table": tables.path(name), BUNDLE: named, "source_version": asked.version}
    if tables.up_to_date(name, JOB, inputs):
        say(f"{tables.path(name)} has {named}'s answers to version {asked.version} already")
        return told | {"version": tables.version(name), "up_to_date": True}
    way, written = _written(tables, name, asked, named, inputs, dict(storage_options or {}))
    return told | {"version": written, "way": way, "up_to_date": False}


def _root_and_name(into: str) -> tuple[str, str]:
    """The folder that a table lies in, and the table's own name."""
    root, slash, name = into.rstrip("/").rpartition("/")
    if name in ("", ".", "..") or re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://", root + slash):  # of a bucket alone
        told = masked(into)
        raise TableError(
            f"the answers' table must be a folder, or a folder in a bucket; it is '{told}', which is none; write "
            f"{told.rstrip('/') or '.'}/scores"
        )
    return root + slash or ".", name


def _unlinked(bundle: str | Path) -> str:
    """A bundle's folder by its own name, where a link was given: tomorrow the link may lead to another bundle."""
    folder = Path(bundle)
    own = folder.resolve()
    return str(folder if folder.name == own.name else own)


def _written(
    tables: Tables, name: str, asked: Asked, bundle: str, inputs: Mapping[str, Any], options: Mapping[str, str]
) -> tuple[str, int]:
    """How the answers were written, and the version that this made."""
    rows = answered(tables.spark, asked).withColumn(BUNDLE, F.lit(bundle))
    tables.make(name, rows, [BUNDLE])
    added_files.refuse_others(tables, name, rows.schema, [BUNDLE])
    why = added_files.obstacle(tables.spark, tables.path(name))
    with step(f"scoring version {asked.version} of {asked.table} with {bundle}"):
        if why is None:
            write = partial(_files, tables.spark, asked, bundle, options)
            remove = partial(remove_files, storage_options=options)
            return "files", tables.take_in(name, {BUNDLE: bundle}, write, remove, job=JOB, inputs=inputs)
        say(f"the answers go through Spark, which takes longer: {why}")
        where = f"{BUNDLE} = '{bundle}'"
        version = tables.write(name, rows, mode="overwrite", job=JOB, inputs=inputs, where=where, partition_by=[BUNDLE])
    return "rows", version


def _files(spark: SparkSession, asked: Asked, bundle: str, options: Mapping[str, str], path: str) -> list[Written]:
    folder, codec = f"{BUNDLE}={quote(bundle, safe='')}", str(spark.conf.get(CODEC)).lower()
    return write_answers(spark, asked, path, folder, codec=codec, storage_options=options)


if __name__ == "__main__":
    run_alone(command.score_table)
