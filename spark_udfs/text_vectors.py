"""A column of texts to a column of vectors, by a text encoder that every Python worker opens once.

A worker keeps to one thread, as Spark runs one task a core; it maps the weights, so that a host has them in memory
once. A text that stands in a batch many times is computed once. Nothing comes to the driver.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from spark_udfs.answers import named, one_thread_each
from spark_udfs.arrow import fixed_lists
from spark_udfs.item_files import on_this_host
from spark_udfs.lists import Batches, require_columns
from training.errors import SchemaError, WeightsError
from training.state.text_weights import weights_digest, weights_folder

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from training.state.text_encoder import Encoder

_loaded: dict[str, Encoder] = {}


def text_vectors(frame: DataFrame, text: str, into: str, weights: str | None = None) -> DataFrame:
    """Each row with its text's vector beside it.

    Args:
        frame: rows; a partition is one worker's work.
        text: a column of strings.
        into: what the new column is called.
        weights: a folder with config.json, model.safetensors and tokenizer.json in BERT's layout, the same one for the
            driver and every executor; None: the weights of the extra `text`.

    Returns:
        frame's columns and `into` (array<float>, of length 1): null for null, and zeros for a text without one token
        that the vocabulary knows. The first 256 tokens of a text count.

    Raises:
        WeightsError: there are no weights, or those of the extra were changed; on the executors also where they do not
            fit together, or are not the driver's.
        SchemaError: `text` is no column of strings, or there is a column `into`.
    """
    from pyspark.sql import types as T

    require_columns(frame, "texts", {text: "string"})
    if into.lower() in map(str.lower, frame.columns):
        raise SchemaError(f"the vectors' column must be a new one; there is a column '{into}'; name another")
    held = weights_folder(weights)
    place, digest = None if weights is None else str(held.absolute()), weights_digest(held)

    def embed(batches: Batches) -> Iterator[pa.RecordBatch]:
        encoder = _opened(place, digest)
        for batch in batches:
            once = named(batch, text).dictionary_encode()
            vectors = fixed_lists(encoder.vectors(once.dictionary.to_pylist()))
            yield pa.record_batch([*batch.columns, vectors.take(once.indices)], [*batch.schema.names, into])

    column = T.StructField(into, T.ArrayType(T.FloatType()))
    return frame.mapInArrow(embed, T.StructType([*frame.schema.fields, column]))


def _opened(place: str | None, digest: str) -> Encoder:
    """The encoder of the driver's digest; it is kept by that: in one folder there may be another by the next job."""
    from training.state.text_encoder import load_encoder

    if digest not in _loaded:
        one_thread_each()
        os.environ["TOKENIZERS_PARALLELISM"] = (
            "false"  # its threads would be as many as there are cores, in each worker
        )
        folder = weights_folder(None if place is None else str(on_this_host(place)))
        encoder = load_encoder(folder)
        _refuse_other(folder, encoder.digest, digest)
        _loaded.clear()
        _loaded[digest] = encoder
    return _loaded[digest]


def _refuse_other(folder: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise WeightsError(
            f"all executors must read the driver's weights, whose SHA-256 is {wanted}; '{folder}' has {found} here; "
            f"have the same files everywhere, and put others into another folder: jobs that run go on reading this one"
        )
