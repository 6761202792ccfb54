"""The benchmark: a file of interactions under a protocol, to one line; and what does not fit."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import benchmark
from jobs.benchmark import run_benchmark
from jobs.memory import PeakMemory
from jobs.protocols import PROTOCOLS, Asked
from jobs.settings import flags_of_file, load_settings
from training.configs import CONFIGS
from training.errors import MillraceError, SettingsError

PUBLIC = Path(__file__).resolve().parents[2] / "benchmarks" / "public"
QUICK = [
    "tuning.epochs=12", "training.batch_size=16", "training.learning_rate=0.01", "training.embedding_learning_rate=0.1",
]  # fmt: skip
FLAGS = ["training.ranks=1", "training.epochs=5", "tuning.epochs=3", "evaluation.bootstrap=100", "model.dim=8"]


@pytest.mark.parametrize(
    ("protocol", "held_out", "flags", "said"),
    [
        ("leave_one_out", "0.1", [], "--held-out is for --protocol strong_generalisation, session without"),
        ("session", "100", ["examples.test_from=2014-09-30"], "--held-out is for .* without examples.test_from; leave"),
        ("session", "0.5", [], "must be a share above 0 and below 0.5, or a whole number; got '0.5'"),
        ("strong_generalisation", "10.5", [], "or a whole number; got '10.5'"),
        ("strong_generalisation", "many", [], "or a whole number; got 'many'"),
        ("strong_generalisation", None, ["examples.validation_days=3"], "is for --protocol by_date, session: under st"),
        ("session", None, ["examples.asked=customers"], "examples.asked: under session, the last .*; leave it out"),
    ],
)
def test_what_is_held_out_must_fit(
    protocol: str, held_out: str | None, flags: list[str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=said):
        run_benchmark("clicks.csv", protocol, held_out=held_out, flags=flags, out=str(tmp_path))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("protocol", "held_out", "rows", "said"),
    [
        (
            "strong_generalisation",
            0.1,
            [("a", "x", None), ("a", "y", None), ("b", "x", None)],
            "0.1 is 0 of 1 users of tw",
        ),
        (
            "strong_generalisation",
            2.0,
            [(f"u{n % 4}", f"{n}", None) for n in range(8)],
            "2 is 2 of 4 users of two items",
        ),
        ("session", 0.1, [("a", "x", 1.0), ("b", "y", 2.0)], "0.1 is 0 of 0 sessions of two interactions and more"),
        ("session", 0.1, [("a", "x", None), ("a", "y", None)], "--protocol session needs interactions with a time"),
        (
            "session",
            None,
            [("a", "x", 1.0), ("b", "y", 9e8)],
            "needs sessions of two .* that end from 1997-12-31 .* non",
        ),
    ],
)
def test_what_cannot_be_held_out_is_said(
    spark: SparkSession, protocol: str, held_out: float | None, rows: list[tuple[str, str, float | None]], said: str
) -> None:
    given = spark.createDataFrame(
        [(*row, n) for n, row in enumerate(rows)], "user string, item string, time double, position long"
    )
    named = frozenset(() if held_out is not None else ("examples.test_from", "examples.validation_days"))
    settings = load_settings(None, ["examples.test_from=1998-01-01", "examples.validation_days=1"])
    with pytest.raises(MillraceError, match=said):
        PROTOCOLS[protocol].lines(Asked(given, None, held_out or 0.1, named, settings))


@pytest.mark.parametrize(
    ("protocol", "test", "columns", "said"),
    [
        ("leave_two_out", None, [], "--protocol must be one of leave_one_out, given, by_date"),
        ("given", None, [], "name its file with --test"),
        ("by_date", "test.txt", [], "leave --test out"),
        ("by_date", None, ["users=who"], "--column is user=NAME"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_starts(
    protocol: str, test: str | None, columns: list[str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=said):
        run_benchmark("ratings.csv", protocol, test=test, columns=columns, out=str(tmp_path))
    assert not [*tmp_path.iterdir()]
    for name in ("none", "word_weights"):
        with pytest.raises(SettingsError, match=rf"must learn lists, as two_tower, .* do; got '{name}'"):
            run_benchmark("ratings.csv", "by_date", model=name)


def test_examples_have_the_form_that_the_model_learns_from() -> None:
    assert [benchmark.form_of(name) for name in ("two_tower", "sequence", "matrix_factorisation")] == [
        "purchases",
        "sequences",
        "purchases",
    ]


@pytest.mark.parametrize("file", sorted(PUBLIC.glob("*.yaml")), ids=lambda file: file.stem)
def test_settings_of_public_sets_are_ones(file: Path) -> None:
    flags = flags_of_file(file)
    name = benchmark._model_of(flags)
    settings = load_settings(None, [f"examples.form={benchmark.form_of(name)}", *flags])
    assert settings.model["name"] == name in CONFIGS


def test_a_file_of_settings_lies_below_the_flags(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: {name: sequence, dim: 32}\nexamples: {validation_days: 30}\n")
    with pytest.raises(SettingsError, match=r"examples\.validation_days is for --protocol by_date"):
        run_benchmark("a.csv", "leave_one_out", out=str(tmp_path), file=str(tmp_path / "a.yaml"))
    (tmp_path / "a.yaml").write_text("model: sequence\n")
    with pytest.raises(SettingsError, match="must hold sections of keys; 'model' has none"):
        run_benchmark("a.csv", "leave_one_out", out=str(tmp_path), file=str(tmp_path / "a.yaml"))


def test_memory_is_added_up() -> None:
    with PeakMemory() as memory:
        rows = b"x" * (64 << 20)
    assert memory.peak > len(rows)


def test_the_protocol_alone_says_where_the_cuts_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"examples\.validation_days is for --protocol by_date"):
        run_benchmark("a.csv", "leave_one_out", out=str(tmp_path), flags=["examples.validation_days=30"])


@pytest.mark.slow
def test_a_file_of_lists_to_one_line(spark: SparkSession, tmp_path: Path) -> None:
    rng = random.Random(0)
    users = [[f"u{n}", *(f"i{item}" for item in rng.sample(range(30), 6))] for n in range(60)]
    (tmp_path / "lists.txt").write_text("".join(" ".join(user) + "\n" for user in users))
    result = run_benchmark(str(tmp_path / "lists.txt"), "leave_one_out", out=str(tmp_path), flags=FLAGS, spark=spark)
    assert result["users"] == result["pairs"]["count"] == 60
    told = json.loads(benchmark.line(result))
    assert {"recall_at_10", "ndcg_at_10", "hit_rate_at_10"} <= set(told["metrics"])
    assert told["metrics"]["recall_at_10"]["value"] == told["metrics"]["hit_rate_at_10"]["value"]
    assert set(told["baselines"]) == {"popularity"}
    assert told["peak_memory_mb"] > 100
    assert set(told["seconds"]) == {"ingest", "build_examples", "tune", "train", "evaluate"}
    best = next(tmp_path.rglob("best.json")).read_text()
    assert told["epochs"] == json.loads(best)["epochs"] < 5  # the study's, not those of the settings
    again = run_benchmark(str(tmp_path / "lists.txt"), "leave_one_out", out=str(tmp_path), flags=FLAGS, spark=spark)
    assert again["pairs"] == result["pairs"]
    assert again["bundle"] == result["bundle"]
    assert again["seconds"]["train"] == result["seconds"]["train"]  # when it last had something to do
    (tmp_path / "lists.txt").write_text("".join(" ".join(user[:-1]) + "\n" for user in users))
    other = run_benchmark(str(tmp_path / "lists.txt"), "leave_one_out", out=str(tmp_path), flags=FLAGS, spark=spark)
    assert other["pairs"]["hash"] != result["pairs"]["hash"]
    assert len([*tmp_path.glob("lists-leave_one_out-two_tower-*")]) == 2


@pytest.mark.slow
def test_users_who_are_held_out_are_known_by_their_history_alone(spark: SparkSession, tmp_path: Path) -> None:
    """Half of the users have items of the first half, half of the second."""
    rng = random.Random(0)
    users = [[f"u{n}", *(f"i{15 * (n % 2) + item}" for item in rng.sample(range(15), 10))] for n in range(100)]
    (tmp_path / "lists.txt").write_text("".join(" ".join(user) + "\n" for user in [*users, ["odd", "i0", "never"]]))
    flags = [*FLAGS, *QUICK, "evaluation.baselines=[popularity, als, item_item]", "evaluation.als_rank=8"]
    result = run_benchmark(
        str(tmp_path / "lists.txt"), "strong_generalisation", held_out="20", out=str(tmp_path), flags=flags, spark=spark
    )
    assert (result["users"], result["pairs"]["count"]) == (20, 40)
    recall = {name: held["recall_at_5"]["value"] for name, held in result["baselines"].items()}
    assert min(recall["als"], recall["item_item"], result["metrics"]["recall_at_5"]["value"]) > recall["popularity"]
    learnt = next(tmp_path.rglob("vocabulary_users"))
    assert spark.read.format("delta").load(str(learnt)).count() == 101 - 2 * 20


@pytest.mark.slow
def test_the_next_item_of_a_session_is_found_by_order(spark: SparkSession, tmp_path: Path) -> None:
    """Each item follows one other, and sessions begin anywhere, so that all items are as popular."""
    rng, rows = random.Random(0), ["session_id,item_id,time"]
    for session in range(200):
        first = rng.randrange(20)
        rows += [f"s{session},i{(first + n) % 20},{1_700_000_000 + 3_600 * session + 30 * n}" for n in range(5)]
    rows += [f"s199,new,{1_700_000_000 + 3_600 * 199 + 500}"]
    (tmp_path / "clicks.csv").write_text("\n".join(rows) + "\n")
    flags = [*FLAGS, *QUICK, "model.dim=16", "model.layers=1"]
    result = run_benchmark(
        str(tmp_path / "clicks.csv"), "session", model="sequence", columns=["user=session_id"], held_out="0.1",
        out=str(tmp_path), flags=flags, spark=spark,
    )  # fmt: skip
    assert (result["users"], result["pairs"]["count"], result["left_out"]) == (80, 80, 1)
    assert result["cuts"]["test"] == datetime.fromtimestamp(1_700_000_000 + 3_600 * 180 + 120, tz=UTC).isoformat()
    assert result["metrics"] == result["metrics_any"]
    assert result["metrics"]["recall_at_5"]["value"] > 2 * result["baselines"]["popularity"]["recall_at_5"]["value"]
