"""Where studies are kept: any Optuna storage URL, or a journal file for network file systems.

    sqlite:///out/run/study.db                one machine; the default
    journal:/shared/run/study.log             several machines on one file system
    postgresql://user:password@host/database  several machines; likewise mysql

Ranks and driver open the same URL; a password in it is never shown.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import SEEK_END
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from training.errors import TuningError
from training.masking import masked

JOURNAL = "journal:"
SQLITE = "sqlite:///"
PAUSES_S = (0.2, 0.5, 1.0, 2.0)  # while another makes a new database's tables
PIECE = 1 << 16  # bytes of a journal that are looked at in one go
SQLITE_WAIT_S = 60  # a writer waits for the other process's commit this long

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(url: str) -> BaseStorage:
    """Open a storage, and make it if it is a file that does not exist.

    Raises:
        TuningError: the URL cannot be read, its driver is not installed, or nothing answers there.
    """
    try:
        if url.startswith(JOURNAL):
            return _journal(_with_folder(url.removeprefix(JOURNAL)))
        options = {}
        if url.startswith(SQLITE):
            _with_folder(url.removeprefix(SQLITE))
            options = {"connect_args": {"timeout": SQLITE_WAIT_S}}
        return _database(url, {"pool_pre_ping": True, **options})
    except (SQLAlchemyError, StorageInternalError, ImportError, OSError, ValueError) as error:
        raise TuningError(
            f"study storage '{masked(url)}' cannot be opened ({_first_line(error)}); tuning.storage takes an Optuna "
            "storage URL, e.g. sqlite:///out/run/study.db, journal:/shared/study.log or postgresql://user:password@host/database"
        ) from error


@contextmanager
def answering(url: str) -> Iterator[None]:
    """Give an error of ours where a storage that was opened can no longer be read or written.

    Raises:
        TuningError: it is read-only, its disk is full, it is damaged, or its server is gone.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ or error
        raise TuningError(
            f"study storage '{masked(url)}' can no longer be read or written ({_first_line(cause)}); see that its file "
            "or server is whole, may be written and has room, and run the same command again: the study goes on"
        ) from error


def _database(url: str, options: dict[str, Any]) -> RDBStorage:
    """Open a database. Of several that make its tables at the same moment one succeeds; the others find them made."""
    for pause_s in PAUSES_S:
        try:
            return RDBStorage(url, engine_kwargs=options)
        except (OperationalError, ProgrammingError, IntegrityError) as error:
            if not re.search(r"already exists|UNIQUE|[Dd]uplicate", str(error)):
                raise
            time.sleep(pause_s)
    return RDBStorage(url, engine_kwargs=options)


def _journal(path: str) -> JournalStorage:
    """Open a journal, without a last line that a full disk or a power cut tore: the next one would be written onto it.

    Raises:
        ValueError: a line of it is no entry.
    """
    lock = JournalFileSymlinkLock(path)
    lock.acquire()
    try:
        if Path(path).exists():
            _cut_torn_line(path)
    finally:
        lock.release()
    try:
        return JournalStorage(JournalFileBackend(path))
    except (LookupError, TypeError, AssertionError, AttributeError, RecursionError) as error:
        raise ValueError(f"a line of it is no entry of a journal: {type(error).__name__} {error}") from error


def _cut_torn_line(path: str) -> None:
    with Path(path).open("r+b") as file:
        start = file.seek(0, SEEK_END)
        newline = -1
        while newline < 0 < start:
            end, start = start, max(0, start - PIECE)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
        file.truncate(start + newline + 1)


def is_local_file(url: str) -> bool:
    """Whether only this machine's processes can be expected to reach the storage."""
    return url.startswith("sqlite:")


def _with_folder(path: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return path


def _first_line(error: BaseException) -> str:
    return masked(next(iter(str(error).strip().splitlines()), type(error).__name__))
