"""How the names of files end that are read of a folder, by format. Needs no Spark."""

from __future__ import annotations

import re

COMPRESSED = ("bz2", "deflate", "gz", "lz4", "snappy", "zst")  # by which Hadoop's codecs know a file
ONLY_COMPRESSED = {"images": (), "idx": ("gz",)}  # by format, where Hadoop's codecs do not read it
SUFFIXES = {  # of a folder's files, by format; in small or in capital letters
    "csv": ("csv", "tsv", "psv"),
    "json": ("json", "jsonl", "ndjson"),
    "parquet": ("parquet", "pq"),
    "images": ("png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff"),
    "idx": ("idx1-ubyte", "idx3-ubyte"),
}
BEFORE = {"idx": "-"}  # what stands before a suffix; else a dot


def endings_of(of_format: str) -> list[str]:
    """The endings, in small letters and without those of what is compressed."""
    return [f"{BEFORE.get(of_format, '.')}{each}" for each in SUFFIXES[of_format]]


def pattern_of(of_format: str) -> str:
    """The regular expression that a name's end matches if the file can be of a format."""
    before = re.escape(BEFORE.get(of_format, "."))
    how = compressed_of(of_format)
    behind = rf"(\.({'|'.join(how)}))?" if how else ""
    return rf"{before}({'|'.join(_suffixes(of_format))}){behind}$"


def glob_of(of_format: str) -> str:
    """The same as Hadoop writes it."""
    suffixes = _suffixes(of_format)
    every = [*suffixes, *(f"{each}.{how}" for each in suffixes for how in compressed_of(of_format))]
    return f"*{BEFORE.get(of_format, '.')}{{{','.join(every)}}}"


def compressed_of(of_format: str) -> tuple[str, ...]:
    """The endings of what is compressed that may stand behind the others."""
    return ONLY_COMPRESSED.get(of_format, COMPRESSED)


def _suffixes(of_format: str) -> list[str]:
    return [written for each in SUFFIXES[of_format] for written in (each, each.upper())]
