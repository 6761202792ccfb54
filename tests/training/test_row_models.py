"""What every model of rows keeps: planted labels found, answers of all batches, scoring from the weights alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.training.learning import training_losses
from training.batch import Batch, Ragged
from training.errors import SchemaError
from training.models import MODELS, Model
from training.models.rows import RowModel, unfocused, yes_or_no_loss
from training.row_configs import RowMlpConfig
from training.schema import Column, Kind, Schema
from training.settings import FitSettings
from training.step.optimizers import build_optimizers

CARDS, SHOPS = 40, 9
SCHEMA = Schema(
    (
        Column("card", Kind.ID, "cards", CARDS + 1),
        Column("shops", Kind.IDS, "shops", SHOPS + 1),
        Column("amount", Kind.DENSE),
        Column("lately", Kind.DENSE, length=3),
        Column("fraud", Kind.LABEL),
        Column("weight", Kind.WEIGHT),
        Column("time", Kind.TIME),
    )
)


def rows(seed: int, count: int = 256) -> Batch:
    """One card in eight is stolen; so is what costs over 900 at shop 3."""
    draws = torch.Generator().manual_seed(seed)
    card = torch.randint(1, CARDS + 1, (count,), generator=draws)
    lengths = torch.randint(0, 4, (count,), generator=draws)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    shops = torch.randint(1, SHOPS + 1, (int(offsets[-1]),), generator=draws)
    amount = 1000 * torch.rand(count, generator=draws)
    at_three = torch.zeros(count).index_add(0, torch.repeat_interleave(lengths), (shops == 3).float()) > 0
    return {
        "card": card,
        "shops": Ragged(shops, offsets),
        "amount": amount,
        "lately": torch.rand(count, 3, generator=draws),
        "fraud": ((card % 8 == 0) | (at_three & (amount > 900))).float(),
        "weight": torch.ones(count),
        "time": torch.zeros(count, dtype=torch.int64),
    }


MODELS_OF_ROWS = [name for name, model in MODELS.items() if issubclass(model, RowModel) and not model.Config.READS]


def build(name: str = "row_mlp", **config: object) -> Model:
    torch.manual_seed(0)
    model = MODELS[name]
    return model(model.Config.parse(config), SCHEMA)


@pytest.fixture(scope="module", params=MODELS_OF_ROWS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained(name: str) -> tuple[Model, list[float]]:
    model = build(name).train()
    found = list(training_losses(model, rows, 200, sparse_rate=0.05))
    return model.eval(), found


def auc(p: Tensor, label: Tensor) -> float:
    yes, no = p[label > 0.5], p[label < 0.5]
    return float((yes[:, None] > no[None]).float().mean())


def test_planted_labels_are_found_and_their_share_is_right(trained: tuple[Model, list[float]]) -> None:
    model, losses = trained
    unseen = rows(10_000, 4096)
    with torch.no_grad():
        p = model.predict(unseen)["p"]
    assert p.shape == (4096,)
    assert p.dtype == torch.float32
    assert auc(p, unseen["fraud"]) > 0.97  # type: ignore[arg-type]
    assert abs(float(p.mean()) - float(unseen["fraud"].mean())) < 0.02  # type: ignore[union-attr]
    assert losses[-1] < 0.4 * losses[0]


def test_labels_weights_and_other_rows_change_no_answer(trained: tuple[Model, list[float]]) -> None:
    model, batch = trained[0], rows(1, 20)
    asked = {name: value for name, value in batch.items() if name not in ("fraud", "weight", "time")}
    shops = batch["shops"]
    assert isinstance(shops, Ragged)
    end = int(shops.offsets[7])
    alone = {name: value[:7] for name, value in asked.items() if isinstance(value, Tensor)}
    with torch.no_grad():
        whole = model.predict(asked)["p"]
        part = model.predict({**alone, "shops": Ragged(shops.values[:end], shops.offsets[:8])})["p"]
    torch.testing.assert_close(part, whole[:7])
    assert ((whole >= 0) & (whole <= 1)).all()


def test_a_batch_of_no_rows_gives_nothing(trained: tuple[Model, list[float]]) -> None:
    empty = rows(1, 0)
    total, weight = trained[0].loss(empty)
    total.backward()
    assert (float(total.detach()), float(weight)) == (0.0, 0.0)
    assert trained[0].predict(empty)["p"].shape == (0,)


def test_the_weight_of_rare_labels_is_taken_out_again() -> None:
    model = build("logistic_regression", positive_weight=10.0).train()
    list(training_losses(model, rows, 300, sparse_rate=0.05))
    unseen = rows(10_000, 4096)
    with torch.no_grad():
        p = model.eval().predict(unseen)["p"]
    assert abs(float(p.mean()) - float(unseen["fraud"].mean())) < 0.06  # type: ignore[union-attr]


def test_the_focal_loss_of_what_is_right_is_less() -> None:
    plain, focal = build(), build(focal=2.0)
    batch = rows(3) | {"fraud": torch.zeros(256)}
    assert float(focal.loss(batch)[0].detach()) < 0.1 * float(plain.loss(batch)[0].detach())


def test_the_focal_loss_of_a_row_that_is_surely_right_has_a_slope() -> None:
    logit = torch.tensor([30.0], requires_grad=True)
    one = torch.ones(1)
    yes_or_no_loss(logit, one, one, RowMlpConfig.parse({"focal": 0.5}))[0].backward()
    assert logit.grad is not None
    assert torch.isfinite(logit.grad).all()


@pytest.mark.parametrize("power", [0.5, 2.0, 10.0])
def test_a_focal_losss_least_logit_gives_the_labels_own_odds(power: float) -> None:
    """Where they are taken for the truth the expected loss has no slope; and ends stay ends."""
    logit = torch.linspace(-12, 12, 97, dtype=torch.float64, requires_grad=True)
    p, one, config = unfocused(logit.detach(), power).sigmoid(), torch.ones(97), RowMlpConfig.parse({"focal": power})
    of_ones, of_zeros = (
        torch.autograd.grad(yes_or_no_loss(logit, label * one, weight, config)[0], logit)[0]
        for label, weight in ((1, p), (0, 1 - p))
    )
    torch.testing.assert_close(of_ones, -of_zeros, rtol=1e-6, atol=1e-12)
    ends = unfocused(torch.tensor([-1e4, 1e4]), power)
    assert torch.equal(ends.sigmoid(), torch.tensor([0.0, 1.0]))


def test_its_tables_learn_by_their_own_optimizer(name: str) -> None:
    build_optimizers(build(name), FitSettings())  # refuses parameters that it cannot place


def test_products_in_bfloat16_change_the_loss_within_their_rounding(name: str) -> None:
    model, batch = build(name).eval(), rows(4)
    exact = model.loss(batch)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.loss(batch)[0]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", ["type", "items", "training"])
def test_a_vocabulary_may_be_called_as_torch_calls_its_own(name: str) -> None:
    model = MODELS["row_mlp"](RowMlpConfig(), Schema((Column(name, Kind.ID, name, 5), Column("y", Kind.LABEL))))
    answer = model.predict({name: torch.tensor([0, 4])})["p"]
    assert answer.shape == (2,)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([Column("amount", Kind.DENSE)], r"needs one label; .* has the labels \[\]"),
        ([Column("a", Kind.LABEL), Column("b", Kind.LABEL), Column("c", Kind.DENSE)], r"labels \['a', 'b'\]"),
        ([Column("a", Kind.LABEL), Column("c", Kind.DENSE, ragged=True)], r"any length \['c'\]"),
        ([Column("a", Kind.LABEL)], "needs ids, numbers or fixed lists"),
        ([Column("a", Kind.LABEL, ragged=True)], "label 'a' of RowMlp must be one number a row; .* of any length"),
        ([Column("a", Kind.LABEL, length=2)], "label 'a' of RowMlp must be one number a row; .* a list of 2"),
        ([Column("a", Kind.LABEL), Column("w", Kind.WEIGHT, length=2)], "weight 'w' of RowMlp must be one number"),
        (
            [Column("a", Kind.LABEL), Column("w", Kind.WEIGHT), Column("v", Kind.WEIGHT)],
            r"RowMlp takes one weight at most; the schema has the weights \['w', 'v'\]",
        ),
    ],
)
def test_a_schema_that_is_not_one_of_rows_is_refused(columns: list[Column], words: str) -> None:
    model = MODELS["row_mlp"]
    with pytest.raises(SchemaError, match=words):
        model(model.Config.parse({}), Schema(tuple(columns)))
