"""A column of texts to vectors on Spark: beside its rows, as the encoder itself gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from spark_udfs.text_vectors import _opened, text_vectors
from tests.training.text_models import save_folder
from training.errors import SchemaError, WeightsError
from training.state.text_encoder import load_encoder
from training.state.text_weights import weights_digest


def test_rows_have_their_texts_vectors(spark: SparkSession, tmp_path: Path) -> None:
    folder = save_folder(tmp_path)
    texts = ["red lantern", None, "🏮", "a blue cafe", "red lantern", ""]
    rows = spark.createDataFrame(list(enumerate(texts)), "number int, message string")
    found = text_vectors(rows.repartition(2), "message", "vector", str(folder)).orderBy("number")
    assert found.schema["vector"].dataType.simpleString() == "array<float>"
    number, message, vectors = zip(*found.collect(), strict=True)
    assert (list(number), list(message)) == (list(range(6)), texts)
    assert vectors[1] is None
    told = [text for text in texts if text is not None]
    wanted = load_encoder(folder).vectors(told)
    np.testing.assert_allclose([one for one in vectors if one is not None], wanted, atol=1e-6)


def test_what_cannot_be_done_is_said_before_a_row_is_read(spark: SparkSession, tmp_path: Path) -> None:
    rows = spark.range(1).selectExpr("id", "'red' AS message")
    with pytest.raises(WeightsError, match=r"nowhere' lacks config.json"):
        text_vectors(rows, "message", "vector", str(tmp_path / "nowhere"))
    with pytest.raises(SchemaError, match="column 'id' must be string, it is bigint"):
        text_vectors(rows, "id", "vector", str(save_folder(tmp_path)))
    with pytest.raises(SchemaError, match="there is a column 'Message'; name another"):
        text_vectors(rows, "message", "Message", str(tmp_path))


def test_a_worker_that_finds_other_weights_than_the_drivers_refuses_them(tmp_path: Path) -> None:
    folder = save_folder(tmp_path)
    digest = weights_digest(folder)
    assert _opened(str(folder), digest).digest == digest
    with pytest.raises(WeightsError, match=rf"whose SHA-256 is abc; '{folder}' has {digest} here; have the same"):
        _opened(str(folder), "abc")
