"""One file, flags over it, every problem together."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest

from jobs.settings import Settings, load_settings
from training.errors import SettingsError


def test_defaults_are_whole() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert settings.model["name"] == "two_tower"
    assert len(settings.model) > 1, "the model's own defaults are filled in"


def test_flags_lie_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("training: {epochs: 2, ranks: 1}\nevaluation: {ks: [20, 5, 20]}\n")
    settings = load_settings(file, ["training.epochs=7", "tables.root=elsewhere"])
    assert (settings.training.epochs, settings.training.ranks, settings.tables.root) == (7, 1, "elsewhere")
    assert settings.evaluation.ks == (5, 20)


def test_every_problem_is_reported_together(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("training: {epoch: 2, ranks: two}\nfeedback: {window_days: 0}\nmodel: {name: two_towers}\n")
    with pytest.raises(SettingsError) as raised:
        load_settings(file, ["nonsense", "task=recomend"])
    message = str(raised.value)
    for part in (
        "6 problem(s)",
        "training.epoch: unknown key (value 2); did you mean 'epochs'?",
        "training.ranks",
        "'two'",
        "feedback.window_days",
        "two_towers",
        ", two_tower",
        "flag 'nonsense'",
        "recomend",
    ):
        assert part in message, f"{part!r} is missing in:\n{message}"


def test_columns_are_checked_with_all_the_others(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("ingest: {path: a.csv, headers: true, columns: {item_id: Item, colour: C}}\nscoring: {k: 0}\n")
    with pytest.raises(SettingsError) as raised:
        load_settings(file)
    for part in ("ingest.headers: unknown key", "scoring.k", "ingest.columns needs 'time'", "unknown name 'colour'"):
        assert part in str(raised.value)
    views = "{path: a, columns: {item_id: I, user_id: U, time: T}, constants: {kind: view}}"
    with pytest.raises(SettingsError, match=r"settings:\n  - ingest.sources\[1\].columns needs 'item_id'"):
        load_settings(None, [f"ingest.sources=[{views}, {{path: b}}]"])
    load_settings(None, ["task=fraud", "ingest.path=left-alone.csv"])


@pytest.mark.parametrize(
    ("content", "what"),
    [("- a\n- b\n", "holds a list"), ("a: [1\n", "is not YAML"), ("{}", None), ("", None)],
)
def test_a_file_that_is_no_pipeline(tmp_path: Path, content: str, what: str | None) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(content)
    if what is None:
        assert load_settings(file) == Settings()
    else:
        with pytest.raises(SettingsError, match=what):
            load_settings(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml' does not exist"):
        load_settings(tmp_path / "nowhere.yaml")


def test_an_unknown_model_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="no_such_knob"):
        load_settings(None, ["model={name: two_tower, no_such_knob: 3}"])


@pytest.mark.parametrize("name", ["online_retail", "shop"])
def test_the_shipped_pipelines_are_valid(name: str) -> None:
    path = Path(__file__).resolve().parents[2] / "jobs" / "pipelines" / f"{name}.yaml"
    assert load_settings(path).task == "recommend"


def refused(tmp_path: Path, content: str, *flags: str) -> str:
    """What load_settings says of a file; it must be a message that a person can read."""
    file = tmp_path / "pipeline.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError) as raised:
        load_settings(file, list(flags))
    message = str(raised.value)
    assert len(message) < 1_000
    return message


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("model: {name: [two_tower]}", r"model: name is \['two_tower'\]; known: .*two_tower"),
        ("model: {name: {two: tower}}", r"model: name is \{'two': 'tower'\}; known: .*two_tower"),
        ("model: {name: two_towers, dimm: 3}", r"model: name is 'two_towers'; known: .*two_tower"),
        ("model: {dim: 100000000000000000000}", r"model\.dim: .*less than or equal to 65536 \(value 1000"),
        ("model: {dimm: 3}", r"model\.dimm: unknown key \(value 3\); did you mean 'dim'\?"),
        ("tuning: {study: ../x}", r"tuning\.study: must be a name of 1 to 100 letters.* \(value '\.\./x'\)"),
        ("tuning: {study: /a/b}", r"tuning\.study: must be a name"),
        ("model: {dim: 1e20}", r"model\.dim: .* \(value 1e\+20\)"),
        ("model: {repeat_weight: 1e300}", r"model\.repeat_weight: .*less than or equal to 1000000"),
        ("model: {history_days: 1.0e-300}", r"model\.history_days: .*greater than or equal to 0\.000001"),
        ("model: {half_life_days: .inf}", r"model\.half_life_days: .*finite number \(value inf\)"),
        ("model: {drift_days: [-.inf]}", r"model\.drift_days\.0: .*finite number \(value -inf\)"),
        ("examples: {test_from: 2025-02-30}", r"examples\.test_from: .*day .*\(value '2025-02-30'\)"),
        ("scoring: {moment: 2025-99-99}", r"scoring\.moment: .*month .*\(value '2025-99-99'\)"),
        ("scoring: {moment: 20250101}", r"scoring\.moment: must be a day or a time, .*\(value 20250101"),
        ("ingest: {now: '2011'}", r"ingest\.now: must be a day or a time"),
        (f"training: {{epochs: {'9' * 5_000}}}", r"training\.epochs: .* \(value '9{79}\.\.\. \(5,002 characters\)\)"),
        (f"training: {{metric: {'m' * 350_000}}}", r"training: metric is 'm{79}\.\.\. \(350,002 characters\); known"),
        (f"{'k' * 900}: 1", r"k{80}\.\.\. \(900 characters\): unknown key"),
        ("training: {metric: foo}", r"training: metric is 'foo'; known: loss, recall_at_10"),
        ("training: {metric_mode: max}", r"training: metric_mode is 'max', and the best epoch by the loss"),
        ("training: {learning_rate: .inf}", r"training\.learning_rate: .*finite number \(value inf\)"),
        ("training: {timeout_s: .nan}", r"training\.timeout_s: .*finite number \(value nan\)"),
        ("training: {epochs: 90:00}", r"training\.epochs: .* valid integer.* \(value '90:00'\)"),
        ("training: 3", r"training: .*valid dictionary.* \(value 3\)"),
        ("shop: {items: 30, tastes: 31}", r"shop\.tastes: each taste needs an item, and there are 30.* \(value 31\)"),
        ("simulate: {scenes: [frauds]}", r"simulate\.scenes\.0: .*'fraud'.* \(value 'frauds'\)"),
        ("shop: {users: 1e30}", r"shop\.users: .* \(value 1e\+30\)"),
        ("shop: {users: 20, seed: 1, users: 30}", r"line 1: key 'users' is there twice; keep one of them"),
        ("shop: {users: 20}\ntraining: {}\nshop: {days: 40}", r"line 3: key 'shop' is there twice"),
        ("[1, 2]: 3", "line 1: a key must be a name"),
        ("evaluation: {als_rank: 8}\ntask: demand", r"als_rank: unknown key .*; it is for the task recommend"),
        ("options: {horizon: 8}", r"options\.horizon: unknown key \(value 8\); it is for the task demand"),
        ("ingest:\n  columns:\n    item_id: ???", r"ingest\.columns\.item_id: \?\?\? stands for what only you"),
        ("1: 2", r"1: unknown key \(value 2\); known keys: "),
        ("<<: {task: recommend}", r"<<: unknown key"),
        (BOMB, r"line \d: at most 20,000 values \(aliases as what they stand for\)"),
        ("a: &a [*a]", "line 1: at most 20,000 values"),
        ("a: " + "[" * 3_000 + "]" * 3_000, "at most 30 deep"),
        ("a: *b", "line 1: found undefined alias"),
        ("a: !!python/object:os.system {}", "line 1: could not determine a constructor"),
        ("a: !!timestamp 2025-99-99", "line 1: could not determine a constructor"),
        ("a: !!int abc", "is not YAML: "),
        ("a: !!bool abc", "is not YAML: "),
        ("a: \x01", "unacceptable character"),
        ("#" * 1_000_001, "must have at most 1,000,000 characters; it has 1,000,001"),
    ],
)  # fmt: skip
def test_nonsense_is_one_line_with_key_and_value(tmp_path: Path, content: str, what: str) -> None:
    assert re.search(what, refused(tmp_path, content)), refused(tmp_path, content)


def test_a_wrong_flag_is_one_line(tmp_path: Path) -> None:
    for flag in ("training.epochs=[1", "training.epochs=" + "[" * 3_000, "a.b=&a [*a]", "training.epochs=2025-02-30"):
        message = refused(tmp_path, "", flag)
        assert "1 problem(s)" in message
        assert "training.epochs" in message or "a.b" in message
    assert "(10,002 characters)" in refused(tmp_path, "", "k" * 10_000 + "=1")


def test_yaml_is_read_by_its_newer_rules(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        "training: {epochs: 010, compile: yes, learning_rate: 1e-2, batch_size: 1_024}\n"
        "ingest: {cancelled_prefix: no, item_pattern: on, time_format: 90:00}\n"
        "examples: {test_from: 2011-11-10}\n"
        "scoring: &same {k: 7}\n"
        "shop: {start: 2025-01-01T06:00:00}\n"
        "tuning: {space: {model.dim: {choices: [32, 64]}, model.dropout: ~}}\n"
    )
    settings = load_settings(file, ["evaluation.ks=[3,5]", "training.cache_dir=null"])
    training, ingest = settings.training, settings.ingest
    assert (training.epochs, training.compile, training.learning_rate, training.batch_size) == (10, True, 0.01, 1024)
    assert (ingest.cancelled_prefix, ingest.item_pattern, ingest.time_format) == ("no", "on", "90:00")
    assert settings.examples.test_from == datetime(2011, 11, 10)
    assert settings.shop.start == datetime(2025, 1, 1, 6)
    assert settings.tuning.space == {"model.dim": {"choices": [32, 64]}, "model.dropout": None}


def test_an_alias_is_what_it_stands_for(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("training: {seed: &seed 7}\ntuning: {seed: *seed}\n")
    assert load_settings(file).tuning.seed == 7


@pytest.mark.parametrize(
    ("flag", "what"),
    [
        ("run_dir=s3a://bucket/run", r"run_dir: must be a folder .*; s3a:// is a URL; mount it .*\(value 's3a://bucket/r"),
        ("run_dir=file:///tmp/run", r"run_dir: must be a folder .*; file:// is a URL"),
        ("run_dir=dbfs:/run", r"run_dir: must be a folder .*; dbfs:// is a URL"),
        ("run_dir=''", r"run_dir: must name a folder \(value ''\)"),
        ("training.cache_dir=s3://bucket/cache", r"training\.cache_dir: must be a folder .*; s3:// is a URL"),
        ("tables.root=main.shop", r"tables\.root: looks like a catalogue's schema, .* or write \./main\.shop"),
        ("tables.root=main.shop.events", r"tables\.root: looks like a catalogue's schema"),
        ("tables.root=s3a://bucket", r"tables\.root: must be a folder in the bucket, .*; write s3a://bucket/tables"),
        ("tables.root=s3a://bucket/", r"tables\.root: must be a folder in the bucket, .*; write s3a://bucket/tables"),
        ("tables.root=s3a:/bucket/tables", r"tables\.root: a URL needs two slashes .*: s3a://bucket/folder"),
        ('run_dir="a\\0b"', r"run_dir: must be a name that can be printed"),
        ('tables.root="a\\nb"', r"tables\.root: must be a name that can be printed"),
        ("tables.root=' '", r"tables\.root: must name a folder or an object store's URL"),
    ],
)  # fmt: skip
def test_a_place_where_it_cannot_lie_is_refused(tmp_path: Path, flag: str, what: str) -> None:
    assert re.search(what, refused(tmp_path, "", flag)), refused(tmp_path, "", flag)


@pytest.mark.parametrize("root", ["out/tables", "tables", "./main.shop", "/mnt/main.shop/t", "s3a://bucket/shop",
                                  "abfss://box@account.dfs.core.windows.net/shop", "file:///tmp/tables"])  # fmt: skip
def test_a_place_where_tables_may_lie(root: str) -> None:
    assert load_settings(None, [f"tables.root={root}"]).tables.root == root


def test_a_flag_has_no_comment(tmp_path: Path) -> None:
    settings = load_settings(
        None, [f"run_dir={tmp_path}/hash #1/run", "examples.max_history=3", "evaluation.ks=[5] # k"]
    )
    assert settings.run_dir == f"{tmp_path}/hash #1/run"
    assert settings.evaluation.ks == (5,)


@pytest.mark.parametrize(
    "flag",
    [
        "tables.root=s3a://AKIA:HIDDEN@bucket/tables",
        "tables.root=https://host/x?sig=HIDDEN",
        "ingest.path=s3a://AKIA:HIDDEN@bucket/lines.csv",
        "tuning.password=HIDDEN",
        "spark={conf: {spark.ssl.keyPassword: HIDDEN}}",
    ],
)
def test_a_password_is_refused_and_not_repeated(flag: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, [flag])
    assert "HIDDEN" not in str(caught.value)
    assert load_settings(None, ["tables.root=abfss://container@account.dfs.core.windows.net/shop"]).tables.root
