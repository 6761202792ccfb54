"""What Delta's log says of one version of a table: its columns, live files, partition values and deletion vectors.

Delta-rs (deltalake) opens the log and replays it. What it does not hand out, the deletion vectors' places, comes from
`training.data.log_vectors`. No data file is touched here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.fs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler

from training.data.log_vectors import Vector, find_vectors
from training.data.storage import LOCAL, from_store, reason, split_root
from training.errors import NoTableError, SnapshotError, TableError

# Reader features that Millrace honours, or that leave data files as they are.
READER_FEATURES = frozenset(
    {
        "columnMapping",
        "deletionVectors",
        "timestampNtz",
        "typeWidening",
        "typeWidening-preview",
        "v2Checkpoint",
        "vacuumProtocolCheck",
    }
)
# Nothing is lost yet while a table is opened, so a store that does not answer is given up sooner than while training.
_OPENING = {"retry_timeout": "30s"}
_LOOKED_FOR, _THREADS = 1_000, 16  # files of a version that may be gone; each is a store's answer away
_END = 65_536  # bytes at a commit's end, more than nearly every last line has
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")


@dataclass(frozen=True)
class DataFile:
    """One live Parquet file.

    Attributes:
        path: relative to the table's root, as on the file system, or a URL; nothing in it is escaped.
        size: bytes.
        modified: milliseconds since 1970, by the log.
        records: physical rows by the log, where it says.
        partition: partition values by logical column name, typed.
        vector: where its deleted rows are named; None where none is deleted.
    """

    path: str
    size: int
    modified: int
    records: int | None
    partition: Mapping[str, Any]
    vector: Vector | None = None


@dataclass(frozen=True, eq=False)
class Log:
    """The log of a table, open at a version.

    Attributes:
        uri: the table's path or URL, without a local path's scheme.
        version: the Delta version.
        table_id: the table's own; another table at the same place has another.
        schema: logical columns with the log's metadata, in the table's order.
        partitioned_by: names of the partition columns.
        properties: the table's properties at this version.
        has_vectors: whether files of this table may have deletion vectors.
    """

    uri: str
    version: int
    table_id: str
    schema: pa.Schema
    partitioned_by: tuple[str, ...]
    properties: Mapping[str, str]
    has_vectors: bool
    _table: DeltaTable

    def live_files(self) -> list[DataFile]:
        """The version's files, sorted by path; their deletion vectors are still to be found."""
        actions = pa.table(self._table.get_add_actions())
        values = actions.column("partition").to_pylist() if self.partitioned_by else [{}] * actions.num_rows
        names = ("path", "size_bytes", "modification_time", "num_records")
        rows = zip(*(actions[name].to_pylist() for name in names), values, strict=True)
        files = [DataFile(unquote(path), *rest) for path, *rest in rows]
        return sorted(files, key=lambda file: file.path)


def open_log(uri: str, version: int | None = None, options: Mapping[str, str] | None = None) -> Log:
    """Open a table's log at a version; None is the newest.

    Raises:
        NoTableError: there is no Delta table; TableError: its folder or object store cannot be reached.
        SnapshotError: the version is not there, its commit is torn, or the table uses a reader feature that Millrace
            does not know.
    """
    uri = _plain(uri)
    table = _open_table(uri, version, options or {})
    refuse_torn(uri, table.version())
    features = set(table.protocol().reader_features or [])
    _refuse_unknown(features, uri)
    metadata = table.metadata()
    return Log(
        uri=uri,
        version=table.version(),
        table_id=str(metadata.id),
        schema=pa.schema(table.schema().to_arrow()),
        partitioned_by=tuple(metadata.partition_columns),
        properties=dict(metadata.configuration),
        has_vectors="deletionVectors" in features,
        _table=table,
    )


def refuse_torn(uri: str, version: int) -> None:
    """See that the commit of a version is whole where its file lies on a disk: a store has whole files alone.

    A file that was cut off when a machine went down, or is empty, is no error to Delta: what it did is not seen.

    Raises:
        SnapshotError: it is cut off.
    """
    file = Path(_plain(uri), "_delta_log", f"{version:020d}.json")
    try:
        with file.open("rb") as held:
            held.seek(max(0, file.stat().st_size - _END))
            end = held.read().rstrip()
    except OSError:  # log clean-up took it, or it lies on no disk of this machine
        return
    if not _is_whole(end.rpartition(b"\n")[2]):
        raise SnapshotError(
            f"a commit of table '{_plain(uri)}' is cut off, and its rows would be missing without a word: restore "
            f"'{file}' from a copy. Where it is the newest one, it may be removed instead, and what wrote it run again"
        )


def _is_whole(line: bytes) -> bool:
    """Whether a commit's last line is one: of one that is longer than what was read, whether it ends as one does."""
    if len(line) >= _END:
        return line.endswith(b"}")
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def has_files(uri: str, version: int, options: Mapping[str, str] | None = None) -> bool:
    """Whether the files of a version are still there; no file is opened.

    Only those can be gone that the newest version has no more, once VACUUM has run. It removes what one commit replaced
    together, so of very many a thousand or two are looked for, spread evenly.

    Raises:
        NoTableError: there is no Delta table; TableError: its folder or object store cannot be reached.
        SnapshotError: the version is not in the log, or the table uses a reader feature that Millrace does not know.
    """
    log = open_log(uri, version, options)
    held = set(_places(open_log(uri, None, options), options or {}))
    replaced = [path for path in _places(log, options or {}) if path not in held]
    places = [split_root(path) for path in replaced[:: max(1, len(replaced) // _LOOKED_FOR)]]
    roots = {root: filesystem(root or log.uri, {}, options or {}) for root, _ in places}

    def is_there(place: tuple[str, str]) -> bool:
        root, path = place
        return bool(roots[root].get_file_info(path).type != pyarrow.fs.FileType.NotFound)

    try:
        with ThreadPoolExecutor(_THREADS) as threads:
            return all(threads.map(is_there, places))
    except OSError as error:
        raise TableError(
            f"files of version {version} of table '{log.uri}' cannot be looked for: {reason(error)}. See that this "
            "process may read them, and that the store answers (docs/loader.md)"
        ) from None


def with_vectors(log: Log, files: Sequence[DataFile], options: Mapping[str, str]) -> tuple[DataFile, ...]:
    """Files of a version with their deletion vectors, which delta-rs does not tell.

    Raises:
        SnapshotError: the log cannot be read for them.
    """
    if not log.has_vectors or not files:
        return tuple(files)
    try:
        folder = filesystem(log.uri, {}, options)
        vectors = find_vectors(folder, log.uri, log.version, {file.path for file in files})
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SnapshotError(
            f"the log of table '{log.uri}' cannot be read for its deletion vectors: {reason(error)}. Restore the "
            "folder _delta_log, or see that the store answers (docs/loader.md)"
        ) from (None if from_store(error) else error)
    return tuple(replace(file, vector=vectors.get(file.path)) for file in files)


def _places(log: Log, options: Mapping[str, str]) -> list[str]:
    """Data files and deletion vectors of a version, as its log names them."""
    files = with_vectors(log, log.live_files(), options)
    vectors = {file.vector.path for file in files if file.vector is not None and file.vector.path is not None}
    return [*(file.path for file in files), *sorted(vectors)]


def filesystems(uri: str, files: Iterable[DataFile], options: Mapping[str, str]) -> dict[str, pyarrow.fs.FileSystem]:
    """Where a table's files lie: the local disk by path, all else through delta-rs, with the same credentials.

    Delta-rs asks a store for a file's size, and holds Python's lock meanwhile, unless it is told: so it is told.

    Returns:
        A file system by the root that `split_root` gives, of each file and of its deletion vector.
    """
    sizes: dict[str, dict[str, int]] = {"": {}}
    for file in files:
        root, path = split_root(file.path)
        sizes.setdefault(root, {})[path] = file.size
        if file.vector is not None and file.vector.path is not None:
            sizes.setdefault(split_root(file.vector.path)[0], {})
    return {root: filesystem(root or uri, known, options) for root, known in sizes.items()}


def filesystem(place: str, sizes: dict[str, int], options: Mapping[str, str]) -> pyarrow.fs.FileSystem:
    """The file system of a table's folder or of a bucket; `sizes` are the files' that are known."""
    if place == LOCAL:
        return pyarrow.fs.LocalFileSystem()
    if "://" in place:
        return pyarrow.fs.PyFileSystem(DeltaStorageHandler(place, dict(options), sizes))
    return pyarrow.fs.SubTreeFileSystem(place, pyarrow.fs.LocalFileSystem())


def _open_table(uri: str, version: int | None, options: Mapping[str, str]) -> DeltaTable:
    try:
        with _plainly_named(uri) as place:
            return DeltaTable(place, version=version, storage_options={**_OPENING, **options})
    except TableNotFoundError as error:
        raise NoTableError(f"there is no Delta table at '{uri}'; write it first, or correct the path") from error
    except DeltaError as error:
        wanted = "the newest version" if version is None else f"version {version}"
        raise SnapshotError(
            f"{wanted} of table '{uri}' cannot be opened: {reason(error)}. A version that is still to come, that "
            "log clean-up removed, or that needs an unknown reader feature cannot be pinned; see DESCRIBE HISTORY"
        ) from error
    except OSError as error:
        remedy = (
            "See that bucket, region and endpoint are right and that this process has credentials: AWS_ACCESS_KEY_ID, "
            "AWS_ENDPOINT_URL and the like in its environment, or storage_options (docs/loader.md)"
            if "://" in uri
            else "See that this process may read it"
        )
        raise TableError(f"table '{uri}' cannot be reached: {reason(error)}. {remedy}") from None


@contextmanager
def _plainly_named(uri: str) -> Iterator[str]:
    """A place whose name delta-rs takes as it is: it looks for a local log where what looks like an escape is undone.

    It takes a link to the table for the table; so the log is what is linked. All of it is read while it is opened.
    """
    if "://" in uri or not _ESCAPE.search(uri):
        yield uri
        return
    with TemporaryDirectory() as folder:
        Path(folder, "_delta_log").symlink_to(Path(uri, "_delta_log"))
        yield folder


def _refuse_unknown(features: set[str], uri: str) -> None:
    unknown = sorted(features - READER_FEATURES)
    if unknown:
        raise SnapshotError(
            f"table '{uri}' needs reader features that Millrace does not know: {', '.join(unknown)}. "
            "Drop them (ALTER TABLE ... DROP FEATURE), or write what training needs to another table"
        )


def _plain(uri: str) -> str:
    """A local path without its scheme; other URLs as they are."""
    if uri.startswith("dbfs:/"):
        return "/dbfs/" + uri.removeprefix("dbfs:/").lstrip("/")
    if uri.startswith("file:"):
        uri = unquote(urlparse(uri).path)
    return uri.rstrip("/") if "://" in uri else str(Path(uri).absolute())
