"""A column of texts to a column of tokens on Spark: as the weights' own tokenizer cuts them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from spark_udfs.text_tokens import text_tokens
from tests.training.text_models import CONFIG, save_folder
from training.errors import SchemaError, SettingsError

TEXTS = {  # and what they are, of five tokens at most
    "a red lantern": [2, 10, 4, 5, 3],
    "a red lantern, a blue one": [2, 10, 4, 5, 3],
    "Café": [2, 11, 3],
    "🏮": [],
    "": [],
    None: [],
}


def test_rows_have_their_texts_tokens(spark: SparkSession, tmp_path: Path) -> None:
    folder = save_folder(tmp_path)
    rows = spark.createDataFrame(list(enumerate(TEXTS)), "number int, message string")
    found = text_tokens(rows.repartition(2), "message", "tokens", 5, str(folder)).orderBy("number")
    assert found.schema["tokens"].dataType.simpleString() == "array<bigint>"
    assert [(row["message"], row["tokens"]) for row in found.collect()] == list(TEXTS.items())


def test_what_cannot_be_done_is_said_before_a_row_is_read(spark: SparkSession, tmp_path: Path) -> None:
    rows, folder = spark.range(1).selectExpr("id", "'red' AS message"), str(save_folder(tmp_path))
    with pytest.raises(SettingsError, match=rf"at most the {CONFIG['max_position_embeddings']} places .*; it is 13: l"):
        text_tokens(rows, "message", "tokens", 13, folder)
    with pytest.raises(SchemaError, match="there is a column 'Message'; name another"):
        text_tokens(rows, "message", "Message", 5, folder)
