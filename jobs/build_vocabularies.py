"""The vocabularies of a build: ids that are new are appended; what was there is read once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import functions as F

from jobs.build_cuts import has_ids
from jobs.sessions import persisted
from spark_udfs import features, vocabularies
from training.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.tables import Tables
    from spark_udfs.features import Cuts

JOB = "build_examples"


class Numbered(NamedTuple):
    """A vocabulary with the ids of a build.

    Attributes:
        version: the table's.
        rows: `index`, `id`.
    """

    version: int
    rows: DataFrame


def append_all(
    tables: Tables,
    kinds: Mapping[str, str],
    lines: DataFrame,
    cuts: Cuts,
    *,
    more: Mapping[str, DataFrame],
    inputs: dict[str, Any],
    checked: Mapping[str, int],
    kept: ExitStack,
) -> dict[str, Numbered]:
    """Append the ids that lines with all ids before the test cut have, and those that are no line's.

    Args:
        tables: where the vocabularies lie.
        kinds: `Task.kinds`.
        lines: those whose ids may be new.
        cuts: of the build.
        more: `Task.more_ids`.
        inputs: what decides the rows.
        checked: versions that a build was made with: these are not looked into again.
        kept: for as long as it is open, Spark holds what was read of the vocabularies.

    Returns:
        The vocabularies, by name.

    Raises:
        DataError: a vocabulary is damaged.
        TableError: another writer appended at the same time.
    """
    known = lines.where(features.known_before(cuts.test) & has_ids(kinds))
    ids = {kind: known.select(F.col(column).alias("id")) for kind, column in kinds.items()}
    ids |= {kind: ids[kind].unionByName(others) if kind in ids else others for kind, others in more.items()}
    names = {kind: f"vocabulary_{kind}" for kind in ids}
    return {name: _append(tables, name, ids[kind], inputs, checked.get(name), kept) for kind, name in names.items()}


def _append(
    tables: Tables, name: str, ids: DataFrame, inputs: dict[str, Any], checked: int | None, kept: ExitStack
) -> Numbered:
    held, version = tables.spark.createDataFrame([], vocabularies.SCHEMA), -1
    if tables.exists(name):
        version = tables.version(name)
        held = kept.enter_context(persisted(tables.read(name, version)))
    made = version
    with persisted(ids.distinct()) as distinct:  # so that lines are read once
        new = kept.enter_context(persisted(vocabularies.new_entries(distinct, held)))
        if version < 0 or not new.isEmpty():
            # Serializable, and of two that add to one version the second is refused, so no index is given twice.
            properties = {"delta.appendOnly": "true", "delta.isolationLevel": "Serializable"}
            made = tables.write(name, new, mode="append", since=version, job=JOB, inputs=inputs, properties=properties)
    faults = {} if version == checked else vocabularies.faults(tables.read(name, made))
    if faults:
        listed = ", ".join(f"{count:,} {what}" for what, count in faults.items())
        raise DataError(
            f"table '{name}' at {tables.path(name)} must number its ids 1, 2, ... once each; it has {listed}. "
            "Restore an earlier version (RESTORE TABLE), or remove all vocabularies and train anew"
        )
    return Numbered(made, held.unionByName(new))
