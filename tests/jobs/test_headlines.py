"""What is said first: which list length, and the comparison in which ours fares worst."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.headlines import gained, hardest, main_k


@pytest.mark.parametrize(("ks", "shown"), [((5, 10, 20, 50), 20), ((5, 10, 50), 10), ((1, 5, 100), 5), ((50, 100), 50)])
def test_the_list_length_is_20_or_the_next_below(ks: tuple[int, ...], shown: int) -> None:
    assert main_k(ks) == shown


def protocol(**leads: tuple[float, float, float]) -> dict[str, Any]:
    named = {name: dict(zip(("value", "low", "high"), lead, strict=True)) for name, lead in leads.items()}
    return {"differences": {name: {"ndcg_at_20": lead} for name, lead in named.items()}}


@pytest.mark.parametrize(
    ("leads", "words"),
    [
        ({"als": (0.04, 0.03, 0.05), "pop": (0.1, 0.08, 0.12)}, "ndcg@20 +0.040 [+0.030, +0.050]: better than als"),
        ({"als": (0.04, 0.03, 0.05), "pop": (-0.1, -0.2, -0.01)}, "ndcg@20 -0.100 [-0.200, -0.010]: worse than pop"),
        ({"als": (0.01, -0.01, 0.03)}, "ndcg@20 +0.010 [-0.010, +0.030]: not shown to differ from als"),
    ],
)
def test_the_hardest_comparison_is_named_with_its_interval(leads: dict[str, Any], words: str) -> None:
    lead = hardest(protocol(**leads), "ndcg_at_20")
    assert lead is not None
    assert lead.words() == words


def test_without_comparisons_there_is_nothing_to_say() -> None:
    assert hardest({}, "ndcg_at_20") is None
    assert hardest(protocol(als=(0.0, 0.0, 0.0)), "recall_at_20") is None


@pytest.mark.parametrize(("now", "was", "share"), [(0.3, 0.2, 0.5), (0.2, -0.4, 1.5), (-0.6, -0.4, -0.5), (0.1, 0, 0)])
def test_a_gain_is_one_from_below_0_too(now: float, was: float, share: float) -> None:
    assert gained(now, was) == pytest.approx(share)
