"""What each word of a text adds to its answer, by a bundle of a model of texts: the words that say most, and aspects.

An aspect is what the words about it say: a word counts to the nearest word of an aspect's list that is at most REACH
places away, of two equally near ones to the one before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.answers import named, to_batch
from spark_udfs.arrow import fixed_lists
from spark_udfs.lists import Batches, require_columns
from spark_udfs.scoring import bundle_schema, opened, parts_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

READS = ("words", "pairs")
REACH = 3
TYPE = "p double, places array<int>, shares array<float>, aspects array<float>"


class Texts(NamedTuple):
    """The words of some texts, one text after the other.

    Attributes:
        words: (words,) their numbers.
        offsets: (texts + 1,) where texts begin and end.
        shares: (words,) what each adds.
    """

    words: Ints
    offsets: Ints
    shares: Floats

    @property
    def text(self) -> Ints:
        """(words,) the text that each stands in."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def explained(
    rows: DataFrame, bundle_path: str, *, key: str, most: int, aspects: Sequence[Sequence[int]] = ()
) -> DataFrame:
    """Answers with what they are made of.

    Args:
        rows: `key`, words and pairs (array<bigint>, of one length).
        bundle_path: a bundle's folder, readable on every executor.
        key: the column that tells rows apart.
        most: words of a text that are named.
        aspects: of each the numbers of its words.

    Returns:
        `key`; p, the probability; places (from 0) of the words that add most to its log-odds or take most off, those
        first, and their shares; of each aspect the sum of the shares of the words about it. Null all three, where the
        bundle's model cannot split its answer.

    Raises:
        BundleError: the bundle is torn.
        SchemaError: the bundle or `rows` lacks the columns, or has them of another type.
    """
    schema = bundle_schema(bundle_path)
    wanted = [schema[name] for name in READS]
    require_columns(rows, "reviews to explain", dict.fromkeys(READS, "array<bigint>"))
    held = rows.schema[key].dataType.simpleString()

    def answer(batches: Batches) -> Iterator[pa.RecordBatch]:
        _, model = opened(bundle_path)
        for whole in batches:
            for part in parts_of(whole, wanted):
                yield _answered(part, model, to_batch(part, wanted), key, most, aspects)

    return rows.select(key, *READS).mapInArrow(answer, f"{key} {held}, {TYPE}")


def _answered(
    rows: pa.RecordBatch, model: Any, batch: Any, key: str, most: int, aspects: Sequence[Sequence[int]]
) -> pa.RecordBatch:
    p = model.predict(batch)["p"].double().numpy()
    columns = [named(rows, key), pa.array(p)]
    if hasattr(model, "shares"):
        words = batch["words"]
        texts = Texts(words.values.numpy(), words.offsets.numpy(), model.shares(batch).numpy())
        columns += [*strongest(texts, most), fixed_lists(about(texts, aspects))]
    else:
        columns += [pa.nulls(len(p), pa.list_(kind)) for kind in (pa.int32(), pa.float32(), pa.float32())]
    return pa.record_batch(columns, [key, "p", "places", "shares", "aspects"])


def strongest(texts: Texts, most: int) -> tuple[pa.Array, pa.Array]:
    """Of each text the places of the words that say most for or against, and their shares."""
    order = np.lexsort((np.arange(len(texts.words)), -np.abs(texts.shares), texts.text))
    within = np.arange(len(order)) - np.repeat(texts.offsets[:-1], np.diff(texts.offsets))
    taken = order[within < most]
    counts = np.minimum(np.diff(texts.offsets), most)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    places = (taken - texts.offsets[:-1][texts.text[taken]]).astype(np.int32)
    lists = (pa.ListArray.from_arrays(offsets, pa.array(of)) for of in (places, texts.shares[taken]))
    return next(lists), next(lists)


def about(texts: Texts, aspects: Sequence[Sequence[int]]) -> Floats:
    """(texts, aspects) the shares of the words about each."""
    highest = max((*texts.words.max(keepdims=True, initial=0).tolist(), *(number for own in aspects for number in own)))
    aspect_of = np.full(highest + 1, -1, np.int64)
    for place, own in enumerate(aspects):
        aspect_of[list(own)] = place
    named_here, text = aspect_of[texts.words], texts.text
    nearest = named_here.copy()
    for away in range(1, REACH + 1):
        for step in (away, -away):  # the word that comes `away` before, then the one after
            found = np.roll(named_here, step)
            is_near = np.roll(text, step) == text
            is_near[: max(step, 0)] = False
            is_near[len(text) + min(step, 0) :] = False
            nearest = np.where((nearest < 0) & is_near, found, nearest)
    shape = len(texts.offsets) - 1, len(aspects)
    sums = np.zeros(shape)
    counted = nearest >= 0
    np.add.at(sums, (text[counted], nearest[counted]), texts.shares[counted])
    return sums.astype(np.float32)
