"""What a model of panels keeps: planted quantiles found, none crossing, unknown steps without effect, counts exact."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cluster.launch import launch
from tests.training import row_ranks
from training.batch import Batch
from training.errors import SchemaError, SettingsError
from training.fit import FitSettings, fit
from training.metrics.quantities import Quantiles
from training.models import MODELS
from training.models.inputs import MOMENTUM, Standard
from training.models.quantile_mlp import QuantileMlp, count_quantiles
from training.schema import Column, Kind, Schema
from training.state.bundle import load_bundle
from training.state.publish import write_bundle
from training.tables.sharded import Tables
from training.world import World

SERIES, STEPS = 20, 3
LEVELS = (0.1, 0.5, 0.9)
SCHEMA = Schema(
    (
        Column("series", Kind.ID, "series", SERIES + 1),
        Column("lags", Kind.DENSE, length=4),
        Column("scale", Kind.DENSE),
        Column("target", Kind.LABEL, length=STEPS),
        Column("known", Kind.WEIGHT, length=STEPS),
        Column("time", Kind.TIME),
    )
)
HEADS = ("quantile", "negative_binomial")


def panel(seed: int, count: int = 512) -> Batch:
    """A series sells on the average its scale; one in four (by its number) sells thrice as much in the last step."""
    draws = torch.Generator().manual_seed(seed)
    series = torch.randint(1, SERIES + 1, (count,), generator=draws)
    scale = 2.0 + series % 5
    mean = scale[:, None] * torch.where((series % 4 == 0)[:, None], torch.tensor([1.0, 1, 3]), 1.0)
    return {
        "series": series,
        "lags": torch.sqrt(torch.poisson(scale[:, None].expand(-1, 4).contiguous(), generator=draws) / scale[:, None]),
        "scale": scale,
        "target": torch.poisson(mean, generator=draws),
        "known": torch.ones(count, STEPS),
        "time": torch.zeros(count, dtype=torch.int64),
        "mean": mean,
    }


class Panels:
    """A loader of planted panels."""

    steps_per_epoch = 150

    def epoch(self, epoch: int) -> Any:
        return (panel(1000 * epoch + step) for step in range(self.steps_per_epoch))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def build(schema: Schema = SCHEMA, tables: Tables | None = None, **config: object) -> QuantileMlp:
    torch.manual_seed(0)
    kind = MODELS["quantile_mlp"]
    model = kind(kind.Config.parse({"levels": LEVELS, **config}), schema, tables=tables)
    assert isinstance(model, QuantileMlp)
    return model


def answers(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    with torch.no_grad():
        found: dict[str, Tensor] = model.eval().predict(batch)  # type: ignore[operator]
    return found


@pytest.fixture(scope="module", params=HEADS)
def trained(request: pytest.FixtureRequest) -> QuantileMlp:
    model = build(head=request.param)
    settings = FitSettings(epochs=2, batch_size=512, learning_rate=5e-3, schedule="cosine")
    result = fit(model, Panels(), settings, world=World())
    assert result.history[1]["loss"] < result.history[0]["loss"]
    return model


def test_planted_quantiles_are_found(trained: QuantileMlp) -> None:
    unseen = panel(99_999, 4096)
    found = answers(trained, unseen)["quantiles"]
    assert found.shape == (4096, STEPS, len(LEVELS))
    assert found.dtype == torch.float32
    true = count_quantiles(unseen["mean"], torch.full((4096, STEPS), 1e-6), LEVELS)  # type: ignore[arg-type]
    metric, target = Quantiles(LEVELS), unseen["target"].numpy()  # type: ignore[union-attr]
    ours, best = (metric.finish(metric.sums(q.numpy(), target)) for q in (found, true))
    flat = torch.quantile(unseen["target"], torch.tensor(LEVELS)).expand_as(found)  # type: ignore[arg-type]
    assert ours["wql"] < 1.04 * best["wql"]
    assert best["wql"] < 0.85 * metric.finish(metric.sums(flat.numpy(), target))["wql"]
    last = answers(trained, panel(5))["quantiles"][:, 2, 1] / answers(trained, panel(5))["quantiles"][:, 0, 1]
    fourth = panel(5)["series"] % 4 == 0  # type: ignore[operator]
    assert float(last[fourth].mean()) > 2.3 > 1.4 > float(last[~fourth].mean())


def test_the_number_of_ranks_changes_nothing() -> None:
    """Numbers are standardised by all ranks' rows; with whole and with sharded tables, at a tail of one row too."""
    models: dict[str, dict[str, Any]] = {
        "quantile_mlp": {"levels": [0.5, 0.9], "dropout": 0},
        "fm": {},
        "dlrm": {"dropout": 0},
        "dcn_v2": {"rank": 4, "dropout": 0},
        "multi_task": {"own_experts": 1, "levels": 2, "dropout": 0},
        "final_mlp": {"first_gates": ["series"], "dropout": 0},
    }
    spec = {"models": models, "training": {"epochs": 3, "learning_rate": 0.01}}
    alone, many = row_ranks.train(spec, World()), launch("tests.training.row_ranks:train", spec, ranks=2, timeout_s=100)
    for name, tables in product(models, ("whole", "sharded")):
        found, wanted = many[f"{name} {tables}"], alone[f"{name} whole"]
        assert found["losses"] == pytest.approx(wanted["losses"], rel=1e-4)
        assert found["statistics"] == pytest.approx(wanted["statistics"], rel=1e-5)
        assert wanted["losses"][-1] < 0.95 * wanted["losses"][0]


def test_numbers_are_standardised_as_batch_norm_does() -> None:
    """But for the first step, whose statistics are the running ones."""
    ours, theirs = Standard(3, World()), nn.BatchNorm1d(3, affine=False, momentum=1.0)
    for step in range(3):
        values = 5 + 2 * torch.randn(50, 3, generator=torch.Generator().manual_seed(step))
        torch.testing.assert_close(ours(values), theirs(values))
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        theirs.momentum = MOMENTUM
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    one = torch.tensor([[4.0, 5, 6]])
    before = ours.running_mean.clone()
    torch.testing.assert_close(ours(one), theirs.eval()(one))
    torch.testing.assert_close(ours.eval()(one), theirs(one))
    assert torch.equal(ours.running_mean, before)


@pytest.mark.parametrize("head", HEADS)
def test_quantiles_never_cross(head: str) -> None:
    model = build(head=head, levels=[0.01, 0.1, 0.11, 0.5, 0.99])
    for parameter in model.network.parameters():
        nn.init.normal_(parameter, std=2.0)
    found = answers(model, panel(1, 300))["quantiles"]
    assert bool((found.diff(dim=2) >= 0).all())
    assert bool(torch.isfinite(found).all())


def test_neither_unknown_steps_nor_labels_count(trained: QuantileMlp) -> None:
    batch = panel(3, 40)
    batch["known"] = torch.bernoulli(torch.full((40, STEPS), 0.5), generator=torch.Generator().manual_seed(1))
    total, weight = trained.eval().loss(batch)
    other = {**batch, "target": torch.where(batch["known"] > 0, batch["target"], -7.0)}  # type: ignore[operator,arg-type]
    assert float(weight) == float(batch["known"].sum())  # type: ignore[union-attr]
    assert torch.equal(trained.loss(other)[0], total)
    asked = {name: batch[name] for name in ("series", "lags", "scale")}
    torch.testing.assert_close(answers(trained, asked), answers(trained, batch), rtol=0, atol=0)


@pytest.mark.parametrize("head", HEADS)
def test_a_scale_of_each_step_is_a_unit_and_no_input(head: str) -> None:
    columns = [Column("scale", Kind.DENSE, length=STEPS) if c.name == "scale" else c for c in SCHEMA]
    model = build(Schema(tuple(columns)), head=head).eval()
    one, twice = ({**panel(4, 6), "scale": torch.tensor([[10.0, 20, factor * 40]] * 6)} for factor in (1, 2))
    found, other = (answers(model, batch)["quantiles"] for batch in (one, twice))
    torch.testing.assert_close(other[:, :2], found[:, :2], rtol=0, atol=0)
    assert float((other[:, 2] / found[:, 2]).mean()) == pytest.approx(2, rel=0.1)
    with pytest.raises(SchemaError, match="scale 'scale' must be one number a row or one a step of 'target', 3"):
        build(Schema(tuple(Column("scale", Kind.DENSE, length=2) if c.name == "scale" else c for c in SCHEMA)))


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_no_rows(head: str) -> None:
    model = build(head=head).eval()
    total, weight = model.loss(panel(1, 0), torch.Generator())
    total.backward()
    assert (float(total.detach()), float(weight)) == (0, 0)
    assert not any(p.grad.to_dense().any() for p in model.parameters() if p.grad is not None)
    assert answers(model, panel(1, 0))["quantiles"].shape == (0, STEPS, len(LEVELS))


def test_a_label_of_one_step_and_a_weight_of_a_row() -> None:
    schema = Schema((Column("x", Kind.DENSE), Column("y", Kind.LABEL), Column("w", Kind.WEIGHT)))
    model = build(schema, unit=50.0)
    batch: Batch = {"x": torch.arange(4.0), "y": torch.full((4,), 60.0), "w": torch.tensor([0.0, 0, 0, 2])}
    found = answers(model, batch)["quantiles"]
    assert found.shape == (4, 1, 3)
    assert float(found[3, 0, 1]) == pytest.approx(50.0, rel=1e-5)  # at the start: levels of (0, 2) units
    loss, weight = model.loss(batch)
    error = 60 - found[3, 0]
    levels = torch.tensor(LEVELS)
    assert float(weight) == 2
    assert float(loss.detach()) == pytest.approx(2 * float(torch.maximum(levels * error, (levels - 1) * error).mean()))


def test_the_likelihood_is_that_of_counts() -> None:
    """Its probabilities add up to one, with the mean and the variance that it says."""
    model = build(Schema((Column("x", Kind.DENSE), Column("y", Kind.LABEL))), head="negative_binomial", unit=3.0)
    counts = torch.arange(400.0)
    with torch.no_grad():
        model.network.deep[-1].bias.copy_(torch.tensor([0.0, -0.5]))
        each = [float(model.eval().loss({"x": torch.zeros(1), "y": count[None]})[0]) for count in counts]
    chance = torch.exp(-torch.tensor(each, dtype=torch.float64))
    mean = float((chance * counts).sum())
    assert float(chance.sum()) == pytest.approx(1, abs=1e-4)
    assert mean == pytest.approx(3.0, abs=1e-3)
    dispersion = math.log1p(math.exp(-0.5))
    assert float((chance * counts**2).sum()) - mean**2 == pytest.approx(3 + 9 * dispersion, rel=1e-2)


@pytest.mark.parametrize(
    ("mean", "dispersion"), [(0.05, 0.3), (2.5, 1e-4), (7.0, 2.0), (900.0, 0.01), (900.0, 1e-4), (3000.0, 0.5)]
)
def test_quantiles_of_counts_are_those_of_their_probabilities(mean: float, dispersion: float) -> None:
    levels, shape = (0.05, 0.5, 0.9, 0.99), 1 / dispersion
    counts = np.arange(40_000)
    log_gamma = np.vectorize(math.lgamma)
    log_chance = log_gamma(counts + shape) - math.lgamma(shape) - log_gamma(counts + 1.0)
    log_chance += counts * math.log(mean / (mean + shape)) + shape * math.log(shape / (mean + shape))
    below = np.cumsum(np.exp(log_chance))
    expected = np.searchsorted(below, levels)
    found = count_quantiles(torch.tensor([mean]), torch.tensor([dispersion]), levels)[0]
    for ours, theirs in zip(found.tolist(), expected.tolist(), strict=True):
        assert ours == theirs if theirs < 1000 else abs(ours - theirs) <= max(1, 0.002 * theirs)


def test_a_bundle_answers_as_the_model_did(trained: QuantileMlp, tmp_path: Path) -> None:
    config = json.loads(trained.config.model_dump_json())
    bundle = write_bundle(
        tmp_path,
        model_name="quantile_mlp",
        config=config,
        schema=SCHEMA,
        tensors=trained.state_dict(),
        provenance={},
        settings={},
        metrics={},
    )
    again = load_bundle(bundle.path).model()
    for name, answer in answers(trained, panel(4)).items():
        assert torch.equal(answers(again, panel(4))[name], answer)


def test_what_is_drawn_comes_from_the_generator() -> None:
    model, batch = build().train(), panel(1)
    nn.init.normal_(model.network.deep[-1].weight)
    before = torch.get_rng_state()
    first, again, other = (float(model.loss(batch, torch.Generator().manual_seed(s))[0].detach()) for s in (1, 1, 2))
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([Column("x", Kind.DENSE)], r"quantile_mlp needs one label; the schema has the labels \[\]"),
        ([Column("y", Kind.LABEL)], "needs ids, numbers or fixed lists"),
        (
            [Column("x", Kind.DENSE), Column("y", Kind.LABEL, length=3), Column("w", Kind.WEIGHT, length=2)],
            r"weight 'w' must be one number a row or one a step of 'y', 3; it has the length 2",
        ),
    ],
)
def test_a_schema_that_is_not_one_of_a_panel_is_refused(columns: list[Column], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        build(Schema(tuple(columns)))


def test_levels_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"levels must ascend, e\.g\. \[0\.1, 0\.5, 0\.9\]"):
        build(levels=[0.5, 0.1])
