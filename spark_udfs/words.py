"""Texts to words and pairs of neighbours, and these to vocabularies' numbers.

    text --words--> array<string> --pairs--> array<string>, of one length
    words, pairs --frequent--> what many texts have --vocabulary--> numbers --numbered--> array<bigint>

A word is what stands together of letters and digits of any script, small; each sign of a script that is written without
spaces; each `!` and `?`; each emoji and other symbol. All of it is Spark's own expressions: no Python sees a text.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

_UNSPACED = r"\p{IsHan}\p{IsHiragana}\p{IsKatakana}\p{IsThai}\p{IsLao}\p{IsKhmer}\p{IsMyanmar}"
_FIRST = rf"[\p{{L}}\p{{N}}&&[^{_UNSPACED}]]"  # no sign that belongs to the one before it, as emojis have
_LETTERS = rf"[\p{{L}}\p{{M}}\p{{N}}&&[^{_UNSPACED}]]"
# A regular expression of Java, which goes back over nothing: one that does calls itself for each apostrophe of a text.
WORD = rf"[{_UNSPACED}]|{_FIRST}{_LETTERS}*+(?:'{_FIRST}{_LETTERS}*+)*+|[!?]|\p{{So}}"


def words(text: Column, most: int) -> Column:
    """The first words of a text, at most so many: array<string>, empty where there is none."""
    plain = F.translate(F.lower(F.coalesce(text, F.lit(""))), "\u2019", "'")
    return F.slice(F.regexp_extract_all(plain, F.lit(WORD), F.lit(0)), 1, most)


def pairs(words: Column) -> Column:
    """Each word with the next one, "a b": as many as there are words, null at the last one's place."""
    following = F.slice(words, 2, F.greatest(F.size(words), F.lit(1)))
    return F.zip_with(words, following, lambda word, after: F.concat(word, F.lit(" "), after))


def frequent(rows: DataFrame, column: str, fewest: int, most: int) -> DataFrame:
    """`id`: the elements of lists that so many rows have at least; of those, so many that most rows have.

    Args:
        rows: the lists; nulls among their elements are passed over.
        column: array<string>.
        fewest: rows.
        most: elements.
    """
    each = rows.select(F.explode(F.array_distinct(column)).alias("id")).where("id IS NOT NULL")
    counts = each.groupBy("id").agg(F.count(F.lit(1)).alias("rows")).where(F.col("rows") >= fewest)
    return counts.orderBy(F.desc("rows"), "id").limit(most).select("id")


def numbered(rows: DataFrame, key: str, of_words: DataFrame, of_pairs: DataFrame) -> DataFrame:
    """`key`, words and pairs (array<bigint>, of one length; 0: not in the vocabulary), of rows that have words.

    Work is words x log words, in Spark's joins and sorts; nothing is held per row but its own list.

    Args:
        rows: `key` (unique), words and pairs (array<string>, of one length).
        key: the column that tells rows apart.
        of_words, of_pairs: vocabularies: index, id.
    """
    each = rows.select(key, F.posexplode(F.arrays_zip("words", "pairs")).alias("place", "said"))
    said = each.select(key, "place", F.col("said.words").alias("word"), F.col("said.pairs").alias("pair"))
    for held, name in ((of_words, "word"), (of_pairs, "pair")):
        known = held.where("id IS NOT NULL").select(F.col("id").alias(name), F.col("index").alias(f"{name}_index"))
        said = said.join(known, on=name, how="left")
    numbers = F.struct("place", *(F.coalesce(f"{name}_index", F.lit(0)).alias(name) for name in ("word", "pair")))
    lists = said.groupBy(key).agg(F.sort_array(F.collect_list(numbers)).alias("said"))
    return lists.select(key, F.col("said.word").alias("words"), F.col("said.pair").alias("pairs"))
