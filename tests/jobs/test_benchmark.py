"""The benchmark: a file of interactions under a protocol, to one line; and what does not fit."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import benchmark
from jobs.benchmark import run_benchmark
from jobs.memory import PeakMemory
from jobs.settings import flags_of_file, load_settings
from training.configs import CONFIGS
from training.errors import SettingsError

PUBLIC = Path(__file__).resolve().parents[2] / "benchmarks" / "public"
FLAGS = ["training.ranks=1", "training.epochs=5", "tuning.epochs=3", "evaluation.bootstrap=100", "model.dim=8"]


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


def test_examples_have_the_form_that_the_model_learns_from() -> None:
    assert [benchmark.form_of(name) for name in ("two_tower", "sequence", "none")] == [
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
