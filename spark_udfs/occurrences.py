"""Where ids stand in the bytes of files: in Parquet's columns, in JSON, and in anything else as it lies there.

An id is looked for in two ways. In a column of users, or as the JSON value of a key of that name, it must be the whole
value (blanks around do not count). Anywhere else it must be a whole word: no letter, digit or underscore before it or
after it. There only *telling* ids are looked for, of six characters or more with a letter and a digit (or an @): that
"12" stands in a file, as a quantity or a day, says nothing of customer 12.

Parquet is compressed, so its columns of text are decoded: every row of a file, those that a deletion vector hides too.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

FOUND = "path string, places bigint"
ONE_FILE_A_BATCH = {"spark.sql.execution.arrow.maxRecordsPerBatch": "1"}
SHORTEST = 6  # characters of a telling id
_WORD = re.compile(rb"[0-9A-Za-z_\x80-\xff]+")
_SEPARATOR = re.compile(r'[,;|\t"]')  # of the fields of a line that has no columns
_ESCAPED = b"ntrbfu"  # what follows a backslash in JSON
_AFTER_ESCAPE = re.compile(rb"\\[ntrbfu]([0-9A-Za-z_\x80-\xff]+)")


def is_telling(user_id: str) -> bool:
    """Whether an id that stands somewhere as a word can hardly be anything else."""
    letter, digit = re.search(r"[^\W\d_]", user_id), re.search(r"\d", user_id)
    return len(user_id) >= SHORTEST and letter is not None and (digit is not None or "@" in user_id)


def trimmed(text: str) -> str:
    """Without blanks around: what Spark's trim leaves."""
    return text.strip(" ")


class Finder:
    """Looks for ids.

    Args:
        ids: the ids, without blanks around; may be a million.
        columns: names of columns, and keys of JSON, that hold users.
        clean: makes of a raw value the id that ingest makes of it.
    """

    def __init__(self, ids: Iterable[str], columns: Iterable[str], clean: Callable[[str], str] | None = None) -> None:
        self._ids, self._clean = frozenset(ids), clean or trimmed
        self.columns = frozenset(columns)
        keys = "|".join(re.escape(name) for name in sorted(self.columns))
        self._of_key = re.compile(rf'\\*"(?:{keys})\\*"\s*:\s*\\*"((?:[^"\\]|\\[^"])*)'.encode())
        self._words: dict[bytes, list[tuple[int, bytes]]] = {}
        for form in {form for user_id in self._ids if is_telling(user_id) for form in _forms(user_id)}:
            self._add(form)

    def is_one(self, value: str) -> bool:
        """Whether a value is an id."""
        return self._clean(value) in self._ids

    def names(self, text: str) -> bool:
        """Whether a JSON text has an id as the value of any key, or anything that `places` counts."""
        values = [piece for value in _values(text) for piece in (value, *_SEPARATOR.split(value))]
        return any(self.is_one(value) for value in values) or self.places(text.encode()) > 0

    def places(self, data: bytes) -> int:
        """How often ids stand in bytes: as words, and as values of a user's key in JSON."""
        as_values = sum(self.is_one(found[1].decode(errors="replace")) for found in self._of_key.finditer(data))
        return as_values + (self._as_words(data) if self._words else 0)

    def in_parquet(self, file: pa.NativeFile | io.BytesIO) -> int:
        """In how many row groups, columns and distinct values of a Parquet file ids stand."""
        parquet = pq.ParquetFile(file)
        leaves = [parquet.schema.column(number) for number in range(len(parquet.schema))]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        if not texts:
            return 0
        groups = (parquet.read_row_group(number, columns=texts) for number in range(parquet.num_row_groups))
        return sum(self._in_values(name, values) for group in groups for name, values in _columns(group))

    def _in_values(self, name: str, values: Sequence[str | bytes]) -> int:
        texts = [value.encode() if isinstance(value, str) else value for value in values]
        if name in self.columns:
            return sum(self.is_one(text.decode(errors="replace")) for text in texts)
        return self.places(b"\n".join(texts))

    def _add(self, form: bytes) -> None:
        first = _WORD.search(form)
        assert first is not None  # a telling id has a letter
        self._words.setdefault(first.group(), []).append((first.start(), form))

    def _as_words(self, data: bytes) -> int:
        first = self._words.keys()
        if first.isdisjoint(_WORD.findall(data)) and first.isdisjoint(_AFTER_ESCAPE.findall(data)):
            return 0  # what most data gets, without a step of Python's for each word
        return sum(self._is_at(data, word.start(), word.group()) for word in _WORD.finditer(data))

    def _is_at(self, data: bytes, start: int, word: bytes) -> bool:
        if any(_stands(data, start - offset, form) for offset, form in self._words.get(word, ())):
            return True
        after_backslash = start > 0 and data[start - 1 : start] == b"\\" and word[:1] in [bytes([c]) for c in _ESCAPED]
        return after_backslash and self._is_at(data, start + 1, word[1:]) if len(word) > 1 else False


def find(
    spark: SparkSession, folders: Sequence[str], finder: Finder, others: Mapping[str, Finder] | None = None
) -> DataFrame:
    """The files below folders in which ids stand: `path`, `places`. The executors read them, each file whole.

    Run it with ONE_FILE_A_BATCH as the session's settings: a batch goes to Python at once.

    Args:
        spark: the session.
        folders: of any file system that Spark reads; folders below one that begin with _ or . must be named.
        finder: what to look for; it travels to each task.
        others: what to look for instead in files whose path has such a part.
    """
    literal = {"__globPaths__": "false", "recursiveFileLookup": "true"}
    files = spark.read.format("binaryFile").options(**literal).load(list(folders)).select("path", "content")

    special = dict(others or {})

    def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for path, content in zip(batch.column(0), batch.column(1), strict=True):
                name = path.as_py()
                wanted = next((other for part, other in special.items() if part in name), finder)
                places = in_file(name, content.as_buffer(), wanted)
                if places:
                    yield pa.record_batch([pa.array([name]), pa.array([places], pa.int64())], ["path", "places"])

    return files.mapInArrow(look, FOUND)


def in_file(path: str, content: pa.Buffer | bytes, finder: Finder) -> int:
    """In how many places of one file ids stand."""
    suffix = PurePosixPath(path).suffix
    if suffix == ".parquet":
        return finder.in_parquet(pa.BufferReader(content))
    data = bytes(content)
    return finder.places(gzip.decompress(data) if suffix == ".gz" else data)


def _stands(data: bytes, start: int, form: bytes) -> bool:
    """Whether a form stands there, and as a whole word."""
    end = start + len(form)
    if start < 0 or data[start:end] != form:
        return False
    ends_in_word = _WORD.match(form[-1:]) is not None
    return not (ends_in_word and _WORD.match(data[end : end + 1]))


def _forms(user_id: str) -> set[bytes]:
    """An id as it may be written: as it is, as a JSON string, and as one in a JSON string."""
    forms = {user_id}
    for _ in range(2):
        forms |= {json.dumps(form, ensure_ascii=ascii)[1:-1] for form in forms for ascii in (True, False)}
    return {form.encode() for form in forms}


def _values(text: str) -> list[str]:
    try:
        held = json.loads(text)
    except ValueError:
        return []
    return [value for value in held.values() if isinstance(value, str)] if isinstance(held, dict) else []


def _columns(group: pa.Table) -> Iterator[tuple[str, Sequence[str | bytes]]]:
    """The innermost columns of text with their distinct values, by name."""
    for name in group.column_names:
        for chunk in group.column(name).chunks:
            yield from _texts(name, chunk)


def _texts(name: str, array: pa.Array) -> Iterator[tuple[str, Sequence[str | bytes]]]:
    kind = array.type
    if pa.types.is_struct(kind):
        for number in range(kind.num_fields):
            yield from _texts(kind[number].name, array.field(number))
    elif pa.types.is_map(kind):
        yield from _texts(name, array.keys)
        yield from _texts(name, array.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _texts(name, array.values)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        yield name, pc.unique(array).drop_null().to_pylist()
