"""What earlier erasures have left to do, for other run folders and for files that a horizon kept.

After an erasure no table says any more whom it was of. So the table `erasures` has a row for each that found somebody:
when it ended, the least index of a person, the version of `examples` without them; no id, nor its hash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from training.errors import ArtefactError
from training.state.json_files import read_json

if TYPE_CHECKING:
    from jobs.tables import Tables

TABLE, JOB = "erasures", "erase"
COLUMNS = "ids string, started string, ended string, least bigint, examples bigint, horizon_hours double"


class Past(NamedTuple):
    """An erasure that has ended.

    Attributes:
        ids: a hash over the keyed hashes of its persons.
        started: ISO time.
        ended: ISO time, of its work on the tables.
        least: the least index of one of its persons; None: none had one.
        examples: the version of `examples` that holds none of them; None: it had not to be cleaned.
        horizon_hours: how long old files stay.
    """

    ids: str
    started: str
    ended: str
    least: int | None
    examples: int | None
    horizon_hours: float


def note(tables: Tables, erasure: Past) -> None:
    """Keep what a later erasure needs of this one; once, however often it is noted."""
    once = {"ids": erasure.ids, "started": erasure.started}
    row = tables.spark.createDataFrame([tuple(erasure)], COLUMNS)
    tables.write(TABLE, row, mode="append", job=JOB, inputs=once)


def past(tables: Tables) -> list[Past]:
    """The erasures of these tables, oldest first."""
    if not tables.exists(TABLE):
        return []
    rows = tables.read(TABLE).collect()  # one an erasure
    return sorted((Past(*row) for row in rows), key=lambda erasure: erasure.ended)


def keep_old_examples(erasures: Sequence[Past]) -> bool:
    """Whether old files of `examples` may hold persons: rows there name them by index, so no search finds them."""
    cleaned = [erasure for erasure in erasures if erasure.examples is not None]
    return bool(cleaned) and cleaned[-1].horizon_hours > 0


def missed(run_dir: Path, erasures: Sequence[Past]) -> list[Past]:
    """The erasures after which a run folder was not cleared: it has no certificate of them, nor of a later one."""
    held = list(_certificates(run_dir))

    def is_done(erasure: Past) -> bool:
        own = (erasure.ids, erasure.started)
        return any((said["ids"], said["started"]) == own or said["started"] > erasure.ended for said in held)

    return [erasure for erasure in erasures if not is_done(erasure)]


def _certificates(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Those that can be read; a folder is cleared once too often rather than not at all."""
    for path in sorted(run_dir.glob("erasure-*.json")):
        try:
            said = read_json(path, dict[str, Any])
        except ArtefactError:
            continue
        if {"ids", "started"} <= said.keys():
            yield said
