"""A bundle asked in a few lines, by the shop's own ids, without Spark; against the model's own scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from jobs import in_sql
from jobs.recommender import Recommendation, Recommender
from jobs.searched import LEAST_MEANT, TASTE, Names
from spark_udfs.diversity import Diversity
from spark_udfs.rules import Rules
from tests.spark_udfs.bundles import two_tower_bundle
from tests.training.text_models import save_folder
from training.batch import Ragged
from training.errors import BundleError, DataError, SchemaError, SettingsError
from training.models import MODELS
from training.schema import Column, Kind, Schema
from training.state.items import open_items, write_items
from training.state.names import ITEMS
from training.state.publish import write_bundle
from training.state.text_encoder import load_encoder

COUNT = 30  # with the unknown one
UNSOLD = "i-28"


def items_file(folder: Path, ids: list[str] | None = None) -> Path:
    """Items whose ids run against their numbers; the last but one was never sold, the last has no place in a bundle."""
    numbers = np.arange(1, COUNT + 1)
    is_sold = numbers != 2
    rows = {
        "item": numbers[::-1],
        "id": (ids or [f"i-{COUNT - number:02}" for number in numbers])[::-1],
        "name": [f"the {number}" for number in numbers][::-1],
        "is_offered": is_sold[::-1],
        "is_sold": is_sold[::-1],
        "recent_customers": (numbers // 2)[::-1],
    }
    write_items(folder / ITEMS, pa.table(rows))
    return folder / ITEMS


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("asked")
    made = {"settings": {"examples": {"max_history": 4}}}
    attached = {ITEMS: items_file(folder)}
    bundle = two_tower_bundle(folder, users=6, items=COUNT, provenance=made, attachments=attached)
    return Recommender.load(bundle.path)


def number_of(item_id: str) -> int:
    return COUNT - int(item_id.removeprefix("i-"))


def scores_of(recommender: Recommender, history: list[str], ages: list[float]) -> torch.Tensor:
    model = recommender.bundle.model()
    ends = torch.tensor([0, len(history)])
    batch = {
        "user": torch.tensor([0]),
        "history": Ragged(torch.tensor([number_of(one) for one in history]), ends),
        "history_age": Ragged(torch.tensor(ages), ends),
    }
    return (model.queries(batch) @ model.item_matrix().T)[0]  # type: ignore[operator]


def test_a_history_gets_the_models_ranking_by_name(recommender: Recommender) -> None:
    history, ages = ["i-03", "i-20", "i-07", "i-09", "i-11"], [50.0, 40.0, 9.0, 4.0, 1.0]
    found, cold = recommender.recommend(history=[history, ["never heard of"]], ages=[ages, [1.0]], k=100)
    scores = scores_of(recommender, history[1:], ages[1:])  # of which the model was trained to look at four lines
    order = [f"i-{COUNT - number:02}" for number in torch.argsort(scores, descending=True, stable=True).tolist()]
    expected = [one for one in order if one not in (*history, UNSOLD, f"i-{COUNT}")]
    assert [one.item_id for one in found] == expected  # all that are left, where k is more than there are
    np.testing.assert_allclose([one.score for one in found], scores[[number_of(one) for one in expected]], rtol=1e-5)
    assert found[0].name == f"the {number_of(expected[0])}"
    assert cold[:2] == [Recommendation("i-00", "the 30", 29.0, True), Recommendation("i-02", "the 28", 28.0, True)]
    (everything,) = recommender.recommend(history=[history], ages=[ages], k=100, exclude_seen=False)
    assert len(everything) == len(found) + len(history)


def test_a_mask_leaves_the_best_of_what_it_names(recommender: Recommender) -> None:
    history = [["i-03"], []]
    whole, cold = recommender.recommend(history=history, k=100)
    mask = {"i-05", "i-17", "i-21", UNSOLD, "out of the world"}
    found, of_cold = recommender.recommend(history=history, k=100, mask=mask)
    assert found == [one for one in whole if one.item_id in mask]
    assert [one.item_id for one in of_cold] == [one.item_id for one in cold if one.item_id in mask]
    assert [one.score for one in of_cold] == [3, 2, 1]
    with pytest.raises(DataError, match=r"can recommend; of its 1 ids none is"):
        recommender.recommend(history=history, mask=[UNSOLD])


def test_rules_leave_what_no_category_has_too_often(recommender: Recommender) -> None:
    history = [["i-03"], []]
    whole = recommender.recommend(history=history, k=100)
    categories = {f"i-{number:02}": "odd" if number % 2 else "even" for number in range(COUNT) if number % 5}
    least = whole[0][20].score
    found = recommender.recommend(history=history, k=6, rules=Rules(2, least), categories={**categories, "i-00": None})
    for row, of_all in zip(found, whole, strict=True):
        left = [one for one in of_all if one.fallback or one.score >= least]
        of = {name: [one for one in left if categories.get(one.item_id) == name] for name in ("odd", "even")}
        assert row == [one for one in left if one not in of["odd"][2:] + of["even"][2:]][:6]
    mixed = recommender.recommend(history=history, k=6, rules=Rules(diversity=Diversity(0.0)))
    assert mixed[0][0] == whole[0][0]
    assert mixed[0] != whole[0][:6]
    assert set(mixed[0]) < set(whole[0])
    assert mixed[1] == whole[1][:6]
    with pytest.raises(SettingsError, match="rules of categories must have those of items; got categories=None"):
        recommender.recommend(history=history, rules=Rules(per_category=2))
    with pytest.raises(DataError, match="categories must hold ids as texts; got 7, a int"):
        recommender.recommend(history=history, rules=Rules(2), categories={"i-03": 7})  # type: ignore[dict-item]


def test_similar_items_point_the_same_way(recommender: Recommender) -> None:
    model = recommender.bundle.model()
    rows = torch.nn.functional.normalize(model.item_matrix()[:, :8], dim=1)  # type: ignore[operator]
    cosines = rows @ rows[number_of("i-05")]
    (found,) = recommender.similar_items(["i-05"], k=3)
    best = [number for number in torch.argsort(cosines, descending=True).tolist() if number not in (0, 2, 25)][:3]
    assert [number_of(one.item_id) for one in found] == best
    np.testing.assert_allclose([one.score for one in found], cosines[best], rtol=1e-5)
    with pytest.raises(DataError, match=rf"it cannot '{UNSOLD}', 'x'"):
        recommender.similar_items(["i-05", UNSOLD, "x"])


def test_items_are_found_by_their_names_and_taste_orders_them(recommender: Recommender) -> None:
    found = recommender.search("THE 7", k=3)
    assert found[0] == Recommendation("i-23", "the 7", 1.0, False)
    every = recommender.search("the", k=100)  # of which each name has all
    assert {one.item_id for one in every} == {f"i-{number:02}" for number in range(1, COUNT)} - {UNSOLD}
    likes = {one.item_id: one.score for one in every}

    def bought(item_id: str) -> int:
        return number_of(item_id) // 2

    assert [one.item_id for one in every] == sorted(
        likes, key=lambda one: (-round(likes[one], 6), -bought(one), number_of(one))
    )
    mask = [f"i-{number:02}" for number in range(18, 28)]
    (best,) = recommender.recommend(history=[["i-03"]], mask=mask, exclude_seen=False)
    gains = {one.item_id: TASTE * (1 - number / (len(best) - 1)) for number, one in enumerate(best)}
    suited = recommender.search("the", history=["i-03"], mask=mask)
    assert [one.item_id for one in suited] == sorted(gains, key=lambda one: -likes[one] - gains[one])
    assert [one.score for one in suited] == [likes[one.item_id] for one in suited]
    assert recommender.search("the", history=["never heard of"], mask=mask) == recommender.search("the", mask=mask)
    assert recommender.search("lantern", history=["i-03"]) == []
    for wrong in ("", " ?! ", "a\ud800", None):
        with pytest.raises(DataError, match="a query must have a letter or a digit; it is"):
            recommender.search(wrong)  # type: ignore[arg-type]


def test_items_are_found_by_what_their_names_mean(tmp_path: Path) -> None:
    names = ["red lanterns!", "a paper lantern", "blue", "", "the 5"]
    numbers = np.arange(1, 6)
    rows = {"item": numbers, "id": [f"i{number}" for number in numbers], "name": names, "recent_customers": numbers}
    write_items(tmp_path / ITEMS, pa.table(rows | {"is_offered": numbers > 0, "is_sold": numbers > 0}))
    items, encoder = open_items(tmp_path / ITEMS), load_encoder(save_folder(tmp_path / "encoder"))
    letters, both = (Names.of(items, "b", one).like("lantern red") for one in (None, encoder))
    meant = (encoder.vectors(names) @ encoder.vectors(["lantern red"])[0]).clip(0)
    assert both.likeness == pytest.approx((letters.likeness + meant) / 2, abs=1e-6)
    assert both.is_found.tolist() == (letters.is_found | (meant >= LEAST_MEANT)).tolist()
    assert letters.is_found.tolist() != both.is_found.tolist() != [True] * 5
    assert Names.of(items, "b", encoder).like(names[0]).likeness[0] == pytest.approx(1.0)


def test_wrong_questions_are_refused(recommender: Recommender) -> None:
    with pytest.raises(SettingsError, match="takes either user_ids or history"):
        recommender.recommend()
    with pytest.raises(SettingsError, match="ages and weights go with history"):
        recommender.recommend(["a"], ages=[[1.0]])
    with pytest.raises(SettingsError, match=r"a bundle knows no persons: .* load it with tables='TABLES ROOT'"):
        recommender.recommend(["a"])
    with pytest.raises(SettingsError, match=r"ages must have a number .*; got lists of \[1\] for histories of \[2\]"):
        recommender.recommend(history=[["i-03", "i-04"]], ages=[[1.0]])
    with pytest.raises(SettingsError, match=r"weights are for bundles .* 'two_tower-\w+' took all alike"):
        recommender.recommend(history=[["i-03"]], weights=[[1.0]])


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"k": 0}, "k must be at least 1; got 0"),
        ({"k": 2.5}, "k must be a whole number; got 2.5"),
        ({"history": "i-03"}, "history must be a list of a list of ids .*; got 'i-03'"),
        ({"history": ["i-03"]}, "the history of a customer must be a list of ids; got 'i-03'"),
        ({"history": [[85123]]}, "must hold ids as texts; got 85123, a int"),
        ({"mask": "i-03"}, "mask must be a list of ids; got 'i-03'"),
        ({"mask": [None]}, "mask must hold ids as texts; got None"),
        ({"ages": [[float("nan")]]}, "ages must be finite and at least 0; got nan"),
        ({"ages": [[-2.0]]}, "ages must be finite and at least 0; got -2"),
        ({"ages": [[1e300]]}, "ages must be finite and at least 0; got inf"),
        ({"ages": [3.0]}, r"ages must be a list of numbers for each history; got \[3.0\]"),
    ],
)
def test_wrong_values_are_named(recommender: Recommender, asked: dict[str, Any], error: str) -> None:
    with pytest.raises(DataError, match=error):
        recommender.recommend(**{"history": [["i-03"]], **asked})


def test_a_list_is_no_longer_than_the_catalogue_however_many_are_asked_for(recommender: Recommender) -> None:
    (found,) = recommender.recommend(history=[["i-03"]], k=10**12)
    assert len(found) == COUNT - 3  # without the unknown item, the unsold one and what was bought
    (like,) = recommender.similar_items(["i-05"], k=10**12)
    assert len(like) == COUNT - 3
    assert recommender.explain("i-05", history=["i-03"], k=10**12).rank is not None


def test_sql_tells_what_it_cannot_take(recommender: Recommender) -> None:
    with pytest.raises(DataError, match=r"takes a user id, a string, or an array .*; got 17850, a int: write CAST"):
        in_sql._asked(recommender, 17850, 3, None)
    with pytest.raises(DataError, match="k must be a whole number; got None"):
        in_sql._asked(recommender, None, None, None)  # type: ignore[arg-type]
    assert in_sql._asked(recommender, np.array(["i-03"]), 3, None) == recommender.recommend(history=[["i-03"]], k=3)[0]
    amount = Column("amount", Kind.DENSE)
    with pytest.raises(SchemaError, match=r"column 'amount' of the struct must be float, .*'much'"):
        in_sql._array(pd.Series(["much"]), amount)
    with pytest.raises(
        SchemaError, match=r"rows for bundle 'row_mlp-1' must be a struct; got one column, as of 7: write"
    ):
        in_sql._predicted("bundles/row_mlp-1", pd.Series([7], dtype=object))


def test_bundles_that_cannot_be_asked_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = two_tower_bundle(tmp_path, users=6, items=COUNT)
    with pytest.raises(BundleError, match=r"no attachment 'items.arrow': .* Run `millrace train`"):
        Recommender.load(plain.path)
    with pytest.raises(BundleError, match=r"a bundle is a folder with bundle.json; '.*/nowhere' has none"):
        Recommender.load(tmp_path / "nowhere")
    other = two_tower_bundle(tmp_path, users=6, items=COUNT, attachments={ITEMS: plain.path / "bundle.json"})
    with pytest.raises(BundleError, match=r"items.arrow' must be a file of items; it is none"):
        Recommender.load(other.path)
    schema = Schema((Column("label", Kind.LABEL), Column("amount", Kind.DENSE)))
    kind = MODELS["row_mlp"]
    rows = write_bundle(
        tmp_path,
        **{"model_name": "row_mlp", "config": {}, "schema": schema, "provenance": {}, "settings": {}, "metrics": {}},
        tensors=kind(kind.Config.parse({}), schema).state_dict(),
    )
    with pytest.raises(BundleError, match="must be of a model that ranks items; it is of 'row_mlp'"):
        Recommender.load(rows.path)
    made = {"vocabularies": {"items": "of then"}}
    grown = two_tower_bundle(tmp_path, users=7, items=COUNT, provenance=made, attachments={ITEMS: items_file(tmp_path)})
    monkeypatch.setattr("jobs.asked.open_log", lambda _: type("Log", (), {"table_id": "of now"}))
    with pytest.raises(BundleError, match=r"the same items by its numbers .* is of now, and the bundle's was of then"):
        Recommender.load(grown.path, tables="somewhere")


def test_a_file_of_items_is_looked_up_by_both(tmp_path: Path) -> None:
    items = open_items(items_file(tmp_path))
    ids = [f"i-{COUNT - number:02}" for number in range(1, COUNT + 1)]
    assert items.numbers_of([*ids, None, "", "zzz"]).tolist() == [*range(1, COUNT + 1), 0, 0, 0]
    with pytest.raises(DataError, match="'a' stands twice"):
        items_file(tmp_path, ["a", "a", *ids[2:]])
    rows = pa.table({"item": [1]})
    with pa.OSFile(str(tmp_path / "x"), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    with pytest.raises(BundleError, match=r"must have the columns item, id, .*; it has item"):
        open_items(tmp_path / "x")
