"""Texts as words, pairs and numbers."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_udfs import words

TEXTS = {
    "plain": ("It's TOO small, not 8-ish!", ["it's", "too", "small", "not", "8", "ish", "!"]),
    "typographic": ("It\u2019s \u2018fine\u2019", ["it's", "fine"]),
    "unspaced": ("ok\u597d\u770b\u3067\u3059 yes", ["ok", "\u597d", "\u770b", "\u3067", "\u3059", "yes"]),
    "cyrillic": ("\u041f\u043b\u043e\u0445\u043e.", ["\u043f\u043b\u043e\u0445\u043e"]),
    "symbols": ("\U0001f600 so\u2764", ["\U0001f600", "so", "\u2764"]),
    "accents": ("cre\u0300me \u0928\u0939\u0940\u0902", ["cre\u0300me", "\u0928\u0939\u0940\u0902"]),
    "nothing": (" ... -- ", []),
    "null": (None, []),
}


def test_words_are_letters_and_digits_of_any_script(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(name, text) for name, (text, _) in TEXTS.items()], "name string, text string")
    found = rows.select(
        "name", words.words(F.col("text"), 7).alias("words"), words.words(F.col("text"), 2).alias("two")
    )
    told = {row["name"]: (row["words"], row["two"]) for row in found.collect()}
    assert told == {name: (wanted, wanted[:2]) for name, (_, wanted) in TEXTS.items()}


def test_numbers_are_those_of_the_vocabularies_place_by_place(spark: SparkSession) -> None:
    said = {"a": ["too", "small", "too"], "b": ["small"], "c": ["new", "too", "small"], "none": []}
    rows = spark.createDataFrame(list(said.items()), "key string, words array<string>").repartition(3)
    rows = rows.withColumn("pairs", words.pairs(F.col("words")))
    pairs = {row["key"]: row["pairs"] for row in rows.collect()}
    assert pairs == {
        "a": ["too small", "small too", None],
        "b": [None],
        "c": ["new too", "too small", None],
        "none": [],
    }
    frequent = {name: [row[0] for row in words.frequent(rows, name, 2, 9).collect()] for name in ("words", "pairs")}
    assert frequent == {"words": ["small", "too"], "pairs": ["too small"]}
    assert [row[0] for row in words.frequent(rows, "words", 1, 1).collect()] == ["small"]
    of_words = spark.createDataFrame([(1, "small"), (2, "too"), (3, None)], "index bigint, id string")
    of_pairs = spark.createDataFrame([(5, "too small")], "index bigint, id string")
    found = words.numbered(rows, "key", of_words, of_pairs)
    assert found.dtypes == [("key", "string"), ("words", "array<bigint>"), ("pairs", "array<bigint>")]
    numbers = {row["key"]: (row["words"], row["pairs"]) for row in found.collect()}
    assert numbers == {"a": ([2, 1, 2], [5, 0, 0]), "b": ([1], [0]), "c": ([0, 2, 1], [0, 5, 0])}


@pytest.mark.parametrize("most", [0, 3])
def test_the_longest_text_ends_where_it_shall(spark: SparkSession, most: int) -> None:
    row = spark.range(1).select(F.size(words.words(F.repeat(F.lit("word "), 200_000), most + 1))).collect()[0]
    assert row[0] == most + 1


def test_a_sign_that_belongs_to_an_emoji_is_no_word(spark: SparkSession) -> None:
    row = spark.range(1).select(words.words(F.lit("\u2764\ufe0flove \u2764\ufe0f"), 9))
    assert row.collect()[0][0] == ["\u2764", "love", "\u2764"]


def test_a_text_of_apostrophes_ends_too(spark: SparkSession) -> None:
    row = spark.range(1).select(words.words(F.concat(F.lit("a"), F.repeat(F.lit("'a"), 50_000), F.lit(" b'")), 9))
    first, second = row.collect()[0][0]
    assert (len(first), second) == (100_001, "b")
