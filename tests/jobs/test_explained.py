"""Why an item is recommended: shares that add up, and what makes it leave the list; against every removal there is."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from jobs import explained
from jobs.recommender import Recommender
from tests.jobs.test_recommender import COUNT, UNSOLD, items_file
from tests.spark_udfs.bundles import two_tower_bundle
from training.errors import DataError, SettingsError
from training.models import MODELS
from training.state.names import ITEMS
from training.state.publish import write_bundle

HISTORY = ["i-03", "i-20", "never heard of", "i-07", "i-09", "i-03", "i-11"]
AGES = [300.0, 200.0, 100.0, 60.0, 30.0, 20.0, 1.0]


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("explained")
    bundle = two_tower_bundle(
        folder, users=6, items=COUNT, weights={"purchase": 1.0, "view": 0.3}, attachments={ITEMS: items_file(folder)}
    )
    return Recommender.load(bundle.path)


def without(items: tuple[str, ...]) -> dict[str, list]:
    kept = [at for at, one in enumerate(HISTORY) if one not in items]
    return {"history": [[HISTORY[at] for at in kept]], "ages": [[AGES[at] for at in kept]]}


def offered(recommender: Recommender, items: tuple[str, ...], k: int) -> list[str]:
    """The list as if some items had not been bought, but for what is left out of it."""
    mask = {f"i-{number:02}" for number in range(COUNT)} - set(HISTORY)
    (found,) = recommender.recommend(**without(items), k=k, mask=mask)
    return [one.item_id for one in found]


@pytest.mark.parametrize("place", [0, 4])
def test_shares_add_up_and_the_fewest_removals_are_found(recommender: Recommender, place: int) -> None:
    (listed,) = recommender.recommend(history=[HISTORY], ages=[AGES], k=5)
    asked = listed[place]
    found = recommender.explain(asked.item_id, history=HISTORY, ages=AGES, k=5)
    assert (found.item_id, found.name, found.rank) == (asked.item_id, asked.name, place + 1)
    assert found.score == pytest.approx(asked.score, abs=1e-5)
    assert sum(reason.share for reason in found.reasons) == pytest.approx(found.score - found.without_history, abs=1e-4)
    assert {reason.item_id for reason in found.reasons} == set(HISTORY) - {"never heard of"}
    assert list(found.reasons) == sorted(found.reasons, key=lambda reason: -reason.share)
    known = [reason.item_id for reason in found.reasons]
    needed = next(
        (size for size in range(1, len(known)) for items in combinations(known, size)
         if asked.item_id not in offered(recommender, items, 5)),
        None,
    )  # fmt: skip
    assert found.is_fewest
    assert (None if found.drops_without is None else len(found.drops_without)) == needed
    if found.drops_without is not None:
        assert asked.item_id not in offered(recommender, found.drops_without, 5)


def test_a_share_is_what_the_score_loses_for_a_little_of_a_line(recommender: Recommender) -> None:
    """Of a history that is nearly nothing: there scores are straight."""
    little = {"history": ["i-03", "i-20"], "ages": [3.0, 1.0]}
    found = recommender.explain("i-05", **little, weights=[1e-4, 2e-4])  # type: ignore[arg-type]
    for reason in found.reasons:
        at = little["history"].index(reason.item_id)
        alone = recommender.explain("i-05", history=[reason.item_id], ages=[[3.0, 1.0][at]], weights=[[1e-4, 2e-4][at]])
        assert reason.share == pytest.approx(alone.score - alone.without_history, rel=0.05, abs=1e-5)


def test_of_too_many_sets_the_strongest_go_first(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    (listed,) = recommender.recommend(history=[HISTORY], ages=[AGES], k=5)
    whole = [recommender.explain(one.item_id, history=HISTORY, ages=AGES, k=5) for one in listed]
    monkeypatch.setattr(explained, "TRIED", 0)
    for before in whole:
        found = recommender.explain(before.item_id, history=HISTORY, ages=AGES, k=5)
        if found.drops_without is None:
            assert not found.is_fewest
        else:
            assert len(found.drops_without) >= len(before.drops_without or ())
            assert found.is_fewest == (len(found.drops_without) <= 2)  # single ones are all tried
            assert before.item_id not in offered(recommender, found.drops_without, 5)


def test_what_is_not_in_the_list_needs_no_removal(recommender: Recommender) -> None:
    found = recommender.explain("i-05", history=HISTORY, ages=AGES, k=5, mask={"i-06"})
    assert (found.rank, found.drops_without, found.is_fewest) == (None, (), True)


def test_what_cannot_be_explained_is_refused(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=rf"it cannot '{UNSOLD}'"):
        recommender.explain(UNSOLD, history=HISTORY)
    with pytest.raises(DataError, match="only a history with an item that the bundle knows can be explained"):
        recommender.explain("i-05", history=["never heard of"])
    held = recommender.bundle
    kind = MODELS["matrix_factorisation"]
    counts = {"user_count": np.arange(COUNT)}
    import torch

    model = kind(kind.Config.parse({"dim": 8}), held.schema, {name: torch.tensor(one) for name, one in counts.items()})  # type: ignore[call-arg]
    other = write_bundle(
        tmp_path,
        **{"model_name": "matrix_factorisation", "config": {"dim": 8}, "schema": held.schema, "provenance": {}},
        **{"settings": {}, "metrics": {}, "tensors": model.state_dict()},
        attachments={ITEMS: held.attachment(ITEMS)},
    )
    with pytest.raises(SettingsError, match=r"only a model that pools a history .*; MatrixFactorisation cannot"):
        Recommender.load(other.path).explain("i-05", history=HISTORY)
    shares = lambda _, batch, __: batch["history_age"].values[:, None]  # noqa: E731
    monkeypatch.setattr(type(recommender.ranking.model), "shares", shares)
    with pytest.raises(DataError, match=r"shares must add up to .* they are 711.0000"):
        recommender.explain("i-05", history=HISTORY, ages=AGES)
