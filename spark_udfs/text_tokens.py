"""A column of texts to a column of the numbers of their tokens, by a tokenizer that goes with the query.

Executors read no file: the tokenizer is half a megabyte of JSON.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from spark_udfs.answers import named
from spark_udfs.lists import Batches, require_columns
from training.errors import SchemaError, SettingsError
from training.state.text_config import config_of
from training.state.text_tokens import Cutter, open_tokenizer
from training.state.text_weights import TOKENIZER, weights_folder

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from training.encoder_config import TextEncoderConfig

_opened: dict[tuple[bytes, int], Cutter] = {}


def text_tokens(frame: DataFrame, text: str, into: str, most: int, weights: str | None = None) -> DataFrame:
    """Each row with its text's tokens beside it.

    Args:
        frame: rows.
        text: a column of strings.
        into: what the new column is called.
        most: tokens that are kept of a text, the first ones, those of begin and end among them.
        weights: a folder of the driver with config.json, model.safetensors and tokenizer.json in BERT's layout; None:
            the weights of the extra `text`.

    Returns:
        frame's columns and `into` (array<bigint>): empty for null, and for a text without one token that the vocabulary
        knows.

    Raises:
        WeightsError: there are no weights; on the executors also where the tokenizer does not fit them.
        SettingsError: the weights have places for fewer tokens.
        SchemaError: `text` is no column of strings, or there is a column `into`.
    """
    from pyspark.sql import types as T

    require_columns(frame, "texts", {text: "string"})
    if into.lower() in map(str.lower, frame.columns):
        raise SchemaError(f"the tokens' column must be a new one; there is a column '{into}'; name another")
    folder = weights_folder(weights)
    config, content = config_of(folder), (folder / TOKENIZER).read_bytes()
    if most > config.max_position_embeddings:
        raise SettingsError(
            f"tokens_kept must be at most the {config.max_position_embeddings} places that the weights in '{folder}' "
            f"have; it is {most}: lower it"
        )
    place = str(folder / TOKENIZER)

    def cut(batches: Batches) -> Iterator[pa.RecordBatch]:
        cutter = _cutter(place, content, config, most)
        for batch in batches:
            texts = named(batch, text).fill_null("")
            values, lengths = cutter.tokens(texts.to_pylist())
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            tokens = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
            yield pa.record_batch([*batch.columns, tokens], [*batch.schema.names, into])

    column = T.StructField(into, T.ArrayType(T.LongType()))
    return frame.mapInArrow(cut, T.StructType([*frame.schema.fields, column]))


def _cutter(place: str, content: bytes, config: TextEncoderConfig, most: int) -> Cutter:
    """Opened once in a worker, and kept for its next tasks."""
    if (content, most) not in _opened:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Spark runs a task a core
        _opened.clear()
        _opened[content, most] = open_tokenizer(place, content, config, most)
    return _opened[content, most]
