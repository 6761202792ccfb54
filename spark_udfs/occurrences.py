"""Where ids stand in the bytes of files: in Parquet's columns, in JSON, and in anything else as it lies there.

An id is looked for in two ways. In a column of users, or as the JSON value of a key of that name, it must be the whole
value (blanks around do not count). Anywhere else it must be a whole word: no letter, digit or underscore before it or
after it. There only *telling* ids are looked for, of six characters or more with a letter and a digit (or an @): that
"12" stands in a file, as a quantity or a day, says nothing of customer 12.

Parquet is compressed, so its columns of text are decoded: every row of a file, those that a deletion vector hides too.
So are those of Arrow files, in which nothing lies between one text and the next.
"""

from __future__ import annotations

import copy
import gzip
import html
import io
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

FOUND = "path string, places bigint"
ONE_FILE_A_BATCH = {"spark.sql.execution.arrow.maxRecordsPerBatch": "1"}
SHORTEST = 6  # characters of a telling id
UNREADABLE = -1  # places in a file that cannot be decoded: nobody knows
_WORD = re.compile(rb"[0-9A-Za-z_\x80-\xff]+")
# A word right after an escape of JSON: there the letters of both look like one word.
_AFTER_ESCAPE = re.compile(rb"\\(?:[ntrbf]|u[0-9a-fA-F]{4})([0-9A-Za-z_\x80-\xff]+)")
_PLAIN = re.compile(r"[0-9A-Za-z_@.+=:/#|,; -]*")  # is written everywhere as it is
_DEPTHS = (0, 1, 2)  # of JSON that is itself a text in JSON
_PARQUET, _ARROW, _GZIP = b"PAR1", b"ARRO", b"\x1f\x8b\x08"


def is_telling(user_id: str) -> bool:
    """Whether an id that stands somewhere as a word can hardly be anything else."""
    letter, digit = re.search(r"[^\W\d_]", user_id), re.search(r"\d", user_id)
    return len(user_id) >= SHORTEST and letter is not None and (digit is not None or "@" in user_id)


def trimmed(text: str) -> str:
    """Without blanks around: what Spark's trim leaves."""
    return text.strip(" ")


class Finder:
    """Looks for ids. The work grows with the data, not with the number of ids.

    Args:
        ids: the ids, without blanks around; may be a million.
        columns: names of columns, and keys of JSON, that hold users.
        clean: makes of a raw value the id that ingest makes of it.
    """

    def __init__(self, ids: Iterable[str], columns: Iterable[str], clean: Callable[[str], str] | None = None) -> None:
        self._ids, self._clean = frozenset(ids), clean or trimmed
        self._forms = {form for user_id in self._ids if is_telling(user_id) for form in _forms(user_id)}
        self._shapes = _shapes(self._forms)
        self._watch(columns)

    def of_columns(self, columns: Iterable[str]) -> Finder:
        """One for the same ids, which it shares, and other columns."""
        other = copy.copy(self)
        other._watch(columns)
        return other

    def is_one(self, value: str) -> bool:
        """Whether a value is an id."""
        return self._clean(value) in self._ids

    def names(self, text: str, aside: Collection[str] = ()) -> bool:
        """Whether a JSON text has an id as a value that `may_name` a person, or anything that `places` counts."""
        return any(self.is_one(value) for value in may_name(text, aside)) or self.places(text.encode()) > 0

    def places(self, data: bytes) -> int:
        """How often ids stand in bytes: as words, and as values of a user's key in JSON."""
        return self._as_values(data) + (self._as_words(data) if self._forms else 0)

    def in_parquet(self, file: pa.NativeFile | io.BytesIO) -> int:
        """In how many row groups, columns and distinct values of a Parquet file ids stand."""
        parquet = pq.ParquetFile(file)
        leaves = [parquet.schema.column(number) for number in range(len(parquet.schema))]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        if not texts:
            return 0
        groups = (parquet.read_row_group(number, columns=texts) for number in range(parquet.num_row_groups))
        return sum(self._in_values(name, values) for group in groups for name, values in _columns(group))

    def in_arrow(self, file: pa.NativeFile) -> int:
        """In how many batches, columns and distinct values of an Arrow file ids stand: there texts lie side by side."""
        return sum(self._in_values(name, values) for name, values in _columns(pa.ipc.open_file(file).read_all()))

    def _watch(self, columns: Iterable[str]) -> None:
        self.columns = frozenset(columns)
        self._keys = sorted({form for name in self.columns for form in _forms(name)})
        self._of_key = [_of_key(self._keys, depth) for depth in _DEPTHS]

    def _in_values(self, name: str, values: Sequence[bytes]) -> int:
        if name in self.columns:
            return sum(self.is_one(value.decode(errors="replace")) for value in values)
        return self.places(b"\n".join(values))

    def _as_values(self, data: bytes) -> int:
        if not any(key in data for key in self._keys):
            return 0
        found = ((match[1], depth) for depth, key in enumerate(self._of_key) for match in key.finditer(data))
        return sum(self.is_one(_decoded(value, depth)) for value, depth in found)

    def _as_words(self, data: bytes) -> int:
        held = {*_WORD.findall(data), *_AFTER_ESCAPE.findall(data)}
        if self._forms.isdisjoint(held) and self._shapes.keys().isdisjoint(held):
            return 0  # what most data gets, without a step of Python's for each word
        words = ((match.start(), match.group()) for match in _WORD.finditer(data))
        after = ((match.start(1), match[1]) for match in _AFTER_ESCAPE.finditer(data))
        return sum(self._is_at(data, *word) for found in (words, after) for word in found)

    def _is_at(self, data: bytes, start: int, word: bytes) -> bool:
        """Whether an id stands there whose first word this is."""
        if word in self._forms:
            return True
        shapes = self._shapes.get(word)
        return shapes is not None and any(self._stands(data, start - offset, length) for offset, length in shapes)

    def _stands(self, data: bytes, start: int, length: int) -> bool:
        """Whether these bytes are an id, and a whole word."""
        end = start + length
        if start < 0 or data[start:end] not in self._forms:
            return False
        ends_in_word = _WORD.match(data, end - 1) is not None
        return not (ends_in_word and _WORD.match(data, end))


def find(
    spark: SparkSession, folders: Sequence[str], finder: Finder, others: Mapping[str, Finder] | None = None
) -> DataFrame:
    """The files below folders in which ids stand: `path`, `places`. The executors read them, each file whole.

    Run it with ONE_FILE_A_BATCH as the session's settings: a batch goes to Python at once.

    Args:
        spark: the session.
        folders: of any file system that Spark reads; folders below one that begin with _ or . must be named.
        finder: what to look for; it travels to each task.
        others: what to look for instead in files whose path begins so.
    """
    literal = {"__globPaths__": "false", "recursiveFileLookup": "true"}
    files = spark.read.format("binaryFile").options(**literal).load(list(folders)).select("path", "content")

    special = dict(others or {})

    def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for path, content in zip(batch.column(0), batch.column(1), strict=True):
                name = path.as_py()
                places = in_file(name, content.as_buffer(), finder_for(name, finder, special))
                if places:
                    yield pa.record_batch([pa.array([name]), pa.array([places], pa.int64())], ["path", "places"])

    return files.mapInArrow(look, FOUND)


def finder_for(path: str, finder: Finder, others: Mapping[str, Finder]) -> Finder:
    """Which of the finders is for a file: that of the beginning of its path, or the one for all others."""
    return next((other for begin, other in others.items() if path.startswith(begin)), finder)


def in_file(path: str, content: pa.Buffer | bytes, finder: Finder) -> int:
    """In how many places of one file ids stand; UNREADABLE if it is Parquet, Arrow or gzip that was cut off."""
    suffix, begin = PurePosixPath(path).suffix, memoryview(content)[:4].tobytes()
    if not begin:
        return 0
    try:
        if suffix == ".parquet" or begin == _PARQUET:
            return finder.in_parquet(pa.BufferReader(content))
        if begin == _ARROW:
            return finder.in_arrow(pa.BufferReader(content))
        data = bytes(content)
        return finder.places(gzip.decompress(data) if suffix == ".gz" or begin.startswith(_GZIP) else data)
    except (pa.ArrowException, OSError, EOFError, zlib.error):
        return UNREADABLE


def _of_key(keys: Sequence[bytes], depth: int) -> re.Pattern[bytes]:
    """A user's key with its text, in JSON that is so many times a text in JSON: each time doubles the backslashes.

    A number is no value: the log's `nullCount` has the same keys.
    """
    before = 2**depth - 1  # backslashes before a quote
    unit = 2 * before + 2  # those of one backslash of the text
    quote, within = rf'\\{{{before}}}"', rf'(?:\\{{{unit}}})*\\{{{unit - 1}}}"'
    any_key = b"|".join(re.escape(key) for key in keys).replace(b"%", b"%%")
    text = rf'((?:[^"\\\n]+|\\+[^"\\]|{within})*(?:\\{{{unit}}})*)'
    pattern = rb"(?<!\\)%b(?:%b)%b\s*:\s*%b%b"
    return re.compile(pattern % (quote.encode(), any_key, quote.encode(), quote.encode(), text.encode()))


def _decoded(value: bytes, depth: int) -> str:
    """A text of JSON that is so many times a text in JSON, decoded as far as it is one."""
    text = value.decode(errors="replace")
    if "\\" not in text:
        return text
    with suppress(ValueError):  # bytes that only look like it: what they are up to here is what is compared
        for _ in range(depth + 1):
            text = json.loads(f'"{text}"', strict=False)
    return text


def _shapes(forms: Iterable[bytes]) -> dict[bytes, tuple[tuple[int, int], ...]]:
    """Where ids of several words may begin and how long they are, by their first word: few, however many ids."""
    held: dict[bytes, set[tuple[int, int]]] = {}
    for form in forms:
        first = _WORD.search(form)
        assert first is not None  # a telling id has a letter
        if first.group() != form:
            held.setdefault(first.group(), set()).add((first.start(), len(form)))
    same: dict[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]] = {}
    return {word: same.setdefault(shapes, shapes) for word, found in held.items() for shapes in [tuple(sorted(found))]}


def _forms(text: str) -> set[bytes]:
    """A text as it may be written: as it is, in HTML, and as a JSON string, up to three times over."""
    if _PLAIN.fullmatch(text):
        return {text.encode()}
    forms = {text, html.escape(text), html.escape(text, quote=False)}
    for _ in _DEPTHS:
        forms |= {json.dumps(form, ensure_ascii=ascii)[1:-1] for form in forms for ascii in (True, False)}
    return {form.encode() for form in forms}


def may_name(text: str, aside: Collection[str]) -> Iterator[str]:
    """The values of a raw row (JSON), however deep, that may be a person's id.

    Args:
        text: the row.
        aside: its columns that hold quantities, times and the like: a customer 12 is not meant by a 12 there. Telling
            values count there too.
    """
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        held = text
    for name, value in held.items() if isinstance(held, dict) else [("", held)]:
        yield from (found for found in _within(value) if name not in aside or is_telling(found.strip(" ")))


def _values(text: str) -> Iterator[str]:
    """A text, and if it is JSON all texts and numbers in it."""
    yield text
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        return
    yield from _within(held)


def _within(held: object) -> Iterator[str]:
    if isinstance(held, str):
        yield from _values(held)
    elif isinstance(held, dict | list):
        for value in held.values() if isinstance(held, dict) else held:
            yield from _within(value)
    else:
        yield str(held)


def _columns(group: pa.Table) -> Iterator[tuple[str, Sequence[bytes]]]:
    """The innermost columns of text with their distinct values, by name."""
    for name in group.column_names:
        for chunk in group.column(name).chunks:
            yield from _texts(name, chunk)


def _texts(name: str, array: pa.Array) -> Iterator[tuple[str, Sequence[bytes]]]:
    kind = array.type
    if pa.types.is_struct(kind):
        for number in range(kind.num_fields):
            yield from _texts(kind[number].name, array.field(number))
    elif pa.types.is_map(kind):
        yield from _texts(name, array.keys)
        yield from _texts(name, array.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _texts(name, array.values)
    elif pa.types.is_dictionary(kind):
        yield from _texts(name, array.dictionary)
    elif any(is_text(kind) for is_text in _TEXTS):
        yield name, pc.unique(array).cast(pa.large_binary()).drop_null().to_pylist()


_TEXTS = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)
