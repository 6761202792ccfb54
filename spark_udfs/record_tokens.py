"""Records and texts of products to the numbers of their tokens, by a tokenizer that goes with the query."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from spark_udfs.answers import named
from spark_udfs.lists import Batches, require_columns
from training.state.text_pieces import Pieces
from training.state.text_tokens import CHARACTERS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def record_tokens(
    frame: DataFrame, tokenizer: bytes, *, size: int, end: int, most_of_record: int, most_of_text: int
) -> DataFrame:
    """Rows with the tokens of what is known of a product, and of what is said of it.

    Args:
        frame: `said` (string), the record written out, and `description` (string; null: there is none).
        tokenizer: the content of a tokenizer.json.
        size: tokens that the decoder has vectors for.
        end: the token that ends a text.
        most_of_record: tokens of a record that are kept, the first ones.
        most_of_text: likewise of a text, the one that ends it included.

    Returns:
        frame's columns, `record` and `text` (array<bigint>); a record ends with what a text follows, however long it
        is; a text that is not there has no tokens, and one that is cut does not end.
    """
    from pyspark.sql import types as T

    require_columns(frame, "records", {"said": "string", "description": "string"})

    def cut(batches: Batches) -> Iterator[pa.RecordBatch]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Spark runs a task a core
        pieces = Pieces("tokenizer.json", tokenizer, size)
        (ahead,) = pieces.tokens([AHEAD], most_of_record)
        left = most_of_record - len(pieces.begin) - len(ahead)
        for batch in batches:
            records = pieces.tokens(named(batch, "said").to_pylist(), left)
            texts = named(batch, "description").to_pylist()
            cut_texts = pieces.tokens([f" {text.strip()}" if text else "" for text in texts], most_of_text)
            ends = [[end] if text is None or len(text) < CHARACTERS else [] for text in texts]
            whole = [[*text, *last][:most_of_text] if text else [] for text, last in zip(cut_texts, ends, strict=True)]
            columns = [[[*pieces.begin, *record, *ahead] for record in records], whole]
            lists = [pa.array(column, pa.list_(pa.int64())) for column in columns]
            yield pa.record_batch([*batch.columns, *lists], [*batch.schema.names, "record", "text"])

    more = [T.StructField(name, T.ArrayType(T.LongType())) for name in ("record", "text")]
    return frame.mapInArrow(cut, T.StructType([*frame.schema.fields, *more]))


AHEAD = "\ntext:"  # stands between a record and its text
