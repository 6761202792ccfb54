"""Texts to terms: what is one customer's is masked, any script has words, and a slip of the keys leaves most terms."""

from __future__ import annotations

import time

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_udfs import terms
from spark_udfs.text_terms import alike, masked, pieces, words
from spark_udfs.text_terms import terms as terms_of

BUCKETS = 100_000
MASKS = {
    "where is 113542617735902?": "where is  0 ?",
    "order #A-12, please": "order  0 , please",
    "write to jo.doe@example.com now": "write to  0  now",
    "the {{Order Number}} of {{a": "the  0  of {{a",
    "nothing to mask": "nothing to mask",
    "我的订单123456什么时候到？": "我的订单 0 什么时候到?",
    "我要退货，订单号AB-12、谢谢": "我要退货,订单号 0 、谢谢",
    "주문 123456을 취소": "주문  0 을 취소",
    "ยกเลิก ๑๒๓๔ ครับ": "ยกเลิก  0  ครับ",
    "order １２３４５６ of رقم ١٢٣٤٥٦": "order  0  of رقم  0 ",
    "mail jo＠shop.example!": "mail  0 !",
}


@pytest.mark.parametrize(("text", "expected"), MASKS.items())
def test_numbers_addresses_and_placeholders_are_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_words_of_any_script() -> None:
    assert words("Don\u2019t CANCEL it!", 9) == ["don't", "cancel", "it", "!"]
    assert words("我要退货 \U0001f600 ...", 9) == ["我", "要", "退", "货", "\U0001f600"]
    assert words("ﬁx", 9) == ["fix"]
    assert words("one two three", 2) == ["one", "two"]
    assert pieces("ab") == ["~<ab", "~ab>", "~<ab>"]


def test_terms_are_shared_by_texts_that_mean_the_same() -> None:
    one = terms_of("cancel order 123", 100, BUCKETS)
    assert one == terms_of("CANCEL  order {{Order Number}}", 100, BUCKETS)
    assert len(one) == len({*one})
    assert all(1 <= term <= BUCKETS for term in one)
    slip, other = terms_of("cancle order 9", 100, BUCKETS), terms_of("send me an invoice", 100, BUCKETS)
    assert len({*one} & {*slip}) > len(one) / 3 > 3 * len({*one} & {*other})
    for nothing in ("...", "", "123456", "{{Order Number}} jo@shop.example ?!"):
        assert terms_of(nothing, 100, BUCKETS) == []


def test_work_is_linear_in_a_text() -> None:
    started = time.perf_counter()
    for hostile in (
        "a" * 1_000_000,
        "{" * 1_000_000,
        "{{" * 500_000 + "1",
        "'" * 1_000_000,
        "a'" * 500_000,
        "我" * 1_000_000,
        "๑" * 1_000_000,
        "\u0301\u0323" * 100_000,
    ):
        terms_of(hostile, 100, BUCKETS)
    assert time.perf_counter() - started < 10


def test_columns_have_the_same_terms_and_masks(spark: SparkSession) -> None:
    texts = [*MASKS, "", None]
    rows = spark.createDataFrame([(text,) for text in texts], "text string")
    found = rows.select(
        "text", terms.terms(F.col("text"), 5, BUCKETS).alias("terms"), terms.alike(F.col("text")).alias("alike")
    ).collect()
    assert [row["terms"] for row in found] == [terms_of(text or "", 5, BUCKETS) for text in texts]
    assert [row["alike"] for row in found] == [None if text is None else alike(text) for text in texts]
    assert alike("Where IS  123?") == "where is 0 ?"
