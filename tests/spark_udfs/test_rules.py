"""Rules of lists against a walk through the whole sorted list, item by item; ids, scores and ties."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from spark_udfs import caps, diversity, rules
from spark_udfs.diversity import Diversity
from spark_udfs.rules import BITS, Offer, Rules, best_listed, first_listed
from spark_udfs.top_k import Floats, Ints, Lists
from tests.spark_udfs.test_top_k import lists
from training.errors import SettingsError

WIDTH, BIASES = 6, 1


def product(vectors: Floats, vector: Floats) -> Floats:
    return np.einsum("ncd,nd->nc", vectors[None], vector[None])[0]


def walked(
    scores: list[float], offer: Offer, vectors: Floats, k: int, seen: set[int], ruled: Rules, segment: int
) -> list[int]:
    """Places of one row's list: of items in order those that no rule forbids, and of so many by likeness."""
    left, held = [], Counter[int]()
    for place in sorted(range(len(offer.ids)), key=lambda one: (-scores[one], offer.ids[one])):
        of = -1 if offer.category is None else int(offer.category[place])
        word, bit = divmod(segment, BITS)
        is_allowed = offer.segments is None or int(offer.segments[place, word]) >> bit & 1
        is_full = ruled.per_category is not None and of >= 0 and held[of] == ruled.per_category
        is_low = ruled.least_score is not None and scores[place] < np.float32(ruled.least_score)
        if is_allowed and not is_full and not is_low and int(offer.ids[place]) not in seen:
            held[of] += 1
            left.append(place)
    return left[:k] if ruled.diversity is None else marginal(left, scores, vectors, offer.category, k, ruled.diversity)


def marginal(
    left: list[int], scores: list[float], vectors: Floats, category: Ints | None, k: int, asked: Diversity
) -> list[int]:
    candidates, chosen = left[: max(k, asked.candidates)], list[int]()
    vectors = np.ascontiguousarray(vectors)
    units = vectors / np.sqrt(np.einsum("ncd,ncd->nc", vectors[None], vectors[None]))[0][:, None]

    def like(one: int, other: int) -> float:
        if asked.of == "vectors":
            return float(product(units, units[other])[one])
        assert category is not None
        return float(category[one] == category[other] >= 0)

    def worth(one: int) -> float:
        low, high = float(scores[candidates[-1]]), float(scores[candidates[0]])
        scaled = (float(scores[one]) - low) / (high - low) if high > low else 1.0
        nearest = max((like(one, other) for other in chosen), default=0.0)
        return asked.relevance * scaled - (1 - asked.relevance) * nearest

    while len(chosen) < min(k, len(candidates)):
        chosen.append(max((one for one in candidates if one not in chosen), key=worth))  # the first of equal ones
    return chosen


def shop(seed: int) -> dict[str, Any]:
    """A few rows, and items of which many are alike; what rules look at."""
    rng = np.random.default_rng(seed)
    rows, items, categories = int(rng.integers(1, 9)), int(rng.integers(1, 120)), int(rng.integers(1, 9))
    vectors = rng.normal(size=(items, WIDTH + BIASES)).astype(np.float32)
    if seed % 2:  # ties at every cut
        vectors = vectors[rng.integers(0, max(1, items // 5), items)]
    ids = np.sort(rng.choice(3 * items, items, replace=False)).astype(np.int64)
    segments = rng.integers(-(2**63), 2**63 - 1, (items, 2))
    seen = [rng.choice(ids, rng.integers(0, min(items, 12))).tolist() for _ in range(rows)]
    return {
        "queries": rng.normal(size=(rows, WIDTH + BIASES)).astype(np.float32),
        "vectors": vectors,
        "offer": Offer(ids, rng.integers(-1, categories, items), segments if seed % 3 else None),
        "k": int(rng.integers(1, 25)),
        "seen": seen,
        "segment": rng.choice([0, 5, 63, 64, 100], rows),
        "cap": int(rng.integers(1, 4)),
    }


def by_hand(of: dict[str, Any], ruled: Rules, order: Ints | None = None) -> list[list[tuple[int, float]]]:
    """Ids and scores of each row; of an order what stands behind."""
    found = []
    for row, query in enumerate(of["queries"]):
        scores = product(of["vectors"], query) if order is None else -np.arange(len(order), dtype=np.float32)
        offer, segment = of["offer"], int(of["segment"][row])
        if order is not None:
            word, bit = divmod(segment, BITS)
            may = np.ones(len(order), np.bool_) if offer.segments is None else (offer.segments[:, word] >> bit & 1) == 1
            scores = np.float32(may.sum()) - (np.cumsum(may) - 1).astype(np.float32)
        places = walked(scores, offer, of["vectors"][:, :WIDTH], of["k"], set(of["seen"][row]), ruled, segment)
        found.append([(int(offer.ids[place]), float(scores[place])) for place in places])
    return found


def as_lists(found: Ints, scores: Floats) -> list[list[tuple[int, float]]]:
    assert np.isneginf(scores[found < 0]).all()
    assert (np.diff((found < 0).astype(int), axis=1) >= 0).all()
    return [
        [pair for pair in zip(*row, strict=True) if pair[0] >= 0]
        for row in zip(found.tolist(), scores.tolist(), strict=True)
    ]


def answered(of: dict[str, Any], ruled: Rules) -> list[list[tuple[int, float]]]:
    seen: Lists = lists(*of["seen"])
    return as_lists(
        *best_listed(
            of["queries"], of["vectors"], of["k"],
            seen=seen, offer=of["offer"], rules=ruled, segment=of["segment"], directions=WIDTH,
        )
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_lists_are_what_a_walk_through_all_items_gives(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 4 == 0:  # many parts and blocks
        for module, name, size in (
            (caps, "GATHERED", 70),
            (caps, "CELLS", 40),
            (rules, "CELLS", 90),
            (diversity, "GATHERED", 200),
        ):
            monkeypatch.setattr(module, name, size)
    of = shop(seed)
    middle = float(np.median(of["vectors"] @ of["queries"][0]))
    for ruled in (
        Rules(),
        Rules(per_category=of["cap"]),
        Rules(least_score=middle),
        Rules(diversity=Diversity(0.6, 30)),
        Rules(diversity=Diversity(0.4, 20, "category")),
        Rules(of["cap"], middle, Diversity(0.0, 10)),
        Rules(of["cap"], None, Diversity(1.0, 50, "category")),
    ):
        assert answered(of, ruled) == by_hand(of, ruled), ruled


@pytest.mark.parametrize("seed", range(12))
def test_one_order_for_all_is_walked_under_the_same_rules(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 2:
        monkeypatch.setattr(caps, "CELLS", 30)
    of = shop(seed)
    order = np.random.default_rng(seed).permutation(of["offer"].ids)
    of["offer"] = of["offer"]._replace(ids=order)
    for cap in (None, of["cap"]):
        seen, many = lists(*of["seen"]), len(order)
        found = first_listed(of["offer"], many, of["k"], seen=seen, per_category=cap, segment=of["segment"])
        assert as_lists(*found) == by_hand(of, Rules(cap), order)


def test_where_a_list_begins_with_one_category_alone_all_others_are_looked_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched = list[Ints]()
    top_k = caps.top_k
    monkeypatch.setattr(
        caps, "top_k", lambda *given, **named: searched.append(named.get("ids")) or top_k(*given, **named)
    )
    vectors = np.arange(2_000, 0, -1, dtype=np.float32)[:, None]
    category = np.zeros(2_000, np.int64)
    category[1_500:] = 1 + np.arange(500) // 3
    of = {
        "queries": np.array([[1.0], [-1.0]], np.float32), "vectors": vectors, "k": 5, "seen": [[0, 1_500], []],
        "offer": Offer(np.arange(2_000), category), "segment": np.zeros(2, np.int64),
    }  # fmt: skip
    ruled = Rules(per_category=2)
    found = answered(of, ruled)
    assert found == by_hand(of, ruled)
    listed = [[item for item, _ in row] for row in found]
    assert listed == [[1, 2, 1_501, 1_502, 1_503], [1_999, 1_998, 1_997, 1_996, 1_994]]
    assert searched[0] is None  # the second row needs no more than the beginning
    assert sorted(np.concatenate(searched[1:]).tolist()) == list(range(2_000))


def test_nothing_allowed_and_no_items_are_empty_lists() -> None:
    of = shop(1)
    of["offer"] = of["offer"]._replace(segments=np.zeros((len(of["vectors"]), 2), np.int64))
    ruled = Rules(1, None, Diversity(0.5, 10, "category"))
    assert answered(of, ruled) == [[]] * len(of["queries"])
    nothing = Offer(*(np.zeros((0, *shape), np.int64) for shape in ((), (), (2,))))
    of |= {"offer": nothing, "vectors": of["vectors"][:0]}
    assert answered(of, ruled) == [[]] * len(of["queries"])
    seen = lists(*of["seen"])
    found = first_listed(nothing, 0, 3, seen=seen, per_category=1, segment=of["segment"])
    assert as_lists(*found) == [[]] * len(of["queries"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rules(per_category=0), "per_category must be at least 1; got 0"),
        (lambda: Rules(least_score=float("nan")), "least_score must be a number that a score can be; got nan"),
        (lambda: Diversity(1.5), "relevance must be from 0 to 1; got 1.5"),
        (lambda: Diversity(candidates=0), "candidates must be at least 1; got 0"),
        (lambda: Diversity(of="price"), "likeness must be of 'vectors' or 'category'; got 'price'"),
    ],
)
def test_rules_that_are_none_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make()
