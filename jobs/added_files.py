"""Files that others have written, taken into a Delta table in one commit: by the session's own Delta Lake, so that its
log store, its checks and its conflicts with other writers are those of any commit.

Delta offers no such thing in Python or SQL. What is asked for here is no public API, but Delta 3.3.3, 4.0.1 and 4.4.0
have it alike: a log's transaction, its actions as JSON, and what a write says of itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jobs import delta_sql
from jobs.sessions import has_class
from training.errors import TableError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.types import StructType

    from jobs.commits import Metadata
    from jobs.table_reads import TableReads
    from spark_udfs.answer_files import Written

DELTA = "org.apache.spark.sql.delta"
# What a table may have for files to go in as they were written: nothing here says what stands in a new file, or how.
FEATURES = frozenset(
    {
        "allowColumnDefaults",
        "appendOnly",
        "changeDataFeed",
        "checkConstraints",
        "deletionVectors",
        "domainMetadata",
        "generatedColumns",
        "identityColumns",
        "inCommitTimestamp",
        "invariants",
        "rowTracking",
        "timestampNtz",
        "v2Checkpoint",
        "vacuumProtocolCheck",
    }
)
CONSTRAINT, MAPPING = "delta.constraints.", "delta.columnMapping.mode"


def obstacle(spark: SparkSession, path: str) -> str | None:
    """Why files cannot be taken into a table as they are, so that its rows must go through Spark; None: they can."""
    if not has_class(spark, f"{DELTA}.DeltaLog"):
        return "the session gives Python no Delta Lake of the driver's JVM, as with Spark Connect and on Databricks"
    detail = delta_sql.detail(spark, path)
    properties = dict(detail["properties"])
    if other := sorted(set(detail["tableFeatures"] or ()) - FEATURES):
        return f"the table has {', '.join(other)}"
    if checks := sorted(name.removeprefix(CONSTRAINT) for name in properties if name.startswith(CONSTRAINT)):
        return f"the table has the constraints {', '.join(checks)}"
    if properties.get(MAPPING, "none") != "none":
        return f"the table's columns have other names in its files ({MAPPING})"
    ruled = [
        field["name"] for field in _fields(spark, path) if set(field["metadata"]) - {"comment"} or not field["nullable"]
    ]
    if ruled:
        return f"the table has rules for its columns {', '.join(sorted(ruled))}"
    return None


def refuse_others(tables: TableReads, name: str, given: StructType, folders: Sequence[str]) -> None:
    """See that a table has just the columns of what shall go in, and its folders.

    Raises:
        TableError: it lacks some, has others too, or has them of other types; or it has other folders.
    """
    has, wanted = (
        {one.name: one.dataType.simpleString() for one in found.fields} for found in (tables.read(name).schema, given)
    )
    names = [one for one in {**wanted, **has} if has.get(one) != wanted.get(one)]
    told = [f"'{one}' is {has.get(one, 'missing')}, and must be {wanted.get(one, 'missing')}" for one in names]
    if (held := tables.folders(name)) != list(folders):
        told.append(f"its folders are by {', '.join(held) or 'nothing'}, and must be by {', '.join(folders)}")
    if told:
        raise TableError(
            f"table '{name}' at {tables.path(name)} must be one of such answers: {'; '.join(told)}. Rename its folder, "
            "or write to another table"
        )


def begin(spark: SparkSession, path: str) -> Any:
    """A transaction on a table as it is now: what changes its columns, its rules or the same rows from now on, and
    commits first, is a conflict."""
    jvm: Any = spark._jvm
    return jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, path).startTransaction()


def replace(
    spark: SparkSession,
    path: str,
    begun: Any,
    files: Iterable[Written],
    values: Mapping[str, str],
    metadata: Metadata,
) -> int:
    """Take files in, in place of the rows of one partition, in one commit.

    Args:
        spark: a session whose JVM has Delta Lake.
        path: the table's.
        begun: a transaction that began before the files were; see `begin`.
        files: in its folder.
        values: the partition's, by column.
        metadata: what the commit says of itself.

    Returns:
        The version that this made.

    Raises:
        TableError: another table lies there by now.
    """
    table_id = begun.metadata().id()
    if (found := begin(spark, path).metadata().id()) != table_id:
        raise TableError(
            f"the table at {path} was {table_id} when its rows were begun, and is {found} now: it was removed and made "
            "anew; nothing of this write was kept. Run it again"
        )
    jvm: Any = spark._jvm
    session: Any = spark._jsparkSession
    where = " AND ".join(f"`{column}` = '{_escaped(value)}'" for column, value in values.items())
    asked = session.sessionState().sqlParser().parseExpression(where)
    actions = jvm.java.util.ArrayList()
    for add in _each(begun.filterFiles(_seq(jvm, [asked]), False)):
        actions.add(add.remove())
    for file in files:
        actions.add(jvm.org.apache.spark.sql.delta.actions.Action.fromJson(_add(file, values)))
    return int(begun.commit(jvm.PythonUtils.toSeq(actions), _operation(jvm, list(values), where, metadata)))


def _add(file: Written, values: Mapping[str, str]) -> str:
    """What a log says of a file that it takes in."""
    return json.dumps(
        {
            "add": {
                "path": quote(file.path),
                "partitionValues": dict(values),
                "size": file.size,
                "modificationTime": file.modified,
                "dataChange": True,
                "stats": file.stats,
            }
        }
    )


def _operation(jvm: Any, columns: Sequence[str], where: str, metadata: Metadata) -> Any:
    """What the history says was done: a write that replaces what a condition names. Later Delta has more to say."""
    write = getattr(jvm.org.apache.spark.sql.delta, "DeltaOperations$Write")
    some, none = jvm.scala.Option.apply, jvm.scala.Option.empty()
    said = [some(_seq(jvm, columns)), some(where), some(metadata.text)]
    more = write._java_lang_class.getConstructors()[0].getParameterCount() - len(said) - 1
    return write(jvm.org.apache.spark.sql.SaveMode.Overwrite, *said, *[none] * more)


def _seq(jvm: Any, values: Sequence[Any]) -> Any:
    held = jvm.java.util.ArrayList()
    for value in values:
        held.add(value)
    return jvm.PythonUtils.toSeq(held)


def _each(values: Any) -> Iterator[Any]:
    """The elements of one of Scala's collections."""
    found = values.iterator()
    while found.hasNext():
        yield found.next()


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _fields(spark: SparkSession, path: str) -> list[dict[str, Any]]:
    """The table's columns as its log has them, with what Spark does not show of them."""
    return list(json.loads(begin(spark, path).metadata().schemaString())["fields"])
