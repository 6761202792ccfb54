"""The class of the most similar text, by the cosine of TF-IDF: what a model of texts in classes must beat.

Where there are texts of none of the classes (class 0), a text may be nearer to these: its scope says by how much.
The texts that are compared with are a sample, which travels with the tasks; asked ones stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.answers import named
from spark_udfs.arrow import lists
from spark_udfs.postings import Doubles, Ints, Postings, postings, sums

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SMALL = 1e-12
NONE = 0  # the class of a text that has none


class Texts(NamedTuple):
    """Texts of known classes, each of length 1.

    Attributes:
        idf: (terms + 1,) of each term; 0 of one that no text has.
        held: the texts by term.
        label: (texts,) the class of each; those of class 0 are the last ones.
    """

    idf: Doubles
    held: Postings
    label: Ints


def fit(examples: DataFrame, key: str, sample: int, terms: int) -> Texts:
    """Texts to compare with: a sample by hash, which is what comes to the driver.

    Args:
        examples: key, terms (array<bigint>, each once), label (0: none of the classes).
        key: what tells rows apart.
        sample: rows with a class, at most, and as many without one.
        terms: the highest number of a term.
    """
    parts = [examples.where("label > 0"), examples.where("label = 0")]
    of_classes, of_none = (part.orderBy(F.xxhash64(key), key).limit(sample) for part in parts)
    drawn = of_classes.unionByName(of_none)
    rows = drawn.select("terms", F.col("label").cast("bigint").alias("label")).collect()
    return texts_of([row["terms"] for row in rows], [row["label"] for row in rows], terms)


def texts_of(terms: list[list[int]], labels: list[int], most: int) -> Texts:
    """Texts by term, of lists of terms, numbers up to `most`, and their classes."""
    order = sorted(range(len(labels)), key=lambda at: labels[at] == NONE)
    terms, labels = [terms[at] for at in order], [labels[at] for at in order]
    flat = np.asarray([term for one in terms for term in one], np.int64)
    row = np.repeat(np.arange(len(terms)), [len(one) for one in terms])
    counts = np.bincount(flat, minlength=most + 1)
    idf = np.where(counts > 0, np.log((1 + len(terms)) / (1 + counts)) + 1, 0.0)
    squares = np.bincount(row, idf[flat] ** 2, minlength=len(terms))
    weight = idf[flat] / np.sqrt(np.maximum(squares[row], SMALL))
    held = postings(flat, row, weight, texts=len(terms), count=most + 1)
    return Texts(idf, held, np.asarray(labels, np.int64))


def nearest(texts: Texts, terms: Ints, offsets: Ints) -> tuple[Ints, Doubles, Doubles]:
    """Of each asked text the class of the most similar one that has a class, of equally similar ones the first; the
    cosine of the two; and the cosine to the most similar one that has none, 0 where there are no such.

    Args:
        texts: those that are compared with.
        terms: of all asked ones, one after the other.
        offsets: (asked + 1,) where each begins.
    """
    own, row = texts.idf[terms], np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    lengths = np.sqrt(np.bincount(row, own**2, minlength=len(offsets) - 1))
    of_classes = int(np.count_nonzero(texts.label))
    best, inside, outside = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0)]
    for found in sums(texts.held, terms, offsets, own):
        best.append(found[:, :of_classes].argmax(axis=1))
        inside.append(found[:, :of_classes].max(axis=1))
        outside.append(found[:, of_classes:].max(axis=1, initial=0.0))
    length = np.maximum(lengths, SMALL)
    return texts.label[np.concatenate(best)], np.concatenate(inside) / length, np.concatenate(outside) / length


def answer(asked: DataFrame, texts: Texts) -> DataFrame:
    """Of each text `key`, `intent` (the class), `p` (the cosine) and `scope` (that less the one to what has no class).

    Args:
        asked: key (string), terms.
        texts: from `fit`.
    """

    def of(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            terms = lists(named(batch, "terms"))
            label, inside, outside = nearest(texts, terms.values, terms.offsets)
            columns = [named(batch, "key"), pa.array(label), pa.array(inside), pa.array(inside - outside)]
            yield pa.record_batch(columns, ["key", "intent", "p", "scope"])

    return asked.select("key", "terms").mapInArrow(of, "key string, intent bigint, p double, scope double")
