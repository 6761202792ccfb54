"""Whether, how much and how often: planted answers are found, by their own rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from tests.training.learning import training_losses
from tests.training.test_ranking import published
from tests.training.test_row_models import auc
from training.batch import Batch
from training.errors import SchemaError
from training.models.value_mlp import ValueMlp
from training.row_configs import ValueMlpConfig
from training.schema import Column, Kind, Schema

NUMBERS = (Column("recency", Kind.DENSE), Column("value_mean", Kind.DENSE))
LABELS = tuple(Column(name, Kind.LABEL) for name in ("buys", "spend", "days"))
SCHEMA = Schema((*NUMBERS, *LABELS, Column("weight", Kind.WEIGHT)))
SIGMA = 0.5


def rows(seed: int, count: int = 512) -> Batch:
    """Who was there lately orders on two days or more, each for twice as much as before, within a factor; nobody else
    does."""
    draws = torch.Generator().manual_seed(seed)
    recency, value = 10 * torch.rand(count, generator=draws), 100 * torch.rand(count, generator=draws) + 1
    buys = (recency < 4).float()
    days = buys * (2 + torch.poisson(torch.ones(count), generator=draws))
    spend = buys * 2 * value * torch.exp(SIGMA * torch.randn(count, generator=draws))
    return {"recency": recency, "value_mean": value, "buys": buys, "spend": spend, "days": days,
            "weight": torch.ones(count)}  # fmt: skip


class Joined(ValueMlp):
    """The parts' means added up, as the training does it."""

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        parts = super().loss(batch, generator).values()
        return cast("Tensor", sum(part.loss / part.weight for part in parts)), torch.tensor(1.0)


def build(kind: type[ValueMlp] = ValueMlp, **config: object) -> ValueMlp:
    torch.manual_seed(0)
    return kind(ValueMlpConfig.parse(config), SCHEMA)


def test_planted_answers_are_found() -> None:
    model = build(Joined, dropout=0.0, hidden=[16]).train()
    list(training_losses(model, rows, 600, sparse_rate=0.03))
    unseen = rows(10_000, 4096)
    with torch.no_grad():
        found = model.eval().predict(unseen)
    buys, value = cast("Tensor", unseen["buys"]), cast("Tensor", unseen["value_mean"])
    assert auc(found["p"], buys) > 0.99
    sure = found["p"] > 0.95
    mean = 2 * value[sure] * torch.exp(torch.tensor(SIGMA**2 / 2))
    torch.testing.assert_close(found["amount"][sure].median(), mean.median(), rtol=0.15, atol=0)
    assert float(found["amount"].sum()) == pytest.approx(float(unseen["spend"].sum()), rel=0.15)  # type: ignore[union-attr]
    assert float(found["count"][sure].mean()) == pytest.approx(3, abs=0.3)
    spend = cast("Tensor", unseen["spend"])[sure]
    within = (spend >= found["amount_low"][sure]) & (spend <= found["amount_high"][sure])
    assert float(within.float().mean()) == pytest.approx(0.8, abs=0.08)


def test_amounts_are_learnt_from_those_who_paid() -> None:
    model, batch = build().eval(), rows(1)
    parts = model.loss(batch)
    assert {name: float(part.weight) for name, part in parts.items()} == {
        "buys": 512,
        "spend": float((batch["spend"] > 0).sum()),  # type: ignore[operator, union-attr]
        "days": float((batch["days"] > 0).sum()),  # type: ignore[operator, union-attr]
    }
    halved = model.loss(batch | {"weight": torch.full((512,), 0.5)})
    for name, part in parts.items():
        torch.testing.assert_close(halved[name].loss, part.loss / 2)
    nothing = model.loss(rows(1, 0))
    assert {float(part.loss.detach()) for part in nothing.values()} == {0.0}


def test_a_bundle_answers_as_the_model(tmp_path: Path) -> None:
    model, batch = build().eval(), rows(3)
    asked = {name: batch[name] for name in ("recency", "value_mean")}
    with torch.no_grad():
        answered = published(tmp_path, "value_mlp", model).model().predict(asked)
        assert {*answered} == {"p", "amount", "amount_low", "amount_high", "count"}
        torch.testing.assert_close(answered, model.predict(batch), rtol=0, atol=0)
        torch.testing.assert_close(answered["p"], model.probabilities(batch)[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (LABELS[:2], r"needs three labels, .*; the schema has the labels \['buys', 'spend'\]"),
        ((*LABELS[:2], Column("days", Kind.LABEL, length=3)), "label 'days' of value_mlp .* one number a row"),
        ((*LABELS, Column("weight", Kind.WEIGHT, length=2)), "weight 'weight' of ValueMlp .* one number a row"),
    ],
)
def test_other_labels_are_refused(columns: tuple[Column, ...], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        ValueMlp(ValueMlpConfig(), Schema((*NUMBERS, *columns)))
