"""Sources whose rows are pictures: a folder of their files, and the idx files that MNIST and its like come in.

Of idx files each pair of `PART-images-idx3-ubyte` and `PART-labels-idx1-ubyte` gives the pictures of a part. There is
no time in them: those of the part `train` get one of the 1,000 days from 2000-01-01 on, by a hash, all others one of
the 1,000 days after these, so that a cut between them is the split that the set comes with.
"""

from __future__ import annotations

import gzip
import io
import math
import posixpath
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.source import LITERAL, Raw, Source, column
from jobs.source_rows import HASHED_DAYS, HASHED_FROM
from spark_udfs.moments import DAY_US
from spark_udfs.png import png
from training.errors import DataError

AT_ONCE = 2_000  # pictures of a batch
MOST_BYTES = 1 << 30  # of an idx file, unpacked
LEARNT = "train"  # the part that is not held out
KINDS = {3: b"\x00\x00\x08\x03", 1: b"\x00\x00\x08\x01"}  # how a file of bytes in so many dimensions begins
_SCHEME = re.compile("^[A-Za-z][A-Za-z0-9+.-]*:(//[^/]*)?")
_ROWS = pa.schema([("item_id", pa.string()), ("part", pa.string()), ("label", pa.string()), ("picture", pa.binary())])


def images(spark: SparkSession, source: Source) -> Raw:
    """A row a file: `file` (its name), `path` (from the source's folder on), `folder` (the name of the one that it lies
    in, null of the source's own), `modified`, and `content`."""
    path = _path_of(source)
    rows = _files(spark, source).select(
        F.regexp_extract(path, "([^/]+)$", 1).alias("file"),
        path.alias("path"),
        F.when(F.contains(path, F.lit("/")), F.regexp_extract(path, "([^/]+)/[^/]+$", 1)).alias("folder"),
        F.col("modificationTime").alias("modified"),
        "content",
        *(column(name) for name in source.partitions),
    )
    return Raw(rows, None, rows.dtypes)


def _path_of(source: Source) -> Column:
    """A file's path from the source's folder on, of a pattern from the part on that is one; its name where it is the
    source itself; the whole of one that lies elsewhere, as the relative path of a store does."""
    is_url = re.match("[A-Za-z][A-Za-z0-9+.-]*:", source.name) is not None
    named = _SCHEME.sub("", source.name) if is_url else str(Path(source.name).absolute())
    parts = posixpath.normpath(named).split("/")
    if not LITERAL.items() <= source.options.items():
        parts = list(takewhile(lambda part: not set(part) & set("*?[{\\"), parts))
    root = "/".join(parts).rstrip("/")
    whole = F.regexp_replace("path", _SCHEME.pattern, "")
    below = F.substr(whole, F.lit(len(root.encode("utf-16-le")) // 2 + 2))
    itself = F.regexp_extract(whole, "([^/]+)$", 1)
    return F.when(F.startswith(whole, F.lit(f"{root}/")), below).when(whole == root, itself).otherwise(whole)


def idx(spark: SparkSession, source: Source) -> Raw:
    """A row a picture: `item_id`, `part`, `label`, `picture` (PNG, grey), and `time`.

    Raises:
        DataError: a part lacks one of its files, has one twice, or they do not fit together.
    """
    name = F.lower(F.regexp_extract("path", "([^/]+)$", 1))
    which = "^(.*?)-?(images-idx3|labels-idx1)-ubyte[^/]*$"
    files = _files(spark, source).select(
        "path",
        "content",
        F.regexp_extract("path", "^(.*/)", 1).alias("folder"),
        F.regexp_extract(name, which, 1).alias("part"),
        F.regexp_extract(name, which, 2).alias("kind"),
    )
    _refuse_more_than_one(source, files)
    held = files.groupBy("folder", "part").agg(
        F.max(F.when(F.col("kind") == "images-idx3", F.col("content"))).alias("images"),
        F.max(F.when(F.col("kind") == "labels-idx1", F.col("content"))).alias("labels"),
    )
    for part, fault in held.mapInArrow(_faults, "part string, fault string").where("fault IS NOT NULL").collect():
        raise DataError(f"'{source.name}' has idx files of the part '{part}' that cannot be read: {fault}")
    rows = held.mapInArrow(_pictures, "item_id string, part string, label string, picture binary")
    days = F.when(F.col("part") == LEARNT, F.lit(0)).otherwise(F.lit(HASHED_DAYS))
    begins = F.lit(int(HASHED_FROM.timestamp()) * 1_000_000) + days * F.lit(DAY_US)
    since = F.pmod(F.xxhash64("item_id"), F.lit(HASHED_DAYS * DAY_US))
    rows = rows.withColumn("time", F.timestamp_micros(begins + since))
    return Raw(rows, None, rows.dtypes)


def _refuse_more_than_one(source: Source, files: DataFrame) -> None:
    """See that each part has one file of pictures and one of labels: which of several belong together, nobody knows."""
    counted = files.groupBy("part", "kind").agg(F.count(F.lit(1)), F.min("path"), F.max("path"))
    for part, kind, count, first, last in counted.where("`count(1)` > 1").orderBy("part", "kind").limit(1).collect():
        raise DataError(
            f"'{source.name}' must have one file {kind}-ubyte of the part '{part}'; it has {count:,}, such as "
            f"'{first}' and '{last}': name the folder of one, or give the parts other names"
        )


# Of small files, which are read whole: at Spark's own 4 MB to open one, 32 of them would be a task and a table's file.
READING = {"spark.sql.files.openCostInBytes": str(1 << 17)}
FORMATS: Mapping[str, Callable[[SparkSession, Source], Raw]] = {"images": images, "idx": idx}


def _files(spark: SparkSession, source: Source) -> DataFrame:
    return spark.read.format("binaryFile").options(**source.read_options).load(source.paths)


def _faults(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """What is wrong with each part's files."""
    for batch in batches:
        faults: list[str | None] = []
        for images, labels in zip(batch["images"], batch["labels"], strict=True):
            try:
                _unpacked(images.as_py(), labels.as_py())
                faults.append(None)
            except DataError as error:
                faults.append(str(error))
        yield pa.record_batch([batch["part"], pa.array(faults, pa.string())], ["part", "fault"])


def _pictures(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for part, *files in zip(batch["part"].to_pylist(), batch["images"], batch["labels"], strict=True):
            images, labels = _unpacked(*(file.as_py() for file in files))
            for start in range(0, len(images), AT_ONCE):
                rows = range(start, min(start + AT_ONCE, len(images)))
                columns = [
                    pa.array([f"{part}-{row:06d}" for row in rows]),
                    pa.array([part] * len(rows)),
                    pa.array([str(labels[row]) for row in rows]),
                    pa.array([png(images[row]) for row in rows], pa.binary()),
                ]
                yield pa.record_batch(columns, schema=_ROWS)


def _unpacked(images: bytes | None, labels: bytes | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(pictures, height, width, 1) and (pictures,).

    Raises:
        DataError: one is not there, is no such file, or is of another number of pictures.
    """
    pixels, classes = _bytes_of(images, 3, "images"), _bytes_of(labels, 1, "labels")
    if len(pixels) != len(classes):
        raise DataError(f"there must be a label for each picture; there are {len(classes):,} for {len(pixels):,}")
    return pixels[..., None], classes


def _bytes_of(file: bytes | None, dimensions: int, what: str) -> NDArray[np.uint8]:
    if file is None:
        raise DataError(f"there is no file {what}-idx{dimensions}-ubyte")
    try:
        held = gzip.GzipFile(fileobj=io.BytesIO(file)).read(MOST_BYTES + 1) if file[:2] == b"\x1f\x8b" else file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{what} are cut short: {error}") from error
    if len(held) > MOST_BYTES:
        raise DataError(f"{what} must have {MOST_BYTES:,} bytes at most; they have more: make several parts of them")
    start = 4 + 4 * dimensions
    if held[:4] != KINDS[dimensions] or len(held) < start:
        raise DataError(f"{what} must begin as idx files of bytes in {dimensions} dimensions do; they do not")
    shape = struct.unpack(f">{dimensions}I", held[4:start])
    if len(held) - start != (size := math.prod(shape)):
        raise DataError(f"{what} must have {size:,} bytes, as their first ones say; they have {len(held) - start:,}")
    return np.frombuffer(held, np.uint8, offset=start).reshape(shape)
