"""Planted wrong probabilities are put right on fresh rows; the ranking stays; the counts add up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.training.test_multi_task import SCHEMA as TWO_LABELS
from tests.training.test_multi_task import rows as two_labels
from tests.training.test_ranking import published
from tests.training.test_row_models import SCHEMA
from tests.training.test_row_models import rows as one_label
from training.configs import CONFIGS
from training.errors import SettingsError
from training.metrics.calibration import CELLS, MIDDLES, counted, isotonic, log_loss, platt
from training.metrics.probabilities import Binary
from training.models import MODELS
from training.models.calibration import KNOTS, Calibration
from training.models.rows import LabelModel
from training.row_configs import RowConfig

FITS = {"platt": platt, "isotonic": isotonic}
Array = NDArray[np.float64]
Truth = Callable[[Array], Array]


def sigmoid(log_odds: Array) -> Array:
    return 1 / (1 + np.exp(-log_odds))


def too_sure(given: Array) -> Array:
    """A line of the log-odds: as of a model that is too sure, and learnt from thinned negatives that nobody counted."""
    return sigmoid(0.4 * given - 1.5)


def bent(given: Array) -> Array:
    """No line of the log-odds: nothing is surer than 5 % and 60 %."""
    return 0.05 + 0.55 * sigmoid(2 * given)


def planted(seed: int, truth: Truth, rows: int = 40_000) -> tuple[Array, Array]:
    """What a model gives, in float32, and labels of what is true."""
    draws = np.random.default_rng(seed)
    given = draws.normal(-1, 2.5, rows).astype(np.float32).astype(np.float64)
    return given, (draws.random(rows) < truth(given)).astype(np.float64)


def line(knots: Array) -> Calibration:
    made = Calibration(knots.shape[1])
    made.load_state_dict({"knots": torch.from_numpy(knots)})
    return made


def answered(made: Calibration, given: Array) -> Array:
    return torch.sigmoid(made(torch.from_numpy(given).float())).numpy()


def error_of(p: Array, labels: Array) -> float:
    metric = Binary()
    return metric.finish(metric.sums(p, labels))["ece"]


@pytest.mark.parametrize(("method", "truth"), [("platt", too_sure), ("isotonic", too_sure), ("isotonic", bent)])
def test_what_a_model_says_wrong_is_right_on_fresh_rows(method: str, truth: Truth) -> None:
    made = line(FITS[method](counted(*planted(1, truth))))
    given, labels = planted(2, truth)
    assert error_of(sigmoid(given), labels) > 0.05
    assert error_of(answered(made, given), labels) < 0.01
    assert np.abs(answered(made, given) - truth(given)).mean() < 0.01


def test_platt_finds_the_planted_line() -> None:
    (_, _), (start, first) = platt(counted(*planted(1, too_sure, 400_000)))
    assert (first - start, start) == pytest.approx((0.4, -1.5), abs=0.02)


@pytest.mark.parametrize("method", FITS)
@pytest.mark.parametrize("truth", [too_sure, bent, lambda given: sigmoid(-given)])
def test_the_ranking_stays(method: str, truth: Truth) -> None:
    made = line(FITS[method](counted(*planted(3, truth, 4_000))))
    given = torch.cat([torch.randn(50_000) * 5, torch.tensor([-60.0, 60.0])]).sort().values.unique()
    assert (made(given).diff() > 0).all()


@pytest.mark.parametrize("method", FITS)
def test_counts_of_shares_add_up_to_the_same_line(method: str) -> None:
    given, labels = planted(4, too_sure, 5_000)
    weights = np.random.default_rng(0).integers(0, 4, 5_000)
    whole = counted(given, labels, weights)
    shares = sum(counted(given[own::3], labels[own::3], weights[own::3]) for own in range(3))
    assert np.array_equal(FITS[method](whole), FITS[method](shares))
    repeated = counted(np.repeat(given, weights), np.repeat(labels, weights))
    assert np.array_equal(whole, repeated)


@pytest.mark.parametrize("method", FITS)
def test_rows_told_apart_without_a_miss_leave_answers_finite(method: str) -> None:
    given = np.concatenate([np.full(300, -4.0), np.full(60, 6.0)])
    sums = counted(given, given > 0)
    made = line(FITS[method](sums))
    p = answered(made, np.array([-40.0, -4.0, 6.0, 40.0]))
    assert log_loss(sums, made(torch.from_numpy(MIDDLES)).numpy()) < log_loss(sums)
    assert 0 < p[0] < p[1] < 0.01
    assert 0.95 < p[2] < 1
    assert p[2] < p[3] <= 1


def test_a_model_that_ranks_against_the_truth_gets_the_share_of_ones() -> None:
    given, labels = planted(5, lambda given: sigmoid(-given))
    for fit in FITS.values():
        p = answered(line(fit(counted(given, labels))), given)
        assert np.abs(p - labels.mean()).max() < 0.06


def test_the_log_loss_is_that_of_the_rows() -> None:
    given, labels = planted(6, too_sure)
    sums = counted(given, labels)
    plain = np.mean(np.logaddexp(0, given) - labels * given)
    assert log_loss(sums) == pytest.approx(plain, rel=1e-4)
    assert log_loss(sums, 0.4 * MIDDLES - 1.5) < log_loss(sums)
    assert sums.shape == (2 * CELLS,)


def calibrated(name: str, method: str) -> LabelModel:
    """A model whose line is some planted one."""
    torch.manual_seed(0)
    kind = MODELS[name]
    model = kind(
        kind.Config.parse({"calibration": method, "start_logit": 0.0}), TWO_LABELS if name == "multi_task" else SCHEMA
    ).eval()
    assert isinstance(model, LabelModel)
    for number, own in enumerate(model.calibrations):
        own.load_state_dict({"knots": torch.from_numpy(FITS[method](counted(*planted(number, bent))))})
    return model


@pytest.mark.parametrize("method", FITS)
@pytest.mark.parametrize("name", ["row_mlp", "multi_task"])
def test_a_bundle_answers_as_the_calibrated_model(name: str, method: str, tmp_path: Path) -> None:
    model, batch = calibrated(name, method), two_labels(1) if name == "multi_task" else one_label(1)
    plain = MODELS[name](model.Config.parse({}), model.schema).eval()
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if "calibrations" not in key})
    with torch.no_grad():
        found, raw = model.predict(batch), plain.predict(batch)
        again = published(tmp_path, name, model).model().predict(batch)
    torch.testing.assert_close(again, found, rtol=0, atol=0)
    for own, p in zip(model.calibrations, raw, strict=True):
        wanted = torch.sigmoid(own(torch.logit(raw[p].double())))
        torch.testing.assert_close(found[p], wanted.float(), rtol=1e-4, atol=1e-6)
        assert found[p].dtype == torch.float32
        assert not torch.allclose(found[p], raw[p], atol=0.01)


def test_a_line_as_it_is_made_changes_nothing() -> None:
    for knots in KNOTS.values():
        given = torch.linspace(-30, 30, 999)
        torch.testing.assert_close(Calibration(knots)(given), given.double())


def test_what_is_not_asked_for_is_no_part_of_the_state() -> None:
    model = MODELS["row_mlp"](MODELS["row_mlp"].Config.parse({}), SCHEMA)
    assert not [name for name in model.state_dict() if "calibration" in name]
    assert cast("Any", model).config.identity() == MODELS["row_mlp"].Config.parse({"calibration": "none"}).identity()


@pytest.mark.parametrize("setting", [{"calibration": "platt"}, {"negatives_kept": 0.5}])
@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if not issubclass(config, RowConfig)])
def test_models_of_other_things_refuse_it(name: str, setting: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=rf"model.{next(iter(setting))} = .*{CONFIGS[name].__name__} takes"):
        CONFIGS[name].parse(setting)


@pytest.mark.parametrize(
    "setting", [{"calibration": "beta"}, {"negatives_kept": 0}, {"negatives_kept": 1.5}, {"focal": -1}]
)
def test_unknown_ways_and_shares_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=rf"model.{next(iter(setting))} = "):
        CONFIGS["row_mlp"].parse(setting)
