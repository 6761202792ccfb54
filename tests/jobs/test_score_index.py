"""Lists by an index: what it finds is measured before, held against all items afterwards, and may be too little."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import answers, score
from jobs.recommender import Recommender
from jobs.settings import Settings, load_settings
from jobs.tables import Tables
from tests.jobs.small_shop import LOOKER, NEWCOMER, TEST_FROM, USERS, small_shop
from training.errors import SettingsError

EVERYBODY = {*(f"user {user}" for user in range(USERS)), LOOKER, NEWCOMER}


@pytest.mark.slow
def test_what_an_index_finds_is_what_was_measured_and_too_little_is_refused(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small_shop(spark, tmp_path)

    def by_index(least: float) -> Settings:
        index = {"lists": 10, "probes": 2, "least_recall": least}
        scoring = {"k": 4, "moment": TEST_FROM, "index": index}
        return Settings(**(settings.model_dump() | {"scoring": scoring}))

    made = score.run(by_index(0.1), spark)
    warned = re.search(
        r"for (\d+) of these \d+ users all items were compared", capsys.readouterr().err.replace("\n", " ")
    )
    recommender = Recommender.load(Path(settings.run_dir, "bundles", made["bundle"]), settings.tables.root)
    users = sorted(EVERYBODY - {LOOKER, NEWCOMER})
    exact = {
        user: {one.item_id for one in row} for user, row in zip(users, recommender.recommend(users, k=4), strict=True)
    }
    lists = dict[str, set[str]]()
    held = Tables(spark, settings.tables.root).read("recommendations")
    for row in held.where(answers.mine(made["bundle"], TEST_FROM)).collect():
        lists.setdefault(row["user_id"], set()).add(row["item_id"])
    assert {user: len(found) for user, found in lists.items()} == dict.fromkeys(EVERYBODY, 4)
    found = sum(len(lists[user] & exact[user]) for user in users)
    assert made["index_recall"] == found / (4 * USERS)
    assert 0.3 < made["index_recall"] < 1
    assert (made["index_sample"], made["index_lists"], made["index_probes"]) == (USERS, 10, 2)
    assert 0 < made["users_searched_whole"] <= USERS
    assert (warned is not None) == (2 * made["users_searched_whole"] > USERS)
    message = (
        rf"least_recall is 1, and the index finds {made['index_recall']:.4f} of the .* 2 of 10 lists .* Raise scor"
    )
    with pytest.raises(SettingsError, match=message):
        score.run(by_index(1.0), spark)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["scoring.index={probes: 0}"], r"scoring.index.probes: .* greater than or equal to 1"),
        (["scoring.index={least_recall: 1.5}"], r"scoring.index.least_recall: .* less than or equal to 1"),
        (
            ["scoring.index={}", "scoring.rules.per_category=2", "scoring.rules.diversity={}"],
            r"scoring: index finds the K best .*, and rules.per_category, rules.diversity need more than those",
        ),
    ],
)
def test_what_an_index_cannot_do_is_refused(flags: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(None, flags)
