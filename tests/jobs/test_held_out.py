"""Answers are calibrated by rows that were not learnt from, on any number of ranks; too few of them are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import write_deltalake
from torch import Tensor, nn

from cluster.launch import launch
from jobs.held_out import rows_of
from jobs.validation import validation_of_probabilities
from tests.jobs.rows_spec import learn, planted, spec_in, write_table
from training.batch import Batch
from training.errors import SettingsError
from training.metrics.probabilities import Binary
from training.schema import Column, Kind, Schema
from training.state.bundle import Bundle, load_bundle
from training.world import World

HELD = {"train": 0.5, "validation": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ones are rarer among the rows held out than among the examples."""
    path = tmp_path_factory.mktemp("held_out")
    write_table(path / "examples", 4_000, 0, lift=0.0, splits=HELD)
    write_table(path / "queries", 12_000, 1, lift=-2.0, splits={"validation": 0.9, "test": 0.1})
    return path


def made(folder: Path, bundles: str, **model: Any) -> tuple[dict[str, Any], Bundle]:
    summary = learn(spec_in(folder, bundles, **model), World())
    return summary, load_bundle(summary["bundle_path"])


@pytest.fixture(scope="module")
def plain(folder: Path) -> Bundle:
    return made(folder, "plain")[1]


def test_large_pictures_go_through_a_model_a_few_at_a_time() -> None:
    numbers = [Column("x", Kind.DENSE, length=4), Column("label", Kind.LABEL)]
    assert rows_of(Schema(tuple(numbers))) == 4096
    for side, rows in ((28, 1783), (224, 27), (3_000, 1)):
        picture = Column("picture", Kind.IMAGE, shape=(side, side, 3))
        assert rows_of(Schema((picture, *numbers))) == rows


def fresh(bundle: Bundle) -> dict[str, float]:
    """Figures of the bundle on rows as those that it was calibrated by."""
    (x, label), metric = planted(50_000, 9, -2.0), Binary()
    with torch.no_grad():
        p = bundle.model().predict({"x": torch.from_numpy(x)})["p"]
    return metric.finish(metric.sums(p.numpy(), label))


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_training_is_calibrated_by_what_it_did_not_learn_from(folder: Path, plain: Bundle, method: str) -> None:
    summary, bundle = made(folder, method, calibration=method)
    before, after = fresh(plain), fresh(bundle)
    assert before["ece"] > 0.1
    assert after["ece"] < 0.01
    assert after["predicted_over_actual"] == pytest.approx(1, abs=0.05)
    assert after["auc"] == pytest.approx(before["auc"], abs=1e-3)
    for name in plain.tensor_names():  # the rows held out taught nothing
        assert torch.equal(plain.tensor(name), bundle.tensor(name))
    assert {*bundle.tensor_names()} - {*plain.tensor_names()} == {"calibrations.0.knots"}
    measured = summary["calibration"]["label"]
    assert bundle.metrics["calibration"]["label"] == measured
    assert measured["rows"] == pytest.approx(10_800, rel=0.02)  # those of the test are no part of it
    assert measured["log_loss_after"] < measured["log_loss_before"]


@pytest.mark.timeout(300)
def test_two_ranks_find_the_same_line(folder: Path) -> None:
    """Of the same model: none has learnt, so that its answers differ by no rounding."""
    spec = spec_in(folder, "one rank", calibration="isotonic")
    spec["training"] |= {"learning_rate": 1e-30, "embedding_learning_rate": 1e-30}
    alone = load_bundle(learn(spec, World())["bundle_path"])
    spec |= {"bundle_dir": str(folder / "two ranks"), "ranks": 2}
    summary = launch("tests.jobs.rows_spec:learn", spec, ranks=2, timeout_s=250)
    both = load_bundle(summary["bundle_path"])
    assert torch.equal(both.tensor("calibrations.0.knots"), alone.tensor("calibrations.0.knots"))


def test_negatives_are_left_out_of_a_training_by_its_settings(folder: Path, plain: Bundle) -> None:
    summary, bundle = made(folder, "thin", negatives_kept=0.2)
    assert not torch.equal(bundle.tensor("start"), plain.tensor("start"))
    assert fresh(bundle)["predicted_over_actual"] == pytest.approx(fresh(plain)["predicted_over_actual"], rel=0.1)
    assert summary["rows"] == pytest.approx(2_000, rel=0.1)
    assert summary["rare_labels"] == {"negatives_kept": 0.2}


def test_logits_are_adjusted_by_all_examples_and_answers_stay_probabilities(folder: Path) -> None:
    """Also of negatives of which a share is learnt from; the start that is set then says nothing."""
    _, bundle = made(folder, "adjusted", logit_adjustment=1.0, negatives_kept=0.2, start_logit=9.0)
    x, label = planted(4_000, 0, 0.0)
    split = np.random.default_rng(1).choice(list(HELD), size=4_000, p=list(HELD.values()))
    share = label[split == "train"].mean()
    torch.testing.assert_close(bundle.tensor("log_prior_odds"), torch.tensor([np.log(share / (1 - share))]))
    with torch.no_grad():
        p = bundle.model().predict({"x": torch.from_numpy(x)})["p"]
    assert float(p.mean()) == pytest.approx(label.mean(), rel=0.1)


def test_labels_that_are_all_alike_have_no_prior(folder: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "examples", 500, 0, lift=-99.0, splits={"train": 1.0})
    spec = spec_in(folder, "one-sided", logit_adjustment=0.5)
    spec["tables"]["examples"]["uri"] = str(tmp_path / "examples")
    with pytest.raises(SettingsError, match=r"logit_adjustment=0.5 needs .* all alike in label; set it to 0"):
        learn(spec, World())


def test_a_trial_that_publishes_nothing_is_not_calibrated(folder: Path) -> None:
    spec = spec_in(folder, "none", calibration="platt") | {"bundle_dir": None}
    assert "calibration" not in learn(spec, World())


@pytest.mark.parametrize(
    ("table", "splits", "words"),
    [
        (
            "examples",
            ["train", "validation"],
            r"it learns from train \+ validation, and what is held out is validation",
        ),
        ("queries", ["test"], "it learns from train, and what is held out is test"),
        ("queries", None, "what is held out is nothing"),
    ],
)
def test_rows_that_are_learnt_or_judged_calibrate_nothing(
    folder: Path, table: str, splits: list[str] | None, words: str
) -> None:
    spec = spec_in(folder, "leak", calibration="platt")
    if splits is None:
        del spec["tables"][table]
    else:
        spec["tables"][table] |= {"splits": splits, "partitions": {"split": splits}}
    with pytest.raises(SettingsError, match=rf"model.calibration=platt needs validation rows .*{words}"):
        learn(spec, World())
    assert not (folder / "leak").exists()


@pytest.mark.parametrize(
    ("rows", "method", "words"),
    [(300, "platt", r"needs 50 .*'label' has \d+ of 1 and \d+ of 0"), (600, "isotonic", "needs 100 ")],
)
def test_too_few_rows_of_a_label_are_refused_before_anything_is_learnt(
    folder: Path, rows: int, method: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "queries", rows, 2, lift=-3.5, splits={"validation": 1.0})
    spec = spec_in(folder, "few", calibration=method)
    spec["tables"]["queries"]["uri"] = str(tmp_path / "queries")
    with pytest.raises(SettingsError, match=rf"model.calibration={method} {words}.*raise examples.validation_days"):
        learn(spec, World())
    assert "start at step" not in capsys.readouterr().err


def test_no_validation_rows_at_all_are_as_too_few(folder: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "queries", 100, 2, lift=0, splits={"test": 1.0})
    spec = spec_in(folder, "few", calibration="platt")
    spec["tables"]["queries"]["uri"] = str(tmp_path / "queries")
    with pytest.raises(SettingsError, match="'label' has 0 of 1 and 0 of 0"):
        learn(spec, World())


def test_several_labels_are_validated_each_by_its_own_answer(tmp_path: Path) -> None:
    """Metrics of the first label have their plain names."""
    x, click = planted(3_000, 4, -1.0)
    cart = click * (np.random.default_rng(6).random(3_000) < 0.5)
    write_deltalake(tmp_path / "queries", pa.table({"x": x, "click": click, "cart": cart}))
    columns = Schema((Column("x", Kind.DENSE), Column("click", Kind.LABEL), Column("cart", Kind.LABEL)))

    class Answers(nn.Linear):
        def predict(self, batch: Batch) -> dict[str, Tensor]:
            p = torch.sigmoid(cast("Tensor", batch["x"]))
            return {"p_click": p, "p_cart": 1 - p}

    spec = {
        "validate": True,
        "tables": {"queries": {"uri": str(tmp_path / "queries"), "version": 0, "splits": [], "partitions": {}}},
    }
    validate = validation_of_probabilities(spec, columns, World(), names=("auc", "log_loss"))
    assert validate is not None
    found, metric = validate(Answers(1, 1)), Binary()
    p = 1 / (1 + np.exp(-x))
    wanted = {
        name + behind: metric.finish(metric.sums(answer, label))[name]
        for behind, answer, label in (("", p, click), ("_cart", 1 - p, cart))
        for name in ("auc", "log_loss")
    }
    assert found == pytest.approx(wanted, rel=1e-4)
    assert found["auc"] > 0.7 > 0.5 > found["auc_cart"]


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_an_order_that_the_rows_do_not_bear_out_is_warned_of(
    folder: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here they are the other way round."""
    write_table(tmp_path / "queries", 2_000, 3, lift=0, splits={"validation": 1.0}, slope=-3)
    spec = spec_in(folder, f"chance {method}", calibration=method)
    spec["tables"]["queries"]["uri"] = str(tmp_path / "queries")
    [measured] = learn(spec, World())["calibration"].values()
    assert measured["log_loss_before"] > measured["log_loss_of_share"]
    assert measured["log_loss_after"] == pytest.approx(measured["log_loss_of_share"], rel=0.02)
    told = capsys.readouterr().err
    assert "the model's order of 'label' is no better than chance on the 2,000 validation rows" in told
