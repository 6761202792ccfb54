"""Who was erased: a keyed hash of each id, by which a later ingest drops the person again, and which names nobody.

Two tables below the root: `erasure_key`, one row with a random key, and `erased`, the hashes. Whoever holds both can
ask of an id whether it was erased, by trying it; whoever holds the hashes alone cannot. The key must outlive all that
can be ingested: without it erased persons come back, so hashes without their key are refused.

Jobs that write rows of persons have a `Watch`, for an erasure that runs at the same time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from spark_udfs.erased import Erased, digest
from spark_udfs.order_lines import ERASED
from training.errors import DataError, TableError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.tables import Tables

HASHES, KEY = "erased", "erasure_key"
QUARANTINE = "quarantine"
JOB = "erase"
KEY_BYTES = 32
NO_STATISTICS = {"delta.dataSkippingNumIndexedCols": "0"}  # Delta's log would hold the key's first half


def known(tables: Tables) -> Erased | None:
    """All who were erased from the tables below this root; None if nobody ever was.

    Raises:
        TableError: there are hashes without the key that made them.
    """
    if not tables.exists(HASHES):
        return None
    if not tables.exists(KEY):
        raise TableError(
            f"table '{HASHES}' at {tables.path(HASHES)} holds hashes of persons who were erased, and the key that made "
            f"them is missing at {tables.path(KEY)}: they would come back. Restore the table '{KEY}' from a copy"
        )
    return Erased(_key(tables), tables.read(HASHES).select("hash"))


def state(tables: Tables) -> int | None:
    """What tells one set of erased persons from another: the version of its last change; None if nobody ever was."""
    return tables.pin(HASHES).content if tables.exists(HASHES) else None


def remember(tables: Tables, ids: Iterable[str]) -> bytes:
    """Keep the hashes of ids; those that are held stay. From here on an ingest drops these persons.

    Returns:
        The key.

    Raises:
        TableError: another job makes a key or keeps hashes at this moment; or hashes are held without their key.
    """
    if known(tables) is None and not tables.exists(KEY):
        # One commit: there is a whole key or none.
        row = tables.spark.createDataFrame([(secrets.token_bytes(KEY_BYTES).hex(),)], "key string")
        tables.write(KEY, row, mode="overwrite", job=JOB, inputs={}, since=-1, properties=NO_STATISTICS)
    key = _key(tables)
    hashes = tables.spark.createDataFrame([(digest(key, user_id),) for user_id in ids], "hash string")
    tables.merge_new(HASHES, hashes.distinct(), ["hash"], job=JOB, inputs={})
    return key


def marked(rows: DataFrame, persons: Erased | None, columns: Sequence[str]) -> DataFrame:
    """The rows with the `reason` ERASED where one of the columns has the id of a person who was erased."""
    if persons is None:
        return rows
    for column in columns:
        told = F.when(F.col("_is_erased"), ERASED).otherwise(F.col("reason"))
        rows = persons.mark(rows, column, "_is_erased").withColumn("reason", told).drop("_is_erased")
    return rows


class Watch:
    """Keeps out who is erased while a job is at work; made before the job reads its first row.

    An erasure keeps its hashes first and searches then; a job commits first and looks for new hashes then. So one of
    the two sees the other, whatever the order, and no lock is needed, which an object store does not have.

    Args:
        tables: where the job writes.
        job: the job.
        name: the table that it writes for its own sake.
        columns: of its tables, in which persons' ids stand.
        whole: (a write's inputs) -> how many rows; takes out all that the write brought, for where rows name persons by
            no id.
    """

    def __init__(
        self,
        tables: Tables,
        job: str,
        name: str,
        columns: Sequence[str] = ("user_id",),
        whole: Callable[[Mapping[str, Any]], int] | None = None,
    ) -> None:
        self._tables, self._job, self._name, self._columns, self._whole = tables, job, name, columns, whole
        self._known = state(tables)

    @property
    def inputs(self) -> dict[str, int]:
        """What the job adds to its inputs: whom it knows as erased; nothing if nobody ever was."""
        return {} if self._known is None else {"erased": self._known}

    @property
    def is_outdated(self) -> bool:
        """Whether persons were erased since it was made."""
        return state(self._tables) != self._known

    def before_writing(self) -> None:
        """Refuse to write what was read before persons were erased (`refuse_outdated`).

        A job that was killed after its commit has not looked for new hashes: its table is looked through here.

        Raises:
            DataError: persons were erased since the job began, or the table had rows of some.
        """
        self.refuse_outdated()
        made = self._tables.made_from(self._name, by=self._job)
        if made is not None and made.get("erased") != self._known:
            self._refuse(self._take_out([self._name]))

    def refuse_outdated(self) -> None:
        """Refuse to write what was read before persons were erased.

        Raises:
            DataError: persons were erased since the job began.
        """
        if self.is_outdated:
            raise DataError(
                f"persons were erased from the tables at {self._tables.root} while `{self._command}` read them, and "
                f"what it read would bring them back; nothing was written. Run `{self._command}` again once the "
                "erasure has ended"
            )

    def after_writing(
        self, names: Iterable[str], batch: str | None = None, *, made: Mapping[str, Any] | None = None
    ) -> None:
        """Take out of what the job has committed the rows of persons who were erased meanwhile.

        Args:
            names: tables with these columns.
            batch: of the quarantine; it goes whole, and the next run makes another.
            made: the inputs of the job's write; default: those of the table's last change.

        Raises:
            DataError: there were such rows; they are out.
        """
        if state(self._tables) == self._known:
            return
        removed = self._take_out(names, made)
        if batch is not None and self._tables.exists(QUARANTINE):
            of_batch = self._tables.read(QUARANTINE).where(F.col("batch") == batch)
            removed[QUARANTINE] = self._tables.remove(QUARANTINE, of_batch.select("batch"), job=JOB, inputs={})
        self._refuse(removed)

    def before_publishing(self) -> None:
        """Refuse to publish what was made of rows that were read before persons were erased.

        Raises:
            DataError: persons were erased since the job began; what it made is in no manifest.
        """
        if self.is_outdated:
            raise DataError(
                f"persons were erased from the tables at {self._tables.root} while `{self._command}` made tables of "
                "rows that it had read before; these may hold the persons, and are not published. Run `millrace erase` "
                f"again with the same ids, then `{self._command}`"
            )

    @property
    def _command(self) -> str:
        return f"millrace {self._job.replace('_', '-')}"

    def _take_out(self, names: Iterable[str], by: Mapping[str, Any] | None = None) -> dict[str, int]:
        persons, removed = known(self._tables), dict[str, int]()
        if persons is None:
            return removed
        for name in names:
            made: Mapping[str, Any] = by or self._tables.made_from(name) or {}
            if self._whole is not None and name == self._name:
                removed[name] = self._whole(made)
                continue
            # As an erasure says it: other rules are still refused, and the next run makes the rest anew.
            said = {"rules": made["rules"]} if "rules" in made else {}
            held = [column for column in self._columns if column in self._tables.read(name).columns]
            removed[name] = sum(
                self._tables.remove(name, persons.among(self._tables.read(name), column), job=JOB, inputs=said)
                for column in held
            )
        return removed

    def _refuse(self, removed: Mapping[str, int]) -> None:
        listed = ", ".join(f"{rows:,} of '{name}'" for name, rows in removed.items() if rows)
        if listed:
            raise DataError(
                f"persons were erased from the tables at {self._tables.root} while `{self._command}` wrote rows of "
                f"theirs; these were removed again ({listed}), and old files still hold them. Run `millrace erase` "
                f"again with the same ids, then `{self._command}`"
            )


def _key(tables: Tables) -> bytes:
    held = [row["key"] for row in tables.read(KEY).collect()]  # one row
    try:
        (key,) = (bytes.fromhex(text) for text in held)
    except (TypeError, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise TableError(
            f"table '{KEY}' at {tables.path(KEY)} must hold one key of {KEY_BYTES} bytes, it holds {len(held)} rows of "
            "other things; restore it from a copy (RESTORE TABLE): without it erased persons would come back"
        )
    return key
