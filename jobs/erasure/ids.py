"""Whom to erase: a file with a user id a line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from spark_udfs.occurrences import trimmed
from spark_udfs.order_lines import normalised
from training.errors import DataError

if TYPE_CHECKING:
    from jobs.settings import Settings

LONGEST = 1_000  # characters of an id


def read_ids(path: Path) -> list[str]:
    """The ids of a text file, one a line; blank lines do not count.

    Raises:
        DataError: the file cannot be read, is no UTF-8, or holds no id.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"--ids '{path}' must be a file with a user id a line: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"--ids '{path}' must be UTF-8; byte {error.start:,} is none: save it as UTF-8; nothing was erased"
        ) from error
    ids = [line for line in lines if line.strip()]
    if not ids:
        raise DataError(f"--ids '{path}' must hold a user id a line; it has 0; nothing was erased")
    return ids


def checked(ids: Iterable[str], settings: Settings) -> list[str]:
    """The ids as ingest would keep them, each once.

    Raises:
        DataError: there is none, one is too long, or one is the column's name.
    """
    clean = normalised if settings.ingest.normalise_ids else trimmed
    wanted = sorted({clean(user_id.rstrip("\r")) for user_id in ids} - {""})
    if not wanted:
        raise DataError("ids must hold at least one user id; got 0; nothing was erased")
    header = settings.ingest.user_columns.intersection(wanted)
    if header:
        raise DataError(
            f"ids must be user ids alone; '{header.pop()}' is the name of their column: take the header out of the "
            "file; nothing was erased"
        )
    longest = max(wanted, key=len)
    if len(longest) > LONGEST:
        raise DataError(
            f"a user id has {LONGEST:,} characters at most; one of the ids has {len(longest):,}: give one id a "
            "line; nothing was erased"
        )
    return wanted
