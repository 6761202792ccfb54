"""Places at which rows were shown: looks and attraction are told apart; an answer without a place is for the first."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.training.learning import training_losses
from tests.training.test_multi_task import Joined
from tests.training.test_row_models import MODELS_OF_ROWS
from training.batch import Batch
from training.errors import SchemaError
from training.models import MODELS, Model
from training.models.rows import RowModel
from training.schema import Column, Kind, Schema

ITEMS, PLACES = 20, 5
LOOKS = torch.tensor([1.0, 1.0, 0.7, 0.5, 0.35, 0.25])  # of a place that is not known, and of 1 to 5
SCHEMA = Schema(
    (
        Column("item", Kind.ID, "items", ITEMS + 1),
        Column("amount", Kind.DENSE),
        Column("place", Kind.POSITION, size=PLACES + 1),
        Column("clicked", Kind.LABEL),
    )
)


def attraction(item: Tensor) -> Tensor:
    return 0.1 + 0.8 * item / ITEMS


def rows(seed: int, count: int = 1_024) -> Batch:
    """The best items stand where hardly anybody looks: who takes clicks for attraction has them upside down."""
    draws = torch.Generator().manual_seed(seed)
    item = torch.randint(1, ITEMS + 1, (count,), generator=draws)
    below = (torch.rand(count, generator=draws) < 0.8) * (item > ITEMS / 2) * 3
    place = 1 + below + torch.randint(0, 2, (count,), generator=draws)
    p = LOOKS[place] * attraction(item)
    clicked = (torch.rand(count, generator=draws) < p).float()
    return {"item": item, "amount": torch.rand(count, generator=draws), "place": place, "clicked": clicked}


def build(name: str, schema: Schema = SCHEMA, **config: object) -> Model:
    torch.manual_seed(0)
    return MODELS[name](MODELS[name].Config.parse(config), schema)


@pytest.mark.parametrize("config", [{}, {"positive_weight": 4.0}], ids=["plain", "weighted"])
def test_attraction_is_learned_free_of_the_place(config: dict[str, object]) -> None:
    model = build("row_mlp", dropout=0.0, **config).train()
    list(training_losses(model, rows, 800, sparse_rate=0.05))
    unseen = rows(10_000, 50_000)
    asked = {name: unseen[name] for name in ("item", "amount")}
    with torch.no_grad():
        at_first = model.eval().predict(asked)["p"]
        where_shown = model.predict({**asked, "place": unseen["place"]})["p"]
    item, place = unseen["item"], unseen["place"]
    assert isinstance(item, Tensor)
    assert isinstance(place, Tensor)
    assert float((at_first - attraction(item)).abs().mean()) < 0.05
    assert float((where_shown - LOOKS[place] * attraction(item)).abs().mean()) < 0.03
    not_said = model.predict({**asked, "place": torch.zeros_like(place)})["p"]
    torch.testing.assert_close(not_said, at_first)


@pytest.mark.parametrize("name", MODELS_OF_ROWS)
def test_the_loss_is_that_of_the_product(name: str) -> None:
    model, batch = (
        build(name, **({} if name == "logistic_regression" else {"dropout": 0.0} if name != "fm" else {})),
        rows(1, 64),
    )
    assert isinstance(model, RowModel)
    with torch.no_grad():
        model.looks.copy_(torch.tensor([1.0, 0.0, -1.0, -2.0]))
    place, clicked = batch["place"], batch["clicked"]
    assert isinstance(place, Tensor)
    assert isinstance(clicked, Tensor)
    look = F.pad(torch.sigmoid(model.looks), (2, 0), value=1.0)[place]
    wanted = F.binary_cross_entropy(look * torch.sigmoid(model.eval().logit(batch, None)), clicked, reduction="sum")
    loss, weight = model.loss(batch)
    assert float(weight) == 64
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-4)


def test_extreme_log_odds_stay_finite() -> None:
    model = build("logistic_regression", start_logit=20.0)
    batch = rows(2, 64)
    loss, _ = model.loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(
        torch.isfinite(own.grad).all() for own in model.parameters() if own.grad is not None and not own.grad.is_sparse
    )


def test_labels_share_the_looks() -> None:
    """What is bought is a part of what is clicked: where clicks tell how many look, the rare label needs no more."""

    def both(seed: int, count: int = 1_024) -> Batch:
        batch, draws = rows(seed, count), torch.Generator().manual_seed(seed + 77)
        bought = (torch.rand(count, generator=draws) < 0.2) * batch["clicked"]  # type: ignore[operator]
        return batch | {"bought": bought}

    torch.manual_seed(0)
    config = MODELS["multi_task"].Config.parse({"dropout": 0.0, "dim": 8})
    model = Joined(config, Schema((*SCHEMA.columns, Column("bought", Kind.LABEL)))).train()
    list(training_losses(model, both, 500, sparse_rate=0.05))
    unseen = both(10_000, 20_000)
    with torch.no_grad():
        at_first = model.eval().predict({name: unseen[name] for name in ("item", "amount")})
        where_shown = model.predict({name: unseen[name] for name in ("item", "amount", "place")})
    item, place = (cast("Tensor", unseen[name]) for name in ("item", "place"))
    assert model.looks.shape == (PLACES - 1,)
    for name, share in (("clicked", 1.0), ("bought", 0.2)):
        off = at_first[f"p_{name}"] - share * attraction(item)
        assert float(off.abs().mean()) < 0.06 * share**0.5
        off = where_shown[f"p_{name}"] - share * LOOKS[place] * attraction(item)
        assert float(off.abs().mean()) < 0.04 * share**0.5


def test_places_need_their_number() -> None:
    with pytest.raises(SchemaError, match="needs a size: the number of places, and one; got None"):
        Column("place", Kind.POSITION)


def test_answers_where_rows_were_shown_are_calibrated() -> None:
    """As they are counted, and those for the first place by the same line."""
    model, batch = build("row_mlp", calibration="platt").eval(), rows(3, 64)
    assert isinstance(model, RowModel)
    with torch.no_grad():
        model.looks.copy_(torch.tensor([1.0, 0.0, -1.0, -2.0]))
        for asked in (batch, {name: batch[name] for name in ("item", "amount")}):
            [log_odds] = model.log_odds(asked)
            for knots in model.calibrations.state_dict().values():
                knots.copy_(torch.tensor([[0.0, 1.0], [-0.5, 0.2]]))
            torch.testing.assert_close(model.predict(asked)["p"], torch.sigmoid(0.7 * log_odds - 0.5))
