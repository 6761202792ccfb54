"""Who was erased: a keyed hash of each id, by which a later ingest drops the person again, and which names nobody.

Two tables below the root: `erasure_key`, one row with a random key, and `erased`, the hashes. Whoever holds both can
ask of an id whether it was erased, by trying it; whoever holds the hashes alone cannot. The key must outlive all that
can be ingested: without it erased persons come back, so hashes without their key are refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING

from spark_udfs.erased import Erased, digest
from training.errors import TableError

if TYPE_CHECKING:
    from jobs.tables import Tables

HASHES, KEY = "erased", "erasure_key"
JOB = "erase"
KEY_BYTES = 32


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
        tables.write(KEY, row, mode="overwrite", job=JOB, inputs={}, since=-1)
    key = _key(tables)
    hashes = tables.spark.createDataFrame([(digest(key, user_id),) for user_id in ids], "hash string")
    tables.merge_new(HASHES, hashes.distinct(), ["hash"], job=JOB, inputs={})
    return key


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
