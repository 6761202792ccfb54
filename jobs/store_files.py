"""Files of any store that Hadoop knows: what lies in a folder, and its removal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from training.errors import TableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession


# What a Delta table keeps in hidden folders.
OF_DELTA = frozenset({"_delta_log", "_change_data", "_delta_index", "_symlink_format_manifest"})


class File(NamedTuple):
    """A file.

    Attributes:
        path: its URL.
        name: the last part of it.
        modified: milliseconds since 1970.
    """

    path: str
    name: str
    modified: int


def files_in(spark: SparkSession, folder: str) -> list[File]:
    """The files right in a folder, hidden ones too; none if there is no such folder."""
    place, store = _open(spark, folder)
    if not store.exists(place):
        return []
    held = [status for status in store.listStatus(place) if status.isFile()]
    return [
        File(status.getPath().toString(), status.getPath().getName(), status.getModificationTime()) for status in held
    ]


def folders_in(spark: SparkSession, folder: str) -> list[str]:
    """The names of the folders right in a folder; none if there is no such folder."""
    place, store = _open(spark, folder)
    if not store.exists(place):
        return []
    return sorted(status.getPath().getName() for status in store.listStatus(place) if status.isDirectory())


def tables_in(spark: SparkSession, folder: str) -> list[str]:
    """The names of the Delta tables right in a folder; none if there is no such folder."""
    place, store = _open(spark, folder)
    jvm: Any = spark._jvm
    logs = {name: jvm.org.apache.hadoop.fs.Path(place, f"{name}/_delta_log") for name in folders_in(spark, folder)}
    return [name for name, log in logs.items() if store.exists(log)]


def qualified(spark: SparkSession, path: str) -> str:
    """A path as listings have it: absolute, and with its scheme."""
    place, store = _open(spark, path)
    return str(store.makeQualified(place).toString())


def below(spark: SparkSession, folder: str) -> Iterator[str]:
    """The paths of all files below a folder, hidden ones too."""
    place, store = _open(spark, folder)
    files = store.listFiles(place, True)
    while files.hasNext():
        yield str(files.next().getPath().toString())


def content(spark: SparkSession, path: str) -> bytes:
    """A file's bytes, read by the driver."""
    place, store = _open(spark, path)
    jvm: Any = spark._jvm
    stream = store.open(place)
    try:
        return bytes(jvm.org.apache.commons.io.IOUtils.toByteArray(stream))
    finally:
        stream.close()


def first_line(spark: SparkSession, path: str) -> str:
    """A file's first line (UTF-8), read by the driver; empty if the file is."""
    place, store = _open(spark, path)
    jvm: Any = spark._jvm
    stream = store.open(place)
    try:
        return str(jvm.java.io.BufferedReader(jvm.java.io.InputStreamReader(stream, "UTF-8")).readLine() or "")
    finally:
        stream.close()


def listing(spark: SparkSession, folder: str) -> str:
    """The paths of what lies right in a folder, "[a, b]": all in one call, where there may be very many.

    Raises:
        Py4JJavaError: there is no such folder.
    """
    place, store = _open(spark, folder)
    jvm: Any = spark._jvm
    paths = jvm.org.apache.hadoop.fs.FileUtil.stat2Paths(store.listStatus(place))
    gateway: Any = spark.sparkContext._gateway
    held = gateway.new_array(jvm.java.lang.Object, len(paths))  # py4j takes no Path[] for one
    jvm.java.lang.System.arraycopy(paths, 0, held, 0, len(paths))
    return str(jvm.java.util.Arrays.toString(held))


def beside(spark: SparkSession, path: str, suffix: str) -> list[str]:
    """Folders beside a path whose names begin as it does, with `suffix` after it."""
    place, store = _open(spark, path)
    parent, begin = place.getParent(), place.getName() + suffix
    if not store.exists(parent):
        return []
    held = [status.getPath() for status in store.listStatus(parent) if status.isDirectory()]
    return sorted(found.toString() for found in held if found.getName().startswith(begin))


def leftovers(spark: SparkSession, folder: str, oldest: float) -> list[str]:
    """Hidden files and folders of a table's folder, and of its partitions', that belong to no reader of it.

    Args:
        spark: the session.
        folder: the table's.
        oldest: milliseconds since 1970; what was changed later is left out.
    """
    place, store = _open(spark, folder)
    glob: Any = spark._jvm.org.apache.hadoop.fs.GlobFilter  # type: ignore[union-attr]
    hidden = [(status.getPath(), status.getModificationTime()) for status in store.listStatus(place, glob("[._]*"))]
    named = [(path.toString(), path.getName(), modified) for path, modified in hidden]
    found = [
        path
        for path, name, modified in named
        if modified <= oldest and name not in OF_DELTA and "=" not in name and not name.endswith(".crc")
    ]
    partitions = [status.getPath() for status in store.listStatus(place, glob("*=*")) if status.isDirectory()]
    return found + [path for part in partitions for path in leftovers(spark, part.toString(), oldest)]


def remove(spark: SparkSession, path: str) -> None:
    """Remove a file, or a folder with all that lies in it; one that is gone is no error.

    Raises:
        TableError: it is still there afterwards.
    """
    place, store = _open(spark, path)
    store.delete(place, True)
    if store.exists(place):
        raise TableError(f"'{path}' must be gone, and cannot be removed: see who owns it, and run the command again")


def _open(spark: SparkSession, path: str) -> tuple[Any, Any]:
    jvm: Any = spark._jvm
    session: Any = spark._jsparkSession
    place = jvm.org.apache.hadoop.fs.Path(path)
    return place, place.getFileSystem(session.sessionState().newHadoopConf())
