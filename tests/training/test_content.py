"""Items that were never sold: by their attributes what is planted in these is found, by ids alone it is not."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from cluster.launch import launch
from tests.training.content import (
    FEATURES,
    ITEMS,
    NEW,
    OLD,
    SCHEMA,
    SEQUENCES,
    TASTES,
    batch_of,
    in_sequence,
    of_taste,
    stories,
    train_on_ranks,
    two_tower,
    with_vectors,
)
from tests.training.learning import training_losses
from training.errors import SchemaError
from training.models.bert4rec import Bert4Rec
from training.models.content import ItemContent
from training.models.sequence import Sequence
from training.models.two_tower import TwoTower
from training.schema import Column, Kind, Schema
from training.state.warm_start import warm_start
from training.tables.sharded import Tables, look_up
from training.world import World

_ITEM = torch.arange(ITEMS)


def trained(schema: Schema, **config: Any) -> TwoTower:
    model = two_tower(schema, **config).train()
    list(training_losses(model, lambda seed: batch_of(seed, rows=64), 120, sparse_rate=0.02))
    return model.eval()


@torch.no_grad()
def found_new(model: TwoTower | Sequence) -> float:
    """Of the new items that customers of a taste get first, the share that is of it; they know some old ones alone."""
    queries = model.queries(batch_of(9_999, rows=TASTES, tastes=list(range(TASTES))))
    scores = queries @ model.item_matrix().T
    top = scores[:, OLD + 1 :].topk(NEW // TASTES, dim=1).indices + OLD + 1
    return float((of_taste(top) == torch.arange(TASTES)[:, None]).double().mean())


@torch.no_grad()
def best(model: TwoTower, k: int) -> Tensor:
    queries = model.queries(batch_of(9_999, rows=TASTES, tastes=list(range(TASTES))))
    return (queries @ model.item_matrix().T).topk(k, dim=1).indices


def test_new_items_are_found_by_their_category() -> None:
    """Among all items, old ones too; ids alone know nothing of them."""
    by_content, by_ids = trained(SCHEMA), trained(SCHEMA.without_items())
    assert found_new(by_content) > 0.9
    assert found_new(by_ids) < 0.6
    top = best(by_content, ITEMS // TASTES)
    assert (of_taste(top) == torch.arange(TASTES)[:, None]).double().mean() > 0.8
    assert (top > OLD).any(dim=1).all()
    assert not (best(by_ids, ITEMS // TASTES) > OLD).any()


def found_by_stories(kind: type[TwoTower] | type[Sequence], stories: Tensor) -> float:
    """How many of the new items are found by texts' vectors alone."""
    columns = SEQUENCES if issubclass(kind, Sequence) else tuple(SCHEMA)
    torch.manual_seed(0)
    features = {"user_count": FEATURES["user_count"], "recent_count": FEATURES["recent_count"]}
    config = kind.Config.parse({"dim": 16, "negatives": 64})
    model = kind(config, with_vectors(columns), {**features, "attribute_story": stories}).train()
    as_read = in_sequence if issubclass(kind, Sequence) else dict
    list(training_losses(model, lambda seed: as_read(batch_of(seed, rows=64)), 120, sparse_rate=0.02))
    return found_new(model.eval())


@pytest.mark.parametrize("kind", [TwoTower, Sequence, Bert4Rec])
def test_new_items_are_found_by_their_texts_vectors(kind: type[TwoTower] | type[Sequence]) -> None:
    assert found_by_stories(kind, stories()) > 0.8


def test_new_items_whose_vectors_tell_another_taste_go_to_its_customers() -> None:
    items = torch.arange(ITEMS)
    swapped = torch.where(items > OLD, items + 1, items)  # the taste of the next
    assert found_by_stories(TwoTower, stories(swapped)) < 0.2


def test_a_text_that_is_missing_adds_nothing() -> None:
    held = stories()
    held[OLD + 1] = 0
    torch.manual_seed(0)
    schema = with_vectors(tuple(SCHEMA))
    model = two_tower(schema, {**FEATURES, "attribute_story": held}).train()
    list(training_losses(model, lambda seed: batch_of(seed, rows=64), 20, sparse_rate=0.02))
    matrix = model.eval().item_matrix()
    assert torch.isfinite(matrix).all()
    assert not matrix[OLD + 1, : model.config.dim].any()
    assert matrix[OLD + 2, : model.config.dim].any()


def of_two(stories: Tensor, left_out: float = 0.0) -> ItemContent:
    """Content of a category and a text's vector, with weights that are drawn."""
    given = {"attribute_category": FEATURES["attribute_category"], "attribute_story": stories}
    columns = [column for column in with_vectors(SCHEMA.columns).of_items if column.name in given]
    torch.manual_seed(0)
    content = ItemContent(columns, ITEMS, 16, given, Tables(), left_out)
    with torch.no_grad():
        for weight in content.parameters():
            weight += torch.randn(weight.shape)
    return content


def of_items(content: ItemContent, ids: Tensor, seed: int = 0) -> Tensor:
    asked = content.asked(ids)
    found = look_up(*((own.table, own.values) for own in asked))
    return content(ids, asked, found, torch.Generator().manual_seed(seed))


def test_what_is_missing_of_an_item_leaves_the_rest_as_it_is() -> None:
    held, ids = stories(), torch.tensor([3, 4])
    held[3] = 0
    content = of_two(held).eval()
    row = content.tables["attribute_category"].weight[FEATURES["attribute_category"][ids]]  # type: ignore[index]
    found = of_items(content, ids)
    torch.testing.assert_close(found[0], row[0])
    assert not torch.allclose(found[1], row[1])


def test_vectors_of_any_model_teach_alike() -> None:
    """Wherever their middle lies and however long they are; one that is missing, zeros, stays so and moves nothing."""
    held = stories()
    held[7] = 0
    there = held.any(dim=1, keepdim=True)
    moved = torch.where(there, 1e6 * held - 3e6, 0.0)
    plain, other = (of_two(each).numbers for each in (held, moved))
    torch.testing.assert_close(plain, other, rtol=1e-3, atol=1e-3)
    assert not plain[7].any()
    assert float(plain[there[:, 0]].square().sum(dim=1).mean()) == pytest.approx(1.0, abs=1e-3)
    assert float(plain.sum(dim=0).abs().max()) < 1e-3
    assert not of_two(torch.where(there, torch.full_like(held, 0.1), 0.0)).numbers.any()  # all alike: nothing is told


def test_a_left_out_attribute_adds_nothing_and_an_item_is_never_left_without_any() -> None:
    held = stories()
    held[5] = 0
    content, ids = of_two(held, left_out=0.5).train(), torch.arange(1, ITEMS)
    found, again, other = (of_items(content, ids, seed) for seed in (1, 1, 2))
    assert torch.equal(found, again)
    assert not torch.equal(found, other)
    whole = of_items(content.eval(), ids)
    category = content.tables["attribute_category"].weight[FEATURES["attribute_category"][ids]]  # type: ignore[index]
    ways = torch.stack([whole, category, whole - category])  # both, the one, the other
    near = (found - ways).abs().amax(dim=2) < 1e-4
    assert near.any(dim=0).all()
    assert near[:, ids != 5].any(dim=1).all()
    assert near[0, ids == 5].all()  # it has a category alone, which stays


def test_what_was_not_sold_is_no_candidate_and_its_own_vector_says_nothing() -> None:
    model = two_tower(SCHEMA, negatives=1_000).train()
    model.loss(batch_of(1, rows=64), torch.Generator().manual_seed(1))[0].backward()
    touched = model.items.weight.grad
    assert isinstance(touched, Tensor)
    assert not touched.to_dense()[OLD + 1 :].any()
    model.eval()
    before = model.item_matrix()
    with torch.no_grad():
        model.items.weight[OLD + 1 :] += 1.0  # type: ignore[index,operator]
        model.biases.weight[OLD + 1 :] += 1.0  # type: ignore[index,operator]
    assert torch.equal(model.item_matrix(), before)


def test_values_that_nobody_knows_add_nothing() -> None:
    """A new item without a known attribute has no direction, and is finite."""
    features = FEATURES | {"attribute_category": FEATURES["attribute_category"].clone()}
    features["attribute_category"][OLD + 1] = 0
    features["attribute_words"] = features["attribute_words"].clone()
    features["attribute_words"][OLD + 1] = 0
    features["attribute_price"] = features["attribute_price"].clone()
    features["attribute_price"][OLD + 1] = 0
    model = two_tower(SCHEMA, features).train()
    list(training_losses(model, lambda seed: batch_of(seed, rows=64), 20, sparse_rate=0.02))
    matrix = model.eval().item_matrix()
    assert torch.isfinite(matrix).all()
    assert not matrix[OLD + 1, : model.config.dim].any()
    assert matrix[OLD + 2, : model.config.dim].any()


def test_all_items_may_be_known_by_content_alone_for_a_step() -> None:
    with torch.random.fork_rng():
        model = two_tower(SCHEMA, id_dropout=0.999, negatives=1_000).train()
    list(training_losses(model, lambda seed: batch_of(seed, rows=32), 30, sparse_rate=0.02))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"attribute_category": None},
            r"'attribute_category' must say of each of 41 items one ids below 5; got nothing",
        ),
        ({"attribute_category": torch.full((41,), 5)}, r"got shape \(41,\), or values that do not fit"),
        ({"attribute_words": torch.zeros(41, 2)}, r"'attribute_words' .* \(3,\) ids below 9; got shape \(41, 2\)"),
        ({"attribute_price": torch.full((41,), torch.inf)}, r"'attribute_price' .* one finite numbers"),
        ({"attribute_story": torch.zeros(41, 7)}, r"'attribute_story' .* \(12,\) finite numbers; got shape \(41, 7\)"),
    ],
)
def test_attributes_must_fit(given: dict[str, Tensor], message: str) -> None:
    schema = with_vectors(SCHEMA.columns) if "attribute_story" in given else SCHEMA
    with pytest.raises(SchemaError, match=message):
        two_tower(schema, FEATURES | given)


def of_a_graph(relation: Tensor | None = None) -> tuple[Schema, dict[str, Tensor]]:
    """Items with three neighbours: one tells the taste, two of another relation tell nothing."""
    told = torch.stack([of_taste(_ITEM) + 1, _ITEM % 7 + 5, _ITEM * 3 % 5 + 12], dim=1) * (_ITEM > 0)[:, None]
    by = torch.tensor([1, 2, 2]) * (told > 0) if relation is None else relation
    columns = (
        Column("graph", Kind.IDS, "graph", 17, length=3, of_item=True, weighed_by="graph_path"),
        Column("graph_path", Kind.IDS, "graph_path", 3, length=3, of_item=True),
    )
    held = {name: FEATURES[name] for name in ("user_count", "recent_count")}
    return Schema((*SCHEMA, *columns)), held | {"graph": told, "graph_path": by}


def test_the_relation_that_tells_the_taste_counts_more() -> None:
    schema, features = of_a_graph()
    assert Schema.from_json(schema.to_json()) == schema
    model = two_tower(schema, features).train()
    list(training_losses(model, lambda seed: batch_of(seed, rows=64), 120, sparse_rate=0.02))
    assert found_new(model.eval()) > 0.9
    assert model.content is not None
    unknown, taste, other = cast("Tensor", model.content.tables["graph_path"].weight)[:, 0].tolist()
    assert unknown == 0
    assert taste > other + 0.1


def test_an_items_neighbours_count_by_their_weights() -> None:
    """Against the sum as it is written; an item without neighbours has none."""
    schema, features = of_a_graph()
    model = two_tower(schema, features)
    content = model.content
    assert content is not None
    drawn = torch.Generator().manual_seed(1)
    tables = {name: cast("Tensor", table.weight) for name, table in content.tables.items()}
    with torch.no_grad():
        for weight in tables.values():
            weight[1:] = torch.randn(weight[1:].shape, generator=drawn)
    ids = torch.tensor([5, 0, 9])
    asked = content.asked(ids)
    found = content(ids, asked, look_up(*((own.table, own.values) for own in asked)), None)
    worth = tables["graph_path"][features["graph_path"][ids], 0].softmax(dim=1)
    wanted = (worth[:, :, None] * tables["graph"][features["graph"][ids]]).sum(dim=1)
    torch.testing.assert_close(found, wanted * (ids > 0)[:, None])


def test_what_weighs_a_list_must_fit_it() -> None:
    with pytest.raises(SchemaError, match=r"'graph' and 'graph_path' must have values at the same places"):
        two_tower(*of_a_graph(torch.ones(ITEMS, 3, dtype=torch.int64)))
    with pytest.raises(SchemaError, match=r"'graph' must be weighed by one of ids .*; 'x' is none"):
        Schema((Column("graph", Kind.IDS, "graph", 9, length=3, of_item=True, weighed_by="x"),))


def test_a_training_goes_on_from_attributes_that_have_grown(tmp_path: Any) -> None:
    """By their names: rows stay, further values begin at zero, and the catalogue is the new model's own."""
    from tests.training.content import grown, written

    before = trained(SCHEMA)
    schema, features = grown()
    after = two_tower(schema, features)
    warm_start(after, written(before, tmp_path))
    assert before.content is not None
    assert after.content is not None
    held, now = (dict(model.content.named_parameters()) for model in (before, after))  # type: ignore[union-attr]
    assert set(held) == set(now)
    table = now["tables.attribute_category.weight"]
    assert torch.equal(table[:5], held["tables.attribute_category.weight"])
    assert not table[5:].any()
    assert torch.equal(now["directions.attribute_price"], held["directions.attribute_price"])
    assert not torch.equal(after.content.places, before.content.places)


@pytest.mark.timeout(300)
def test_two_ranks_whole_or_sharded_learn_what_one_learns() -> None:
    alone = train_on_ranks({"shard": None}, World())
    for shard in (None, 0.0):
        many = launch("tests.training.content:train_on_ranks", {"shard": shard}, ranks=2, timeout_s=200)
        assert many["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        torch.testing.assert_close(torch.tensor(many["matrix"]), torch.tensor(alone["matrix"]), rtol=1e-3, atol=1e-3)
