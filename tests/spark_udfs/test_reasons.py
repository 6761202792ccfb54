"""Reasons of whole lists, against those that one item of one customer is explained by."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.recommender import Recommender
from spark_udfs.reasons import check_reasons
from spark_udfs.scoring import recommend
from tests.jobs.test_recommender import COUNT, items_file, number_of
from tests.spark_udfs.bundles import items_in, two_tower_bundle
from training.errors import BundleError, SettingsError
from training.models import MODELS
from training.state.bundle import Bundle
from training.state.names import ITEMS
from training.state.publish import write_bundle

K, MOST = 4, 2
QUERIES = "user bigint, history array<bigint>, history_age array<float>, seen array<bigint>"
ASKED = {
    1: (["i-03", "i-20", "i-07", "i-09", "i-03", "i-11"], [300.0, 200.0, 60.0, 30.0, 20.0, 1.0]),
    2: (["i-05", "never heard of"], [0.5, 0.1]),
    3: (["never heard of"], [2.0]),
    4: (["i-12", "i-01", "i-02"], [9.0, 4.0, 1.0]),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("reasons")
    return two_tower_bundle(folder, users=1, items=COUNT, attachments={ITEMS: items_file(folder)})


def test_lists_have_the_reasons_of_each_item(spark: SparkSession, tmp_path: Path, bundle: Bundle) -> None:
    """Also of customers with few of them beside those with many, of an item that was bought twice, of nobody."""
    recommender = Recommender.load(bundle.path)
    rows = [
        (user, [0 if one.startswith("never") else number_of(one) for one in history], ages, [])
        for user, (history, ages) in ASKED.items()
    ]
    allowed = items_in(tmp_path, recommender.ranking.ids)
    queries = spark.createDataFrame(rows, QUERIES).coalesce(1)
    found = recommend(queries, str(bundle.path), k=K, allowed=allowed, reasons=MOST).collect()
    assert [row["user"] for row in found] == [user for user in (1, 2, 4) for _ in range(K)]
    by_number = {number_of(f"i-{place:02}"): f"i-{place:02}" for place in range(COUNT)}
    lengths = set[int]()
    for row in found:
        history, ages = ASKED[row["user"]]
        why = recommender.explain(by_number[row["item"]], history=history, ages=ages, k=K)
        expected = [(reason.item_id, reason.share) for reason in why.reasons if reason.share > 0][:MOST]
        assert [reason["item_id"] for reason in row["reasons"]] == [item_id for item_id, _ in expected]
        shares = [reason["share"] for reason in row["reasons"]]
        assert shares == pytest.approx([share for _, share in expected], rel=1e-3, abs=1e-5)
        lengths.add(len(shares))
    assert lengths >= {1, MOST}


def test_bundles_that_can_give_no_reasons_are_refused(tmp_path: Path, bundle: Bundle) -> None:
    check_reasons(str(bundle.path))
    bare = two_tower_bundle(tmp_path, users=2, items=COUNT)
    with pytest.raises(BundleError, match=rf"{bare.name}' must carry its items' ids .* no attachment 'items.arrow'"):
        check_reasons(str(bare.path))
    kind = MODELS["matrix_factorisation"]
    config = kind.Config.parse({"dim": 4})
    model = kind(config, bundle.schema)
    other = write_bundle(
        tmp_path, model_name="matrix_factorisation", config=config.model_dump(), schema=bundle.schema,
        tensors=model.state_dict(), provenance={}, settings={}, metrics={},
    )  # fmt: skip
    with pytest.raises(SettingsError, match=r"'matrix_factorisation' cannot: .* train a bundle of two_tower"):
        check_reasons(str(other.path))
