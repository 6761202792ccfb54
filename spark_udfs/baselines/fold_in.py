"""Users from whom ALS did not learn: the vector that it would give them, in closed form, of the items that they have.

With Y the items' vectors, a user's is the x that ALS's own half iteration solves for (Hu, Koren and Volinsky, 2008):

    (Y'Y + alpha sum_i y_i y_i' + regularisation n I) x = (1 + alpha) sum_i y_i

over the user's n items, each bought once; as Spark does, the regularisation counts with the number of items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.arrow import fixed_lists, lists
from spark_udfs.item_files import ItemFile
from spark_udfs.lists import Batches, require_columns
from spark_udfs.top_k import Floats, Lists, one_thread, rows_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]

ITEMS = 1 << 16  # vectors that are doubles at once: 32 MB at 64 dimensions
_grams: dict[str, Doubles] = {}


@dataclass(frozen=True)
class FoldIn:
    """ALS's item vectors, and what they were fitted with.

    Attributes:
        items: `item` and `vector`.
        alpha: weight of a purchase in the confidence, 1 + alpha.
        regularisation: ALS's regParam.
    """

    items: ItemFile
    alpha: float
    regularisation: float

    def vectors(self, queries: DataFrame) -> DataFrame:
        """user, vector, seen of the users who have one of the items.

        Args:
            queries: user, seen.

        Raises:
            SchemaError: a column of `queries` is missing or of another type.
        """
        require_columns(queries, "queries", {"user": "bigint", "seen": "array<bigint>"})
        kinds = "user bigint, vector array<float>, seen array<bigint>"
        return queries.select("user", "seen").mapInArrow(self._answer, kinds)

    def of(self, held: Lists, vectors_mD: Floats, gram_DD: Doubles) -> Floats:
        """(rows, D): the vectors of users.

        Args:
            held: of each user the rows of `vectors_mD` of their items, one at least.
            vectors_mD: the items'.
            gram_DD: Y'Y.
        """
        found = np.empty((len(held.lengths), len(gram_DD)), np.float32)
        for row, (start, end) in enumerate(zip(held.offsets[:-1], held.offsets[1:], strict=True)):
            mine_nD = vectors_mD[held.values[start:end]].astype(np.float64)
            ridge = self.regularisation * len(mine_nD) * np.eye(len(gram_DD))
            confident = gram_DD + self.alpha * mine_nD.T @ mine_nD + ridge
            found[row] = np.linalg.solve(confident, (1 + self.alpha) * mine_nD.sum(axis=0))
        return found

    def _answer(self, batches: Batches) -> Iterator[pa.RecordBatch]:
        one_thread()
        ids, vectors = self.items.open("item"), self.items.open("vector")
        for batch in batches:
            held = rows_of(lists(batch.column(1)), ids, len(ids))
            rows = np.flatnonzero(held.lengths)
            some = batch.take(pa.array(rows))
            own = Lists(held.values, np.concatenate([[0], np.cumsum(held.lengths[rows])]))
            found = fixed_lists(self.of(own, vectors, self._gram(vectors)))
            yield pa.record_batch([some.column(0), found, some.column(1)], ["user", "vector", "seen"])

    def _gram(self, vectors_mD: Floats) -> Doubles:
        """(D, D) Y'Y, once a worker."""
        if self.items.name not in _grams:
            parts = (vectors_mD[at : at + ITEMS].astype(np.float64) for at in range(0, len(vectors_mD), ITEMS))
            _grams.clear()
            _grams[self.items.name] = sum((part.T @ part for part in parts), np.zeros((vectors_mD.shape[1],) * 2))
        return _grams[self.items.name]
