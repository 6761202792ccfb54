"""Texts of products by a bundle's decoder, written on the executors: by the record alone, and the same by one seed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.answers import named as column_of
from spark_udfs.faithful import Record, Rule, Values, named
from spark_udfs.lists import Batches, require_columns
from spark_udfs.scoring import opened
from training.state.text_pieces import Pieces

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ROWS = 256  # texts that are written before they are handed on
TRIES = 64  # draws, after which the likeliest token that the rule allows is taken
WRITTEN = "text string, log_probability float, whole boolean"
ENDS = re.compile(r"[.!?](?=\s)|(?<!\d)[.!?]$|[。！？]")  # after a digit, what comes next might have been more of it
_opened: dict[tuple[bytes, int], Pieces] = {}


@dataclass(frozen=True)
class Writing:
    """How texts are written.

    Attributes:
        tokenizer: the content of a tokenizer.json, that of the bundle.
        values: of attributes, over the whole shop; None: a text may say what it likes.
        most: tokens of a text.
        temperature: what logits are divided by; 0: always the likeliest.
        seed: with a row's key it decides all that is drawn.
    """

    tokenizer: bytes
    values: Sequence[str] | None
    most: int
    temperature: float
    seed: int


def written(rows: DataFrame, bundle_path: str, *, key: str, writing: Writing) -> DataFrame:
    """A text of each product.

    Args:
        rows: `key`, `record` (array<bigint>, the tokens that a text goes on from) and `source` (map<string, string>,
            the record's fields).
        bundle_path: of a decoder, readable on every executor.
        key: the column that tells rows apart.
        writing: how.

    Returns:
        `key`, text, log_probability (of a token on the mean, by the model alone), whole (whether it came to its end by
        itself; one that was cut at `most` tokens ends with its last whole sentence).

    Raises:
        SchemaError: `rows` lacks a column.
    """
    require_columns(rows, "rows to write texts of", {"record": "array<bigint>", "source": "map<string,string>"})

    def write_all(batches: Batches) -> Iterator[pa.RecordBatch]:
        _, model = opened(bundle_path)
        values = None if writing.values is None else Values(writing.values)
        for whole in batches:
            for start in range(0, whole.num_rows, ROWS):
                part = whole.slice(start, ROWS)
                found = _texts(model, part, key, writing, values)
                columns = [
                    pa.array(column, kind) for column, kind in zip(zip(*found, strict=True), _KINDS, strict=True)
                ]
                yield pa.record_batch([column_of(part, key), *columns], [key, *_NAMES])

    held = rows.schema[key].dataType.simpleString()
    return rows.select(key, "record", "source").mapInArrow(write_all, f"{key} {held}, {WRITTEN}")


_NAMES = ("text", "log_probability", "whole")
_KINDS = (pa.string(), pa.float32(), pa.bool_())


def _texts(
    model: Any, rows: pa.RecordBatch, key: str, writing: Writing, values: Values | None
) -> list[tuple[str, float, bool]]:
    from training.models.generation import write

    shape, keys = model.network.shape, column_of(rows, key).to_pylist()
    pieces = _pieces(writing.tokenizer, shape.vocab_size)
    records = column_of(rows, "record").to_pylist()
    authors = [
        Author(
            pieces.bytes_of,
            shape.eos_token_id,
            None if values is None else Rule(values, Record.of(dict(fields))),
            writing.temperature,
            drawing(writing.seed, of),
        )
        for of, fields in zip(keys, column_of(rows, "source").to_pylist(), strict=True)
    ]
    write(model.network, records, writing.most, lambda row, logits: authors[row].next(logits))
    return [author.told() for author in authors]


def _pieces(content: bytes, size: int) -> Pieces:
    """Opened once in a worker."""
    if (content, size) not in _opened:
        _opened.clear()
        _opened[content, size] = Pieces("tokenizer.json", content, size)
    return _opened[content, size]


def drawing(seed: int, key: object) -> np.random.Generator:
    """What is drawn for a row, wherever it lies."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


@dataclass
class Author:
    """Writes one text.

    Attributes:
        bytes_of: by token what it stands for; None: it stands in no text.
        end: the token that ends a text.
        rule: what it may say; None: anything.
        temperature: what logits are divided by; 0: always the likeliest.
        drawn: of what is drawn.
    """

    bytes_of: Sequence[bytes | None]
    end: int
    rule: Rule | None
    temperature: float
    drawn: np.random.Generator
    _text: bytes = b""
    _logs: list[float] = field(default_factory=list)
    _whole: bool = False

    def next(self, logits: npt.NDArray[np.float32]) -> int | None:
        """The next token of the text; None: it is at its end."""
        scores = logits.astype(np.float64)
        log_p = scores - np.max(scores)
        log_p -= np.log(np.exp(log_p).sum())
        token = next((token for token in self._candidates(log_p) if self._allows(token)), self.end)
        self._logs.append(float(log_p[token]))
        if token == self.end:
            self._whole = True
            return None
        self._text += self.bytes_of[token] or b""
        return token

    def told(self) -> tuple[str, float, bool]:
        """The text, the mean of its tokens' log probabilities, and whether it came to its end."""
        text = _decoded(self._text)
        if not self._whole:
            text = _to_the_last_sentence(text)
        return text.strip(), float(np.mean(self._logs)) if self._logs else 0.0, self._whole

    def _candidates(self, log_p: npt.NDArray[np.float64]) -> Iterator[int]:
        """Tokens in the order in which they are tried: drawn without putting back, then the likeliest first."""
        if self.temperature > 0:
            p = np.exp((log_p - np.max(log_p)) / self.temperature)
            for _ in range(TRIES):
                sums = np.cumsum(p)
                if sums[-1] <= 1e-12:
                    break
                token = min(int(np.searchsorted(sums, self.drawn.random() * sums[-1], side="right")), len(p) - 1)
                p[token] = 0.0
                yield token
        yield from np.argsort(-log_p, kind="stable").tolist()

    def _allows(self, token: int) -> bool:
        if token == self.end:
            text = _decoded(self._text)
            return self.rule.may_end(text) if self.rule else bool(text.strip())
        piece = self.bytes_of[token]
        return piece is not None and (self.rule is None or self.rule.allows(_decoded(self._text + piece)))


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", errors="ignore")


def _to_the_last_sentence(text: str) -> str:
    """Of a text that was cut off, all but what no sentence's end follows; of one without, all but the last word."""
    ends = [found.end() for found in ENDS.finditer(text)]
    return text[: ends[-1]] if ends else text.rpartition(" ")[0]


def checked(rows: DataFrame, values: Sequence[str], attributes: Sequence[str]) -> DataFrame:
    """Rows with `breaches` (array<string>), what their `text` says that the record does not, and `named`
    (array<string>), the attributes whose values it says; both null where there is no text.

    Args:
        rows: `text` and `source`.
        values: of attributes, over the whole shop.
        attributes: fields of `source` that are some.
    """
    from pyspark.sql import types as T

    def check(batches: Batches) -> Iterator[pa.RecordBatch]:
        held = Values(values)
        for batch in batches:
            texts, sources = (column_of(batch, name).to_pylist() for name in ("text", "source"))
            fields = [dict(source) for source in sources]
            wrong = _of_texts(texts, fields, lambda text, own: Rule(held, Record.of(own)).breaches(text))
            said = _of_texts(texts, fields, lambda text, own: named(text, {n: own.get(n) for n in attributes}))
            lists = [pa.array(column, pa.list_(pa.string())) for column in (wrong, said)]
            yield pa.record_batch([*batch.columns, *lists], [*batch.schema.names, "breaches", "named"])

    more = [T.StructField(name, T.ArrayType(T.StringType())) for name in ("breaches", "named")]
    return rows.mapInArrow(check, T.StructType([*rows.schema.fields, *more]))


def _of_texts(
    texts: Sequence[str | None],
    fields: Sequence[dict[str, str]],
    of: Callable[[str, dict[str, str]], list[str]],
) -> list[list[str] | None]:
    return [None if text is None else of(text, own) for text, own in zip(texts, fields, strict=True)]
