"""Recommendations from a bundle, against the same model asked directly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_udfs.answers import Order, cold_rows, to_batch
from spark_udfs.item_files import ItemFile
from spark_udfs.scoring import bundle_schema, recommend, unknown_ids
from tests.spark_udfs.bundles import example_schema, items_in, two_tower_bundle
from training.batch import Ragged
from training.errors import BundleError, SchemaError
from training.schema import Column, Kind, Schema
from training.state.bundle import Bundle

USERS, ITEMS = 6, 30
QUERIES = "user bigint, history array<bigint>, history_age array<float>, seen array<bigint>"
ASKED = [
    (1, [3, 4, 5], [9.0, 4.0, 1.0], [3, 4, 5]),
    (2, [29], [0.5], [29, 7]),
    (3, [], [], []),  # cold
    (4, [0, 999], [2.0, 1.0], [5]),  # nothing that the bundle knows: cold
    (77, [8, 999], [2.0, 1.0], [8]),  # a user and an item past the vocabularies
]
ALLOWED = np.arange(2, 29)
FALLBACK = Order(np.array([5, 9, 6, 7]), 4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return two_tower_bundle(tmp_path_factory.mktemp("bundles"), users=USERS, items=ITEMS)


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> ItemFile:
    return items_in(tmp_path_factory.mktemp("allowed"), ALLOWED)


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(ASKED, QUERIES)


def answers(df: DataFrame) -> dict[int, list[tuple[int, float, bool]]]:
    found: dict[int, list[tuple[int, float, bool]]] = {}
    for row in df.orderBy("user", "rank").collect():
        rows = found.setdefault(row["user"], [])
        rows.append((row["item"], row["score"], row["fallback"]))
        assert row["rank"] == len(rows)
    return found


def expected(bundle: Bundle, user: int, history: list[int], ages: list[float], seen: list[int], k: int) -> list[int]:
    model = bundle.model()
    batch = {
        "user": torch.tensor([user]),
        "history": Ragged(torch.tensor(history), torch.tensor([0, len(history)])),
        "history_age": Ragged(torch.tensor(ages), torch.tensor([0, len(ages)])),
    }
    scores = (model.queries(batch) @ model.item_matrix().T)[0]  # type: ignore[operator]
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    return [item for item in order if item in ALLOWED and item not in seen][:k]


def test_rows_are_the_models_own_ranking(queries: DataFrame, bundle: Bundle, allowed: ItemFile) -> None:
    found = answers(recommend(queries, str(bundle.path), k=7, allowed=allowed, fallback=FALLBACK))
    assert [item for item, _, _ in found[1]] == expected(bundle, 1, [3, 4, 5], [9, 4, 1], [3, 4, 5], 7)
    assert [item for item, _, _ in found[2]] == expected(bundle, 2, [29], [0.5], [29, 7], 7)
    assert [item for item, _, _ in found[77]] == expected(bundle, 0, [8, 0], [2, 1], [8], 7)
    scores = [score for _, score, _ in found[1]]
    assert scores == sorted(scores, reverse=True)
    assert not any(fallback for user in (1, 2, 77) for _, _, fallback in found[user])


def test_cold_users_get_the_fallback_less_what_they_have(queries: DataFrame, bundle: Bundle, allowed: ItemFile) -> None:
    found = answers(recommend(queries, str(bundle.path), k=3, allowed=allowed, fallback=FALLBACK))
    assert found[3] == [(5, 4.0, True), (9, 3.0, True), (6, 2.0, True)]
    assert found[4] == [(9, 3.0, True), (6, 2.0, True), (7, 1.0, True)]
    assert set(answers(recommend(queries, str(bundle.path), k=3, allowed=allowed))) == {1, 2, 77}


def test_seen_items_stay_where_nothing_is_left_out(queries: DataFrame, bundle: Bundle, allowed: ItemFile) -> None:
    found = answers(recommend(queries, str(bundle.path), k=500, allowed=allowed, exclude_seen=False))
    assert sorted(item for item, _, _ in found[1]) == ALLOWED.tolist()


def test_items_that_the_bundle_does_not_know_are_never_recommended(
    queries: DataFrame, bundle: Bundle, tmp_path: Path
) -> None:
    some = items_in(tmp_path, [0, 4, 28, 30, 1000])
    found = answers(recommend(queries, str(bundle.path), k=500, allowed=some))
    assert {item for item, _, _ in found[2]} == {4, 28}


def test_unknown_ids_are_counted(queries: DataFrame, bundle: Bundle) -> None:
    schema = bundle_schema(str(bundle.path))
    counts = queries.select("user", F.expr(unknown_ids(schema)).alias("unknown")).collect()
    assert {row["user"]: row["unknown"] for row in counts} == {1: 0, 2: 0, 3: 0, 4: 2, 77: 1}


def test_wrong_queries_are_refused_with_all_their_columns(
    spark: SparkSession, bundle: Bundle, allowed: ItemFile
) -> None:
    wrong = spark.createDataFrame([(1, [1], [1.0])], "user bigint, history array<int>, history_age array<double>")
    message = r"two_tower-.*'history' must be array<bigint>, it is array<int>; .*'history_age' must be .*'seen' must be"
    with pytest.raises(SchemaError, match=message):
        recommend(wrong, str(bundle.path), k=1, allowed=allowed)


def test_a_bundle_of_another_schema_is_refused(queries: DataFrame, tmp_path: Path, allowed: ItemFile) -> None:
    other = Schema((Column("user", Kind.ID, vocabulary="users", size=3), Column("price", Kind.DENSE)))
    (tmp_path / "bundle.json").write_text(json.dumps({"schema": other.to_json()}))
    with pytest.raises(BundleError, match="trained without history, history_age; it has user, price"):
        recommend(queries, str(tmp_path), k=1, allowed=allowed)


def test_no_bundle_and_a_torn_one_are_refused(
    queries: DataFrame, tmp_path: Path, bundle: Bundle, allowed: ItemFile
) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*nowhere"):
        recommend(queries, str(tmp_path / "nowhere"), k=1, allowed=allowed)
    (tmp_path / "bundle.json").write_text('{"schema": [')
    with pytest.raises(BundleError, match="is torn or of another format"):
        recommend(queries, str(tmp_path), k=1, allowed=allowed)
    torn = tmp_path / bundle.name
    shutil.copytree(bundle.path, torn)
    (torn / "weights.safetensors").write_bytes((bundle.path / "weights.safetensors").read_bytes()[:100])
    with pytest.raises(PythonException, match=r"is torn: weights\.safetensors has 100 bytes instead of"):
        recommend(queries, str(torn), k=1, allowed=allowed).collect()


def test_a_batch_is_made_of_whole_columns() -> None:
    rows = pa.RecordBatch.from_pydict(
        {
            "history_age": pa.array([[9.0], [1.0, 2.0], None, []], pa.list_(pa.float32())),
            "user": pa.array([0, 5, None, -3], pa.int64()),
            "history": pa.array([[9], [3, 30], None, []], pa.list_(pa.int64())),
        }
    ).slice(1)
    schema = example_schema(USERS, ITEMS)
    batch = to_batch(rows, [schema["user"], schema["history"], schema["history_age"]])
    assert batch["user"].tolist() == [5, 0, 0]
    history, ages = batch["history"], batch["history_age"]
    assert isinstance(history, Ragged)
    assert isinstance(ages, Ragged)
    assert (history.values.tolist(), history.offsets.tolist()) == ([3, 0], [0, 2, 2, 2])
    assert (ages.values.tolist(), ages.values.dtype, ages.offsets.tolist()) == ([1, 2], torch.float32, [0, 2, 2, 2])
    assert cold_rows(history).tolist() == [False, True, True]


def test_numbers_must_be_finite_or_have_a_fill() -> None:
    rows = pa.RecordBatch.from_pydict({"x": pa.array([1.0, None, float("nan")], pa.float32())})
    with pytest.raises(SchemaError, match="column 'x' must be finite and not null; it is not in 2 places"):
        to_batch(rows, [Column("x", Kind.DENSE)])
    assert to_batch(rows, [Column("x", Kind.DENSE, fill=7)])["x"].tolist() == [1, 7, 7]


@pytest.mark.parametrize("lists", [[[1, 2, 3], [4]], [None, [1, 2, 3, 4]], [[1, 2, 3]]])
def test_lists_of_another_length_do_not_move_into_other_rows(lists: list) -> None:
    rows = pa.RecordBatch.from_pydict({"x": pa.array(lists, pa.list_(pa.float32()))})
    with pytest.raises(SchemaError, match=r"column 'x' must have lists of 2 numbers, not null; . rows have others"):
        to_batch(rows, [Column("x", Kind.DENSE, length=2)])
    none = pa.RecordBatch.from_pydict({"x": pa.array([], pa.list_(pa.float32()))})
    assert to_batch(none, [Column("x", Kind.DENSE, length=2)])["x"].shape == (0, 2)


def test_histories_are_weighed_where_the_bundle_has_learnt_what_lines_are_worth(
    spark: SparkSession, tmp_path: Path, allowed: ItemFile, queries: DataFrame
) -> None:
    weighed = two_tower_bundle(tmp_path, users=USERS, items=ITEMS, weights={"purchase": 1.0, "view": 0.1})

    def asked(*worth: float) -> dict[int, list[tuple[int, float, bool]]]:
        rows = spark.createDataFrame(
            [(1, [3, 4, 5], [9.0, 4.0, 1.0], list(worth), [3, 4, 5])],
            "user bigint, history array<bigint>, history_age array<float>, history_weight array<float>, "
            "seen array<bigint>",
        )
        return answers(recommend(rows, str(weighed.path), k=5, allowed=allowed))

    assert asked(1.0, 1.0, 1.0) != asked(1.0, 0.1, 0.1)
    assert asked(1.0, 0.1, 0.1) == asked(1.0, 0.1, 0.1)
    with pytest.raises(SchemaError, match="history_weight"):
        recommend(queries, str(weighed.path), k=5, allowed=allowed)
