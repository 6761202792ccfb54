"""The contract that every model keeps, on a shop whose tastes are planted."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from tests.training.learning import training_losses
from training.batch import Batch, Ragged
from training.configs import CONFIGS, MatrixFactorisationConfig, ModelConfig, SequenceConfig, TwoTowerConfig
from training.errors import SchemaError, SettingsError
from training.models import MODELS, RetrievalModel
from training.models.matrix_factorisation import MatrixFactorisation
from training.models.two_tower import TwoTower
from training.schema import Column, Kind, Schema
from training.step.buffers import few_rows

USERS, ITEMS, GROUPS = 48, 60, 4  # indices 1..USERS, 1..ITEMS; item i and user u are of group i % GROUPS, u % GROUPS
SCHEMA = Schema(
    (
        Column("user", Kind.ID, "users", USERS + 1),
        Column("history", Kind.IDS, "items", ITEMS + 1),
        Column("history_age", Kind.DENSE, ragged=True),
        Column("target", Kind.ID, "items", ITEMS + 1),
        Column("new", Kind.DENSE),
        Column("age", Kind.DENSE),
        Column("weight", Kind.WEIGHT),
        Column("time", Kind.TIME),
    )
)


OF_ITEMS = (
    Column("category", Kind.ID, "category", 4, of_item=True),
    Column("words", Kind.IDS, "words", 9, length=3, of_item=True),
    Column("price", Kind.DENSE, of_item=True),
    Column("story", Kind.DENSE, length=5, of_item=True),
)


class Normed(TwoTower):
    """Layers that remember the rows they saw are within the contract too."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.norm = nn.BatchNorm1d(self.config.dim)

    def _taste(self, *given: Any) -> Tensor:
        return nn.functional.normalize(self.norm(super()._taste(*given)), dim=1)


class Described(TwoTower):
    """Items have attributes: a category, words, a number, and a text's vector."""

    def __init__(self, config: ModelConfig, schema: Schema, *given: Any) -> None:
        super().__init__(config, Schema((*schema, *OF_ITEMS)), *given)


class TowersOfPairsConfig(TwoTowerConfig):
    loss: Literal["softmax", "bpr"] = "bpr"


class TowersOfPairs(TwoTower):
    Config = TowersOfPairsConfig


class PairsConfig(MatrixFactorisationConfig):
    loss: Literal["softmax", "bpr", "cosine_contrastive"] = "bpr"
    cosines: bool = False
    temperature: float = 1.0
    l2: float = 0.01


class Pairs(MatrixFactorisation):
    """As published: inner products of short vectors."""

    Config = PairsConfig


class SimpleXConfig(MatrixFactorisationConfig):
    loss: Literal["softmax", "bpr", "cosine_contrastive"] = "cosine_contrastive"
    margin: float = 0.3
    negative_weight: float = 10.0
    own_share: float = 0.5


class SimpleX(MatrixFactorisation):
    """Customers are their histories too."""

    Config = SimpleXConfig


# Histories of these are sequences: a row's target is its last line, and what they know of a customer is the history.
SEQUENCES = [name for name, config in CONFIGS.items() if issubclass(config, SequenceConfig)]
RETRIEVAL = {name: model for name, model in MODELS.items() if issubclass(model, RetrievalModel)}
CONTRACT: dict[str, type[RetrievalModel]] = {
    **RETRIEVAL,
    "batch_norm": Normed,
    "bpr": Pairs,
    "simplex": SimpleX,
    "towers_bpr": TowersOfPairs,
    "described": Described,
}
BY_CUSTOMER = [name for name in CONTRACT if name not in SEQUENCES]
POOLED = [name for name in BY_CUSTOMER if name not in ("matrix_factorisation", "bpr")]  # the others need no history


def ragged(rows: list[list[int]]) -> Ragged:
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Ragged(torch.tensor([item for row in rows for item in row], dtype=torch.int64), offsets)


def make_batch(users: list[int], histories: list[list[int]], targets: list[int]) -> Batch:
    """A batch of either kind: what is a query's has the history alone, and `examples_for` gives what is learnt from."""
    history, rows = ragged(histories), len(users)
    return {
        "user": torch.tensor(users, dtype=torch.int64),
        "history": history,
        "history_age": Ragged(torch.full(history.values.shape, 3.0), history.offsets),
        "target": torch.tensor(targets, dtype=torch.int64),
        "new": torch.ones(rows),
        "age": torch.full((rows,), 10.0),
        "weight": torch.ones(rows),
        "time": torch.zeros(rows, dtype=torch.int64),
    }


def examples_for(name: str, batch: Batch) -> Batch:
    """What a model learns from."""
    if name not in SEQUENCES:
        return batch
    history, target = batch["history"], batch["target"]
    assert isinstance(history, Ragged)
    assert isinstance(target, Tensor)
    bounds = history.offsets.tolist()
    held = [history.values[start:end].tolist() for start, end in pairwise(bounds)]
    lines = ragged([[*one, int(last)] for one, last in zip(held, target, strict=True)])
    before = torch.cat([torch.arange(len(one) + 1) for one in held]) if held else torch.zeros(0)
    return {
        "history": lines,
        "history_age": Ragged(torch.full(lines.values.shape, 3.0), lines.offsets),
        "history_before": Ragged(before.float(), lines.offsets),
    }


def taste_batch(seed: int, rows: int = 64) -> Batch:
    """Users buy, and bought, items of their own group only."""
    generator = torch.Generator().manual_seed(seed)

    def bought(user: int, count: int) -> list[int]:
        draws = torch.randint(0, ITEMS // GROUPS, (count,), generator=generator)
        return [int(draw) * GROUPS + (user % GROUPS or GROUPS) for draw in draws]

    users = torch.randint(1, USERS + 1, (rows,), generator=generator).tolist()
    return make_batch(users, [bought(u, n % 6) for n, u in enumerate(users)], [bought(u, 1)[0] for u in users])


def item_features() -> dict[str, Tensor]:
    counts = torch.full((ITEMS + 1,), 20.0)
    items = torch.arange(ITEMS + 1)
    of_items = {"category": items % 4, "words": torch.stack([items % 9, items % 5, 0 * items], 1), "price": items / 60}
    story = {"story": torch.sin(items[:, None] * torch.arange(1, 6))}
    return {"count": counts, "user_count": counts, "recent_count": counts / 4, **of_items, **story}


def build(name: str, **config: object) -> RetrievalModel:
    torch.manual_seed(0)
    model = CONTRACT[name]
    return model(model.Config.parse(config), SCHEMA, item_features())


def test_each_model_has_its_config_under_its_name() -> None:
    assert {name: model.Config for name, model in MODELS.items()} == CONFIGS


@pytest.fixture(scope="module", params=list(CONTRACT))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained(name: str) -> tuple[RetrievalModel, list[float]]:
    model = build(name).train()
    found = list(training_losses(model, lambda seed: examples_for(name, taste_batch(seed)), 60, sparse_rate=0.02))
    return model.eval(), found


def top(model: RetrievalModel, batch: Batch, k: int) -> Tensor:
    with torch.no_grad():
        return (model.queries(batch) @ model.item_matrix().T).topk(k, dim=1).indices


def group(items: Tensor) -> Tensor:
    return items % GROUPS


def test_shapes_and_types(name: str) -> None:
    model, batch = build(name).eval(), taste_batch(1, rows=7)
    queries, matrix = model.queries(batch), model.item_matrix()
    total, weight = model.loss(examples_for(name, batch), torch.Generator())
    assert queries.shape == (7, matrix.shape[1])
    assert matrix.shape[0] == ITEMS + 1
    assert (queries.dtype, matrix.dtype, total.dtype) == (torch.float32,) * 3
    assert (total.shape, weight.shape) == ((), ())
    assert weight > 0


def test_loss_falls_and_finds_the_planted_tastes(trained: tuple[RetrievalModel, list[float]]) -> None:
    model, losses = trained
    assert sum(losses[-10:]) < 0.87 * sum(losses[:10])  # histories say something from the first step on
    by_history = top(model, make_batch([0] * GROUPS, [[g, g + GROUPS] for g in range(1, GROUPS + 1)], [1] * GROUPS), 10)
    assert (group(by_history) == group(torch.arange(1, GROUPS + 1))[:, None]).double().mean() > 0.9


@pytest.mark.parametrize("name", BY_CUSTOMER, indirect=True)
def test_a_customer_has_a_taste_of_their_own(trained: tuple[RetrievalModel, list[float]]) -> None:
    users = list(range(1, USERS + 1))
    by_user = top(trained[0], make_batch(users, [[] for _ in users], [1] * USERS), 10)
    assert (group(by_user) == group(torch.tensor(users))[:, None]).double().mean() > 0.9


def test_unknown_item_is_never_recommended(trained: tuple[RetrievalModel, list[float]]) -> None:
    ranked = top(trained[0], taste_batch(2), ITEMS + 1)
    assert bool((ranked[:, -1] == 0).all())


def test_the_target_is_not_looked_at(trained: tuple[RetrievalModel, list[float]]) -> None:
    batch = taste_batch(3)
    query = {name: batch[name] for name in ("user", "history", "history_age")}
    torch.testing.assert_close(trained[0].queries(query), trained[0].queries(batch), rtol=0, atol=0)


def test_a_batch_of_no_rows(name: str) -> None:
    model, empty = build(name).train(), make_batch([], [], [])
    with few_rows(model, 0):
        total, weight = model.loss(examples_for(name, empty), torch.Generator())
    total.backward()
    assert (float(total.detach()), float(weight)) == (0, 0)
    for parameter in model.parameters():
        gradient = parameter.grad
        assert gradient is None or not gradient.to_dense().any()
    assert model.eval().queries(empty).shape == (0, model.item_matrix().shape[1])


def test_empty_histories_unknown_items_and_unknown_users(name: str) -> None:
    model = build(name).train()
    batch = make_batch([0, 5, 6], [[], [0, 0], [0, 7]], [3, 4, 2])
    total, weight = model.loss(examples_for(name, batch), torch.Generator())
    total.backward()
    assert torch.isfinite(total)
    assert float(weight) > 0
    assert all(p.grad is None or bool(torch.isfinite(p.grad.to_dense()).all()) for p in model.parameters())
    unknown_left_out = model.eval().queries(make_batch([5, 5], [[7, 0], [7]], [1, 1]))
    torch.testing.assert_close(unknown_left_out[0], unknown_left_out[1])


@pytest.mark.parametrize("name", BY_CUSTOMER, indirect=True)
def test_rows_of_unknown_targets_and_of_no_weight_do_not_count(name: str) -> None:
    model = build(name).eval()
    batch = make_batch([1, 2, 3], [[1], [2], [3]], [5, 0, 6])
    batch["weight"] = torch.tensor([1.0, 1.0, 0.0])
    total, weight = model.loss(batch, torch.Generator().manual_seed(0))
    assert float(weight) <= 1
    assert torch.isfinite(total)


def test_same_generator_same_loss(name: str) -> None:
    model, batch = (
        build(name, **({"negatives": 20} if "negatives" in CONTRACT[name].Config.model_fields else {})).train(),
        examples_for(name, taste_batch(4)),
    )
    first, again, other = (float(model.loss(batch, torch.Generator().manual_seed(s))[0].detach()) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_global_generator_is_left_alone(name: str) -> None:
    model, before = build(name).train(), torch.get_rng_state()
    model.loss(examples_for(name, taste_batch(5)), torch.Generator())
    assert torch.equal(before, torch.get_rng_state())


def test_embedding_tables_have_sparse_gradients(name: str) -> None:
    model = build(name).train()
    model.loss(examples_for(name, taste_batch(6)), torch.Generator())[0].backward()
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    assert tables
    assert all(table.grad is not None and table.grad.is_sparse for table in tables)


def test_weights_carry_all_that_scoring_needs(trained: tuple[RetrievalModel, list[float]], name: str) -> None:
    model, _ = trained
    config = model.Config.parse(json.loads(model.config.model_dump_json()))
    assert config == model.config
    again = CONTRACT[name](config, Schema.from_json(SCHEMA.to_json()))
    again.load_state_dict(model.state_dict())
    batch = taste_batch(7)
    assert torch.equal(again.eval().queries(batch), model.queries(batch))
    assert torch.equal(again.item_matrix(), model.item_matrix())


def test_one_that_answers_no_rows_says_so(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{CONTRACT[name].__name__} has no `predict`"):
        build(name).predict(taste_batch(1, rows=2))


def test_wrong_settings_are_all_named(name: str) -> None:
    with pytest.raises(SettingsError, match=r"model\.dim = 0.*model\.dimm = 32.*takes: .*dim"):
        CONTRACT[name].Config.parse({"dimm": 32, "dim": 0})


def test_search_space_holds_ranges_or_choices(name: str) -> None:
    space = CONTRACT[name].Config.search_space()
    assert space
    assert set(space) <= set(CONTRACT[name].Config.model_fields)
    for field, spec in space.items():
        values = spec["choices"] if "choices" in spec else [spec["low"], spec["high"]]
        assert all(isinstance(CONTRACT[name].Config.parse({field: value}), ModelConfig) for value in values)


WEIGHED = Schema((*SCHEMA, Column("history_weight", Kind.DENSE, ragged=True)))


def weighed(batch: Batch, weights: list[float]) -> Batch:
    history = batch["history"]
    assert isinstance(history, Ragged)
    return batch | {"history_weight": Ragged(torch.tensor(weights), history.offsets)}


@pytest.fixture
def by_weight(trained: tuple[RetrievalModel, list[float]], name: str) -> RetrievalModel:
    """The trained model with a column of weights beside the history."""
    model = CONTRACT[name](trained[0].config, WEIGHED)
    model.load_state_dict(trained[0].state_dict())
    return model.eval()


@pytest.mark.parametrize("name", POOLED, indirect=True)
def test_an_item_of_the_history_counts_so_often_as_its_weight_says(
    trained: tuple[RetrievalModel, list[float]], by_weight: RetrievalModel
) -> None:
    """Also in the loss, the gradient of which goes by the weights too."""
    once = make_batch([5, 6, 7], [[1, 2], [3, 4], []], [9, 9, 9])
    often = make_batch([5, 6, 7], [[1, 2, 2, 2], [4], []], [9, 9, 9])
    alike = weighed(once, [1.0, 3.0, 0.0, 1.0])
    torch.testing.assert_close(by_weight.queries(alike), trained[0].queries(often))
    assert not torch.allclose(by_weight.queries(alike), trained[0].queries(once), atol=1e-3)
    losses = [
        model.loss(batch, torch.Generator().manual_seed(1))
        for model, batch in ((by_weight, alike), (trained[0], often))
    ]
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("name", POOLED, indirect=True)
def test_weights_of_one_are_none(trained: tuple[RetrievalModel, list[float]], by_weight: RetrievalModel) -> None:
    batch = taste_batch(8)
    history = batch["history"]
    assert isinstance(history, Ragged)
    ones = weighed(batch, [1.0] * len(history.values))
    assert torch.equal(by_weight.queries(ones), trained[0].queries(batch))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({}, r"'user_count' must be 61 finite numbers.*got nothing"),
        ({"user_count": torch.zeros(9), "recent_count": torch.zeros(61)}, r"'user_count' must be 61.*shape \(9,\)"),
        ({"user_count": torch.zeros(61), "recent_count": torch.full((61,), torch.nan)}, r"'recent_count'.*NaN"),
    ],
)
def test_item_features_must_fit(features: dict[str, Tensor], message: str) -> None:
    model = CONTRACT["two_tower"]
    with pytest.raises(SchemaError, match=message):
        model(model.Config(), SCHEMA, features)
