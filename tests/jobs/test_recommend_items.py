"""What ranks read of the catalogue."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.tasks.recommend_items import by_index


@pytest.mark.parametrize("number", [pa.float32(), pa.int32(), pa.int64()])
def test_columns_lie_by_their_items_indices_in_however_many_chunks(number: pa.DataType) -> None:
    lists = pa.array([[9, 9], [1, 2], [3, 4], [5, 6]], pa.list_(number))
    column, items = pa.chunked_array([lists[1:3], lists[:0], lists[3:]]), torch.tensor([4, 1, 2])
    found = by_index(column, items, 6, 2)
    assert found.numpy().dtype == np.dtype(number.to_pandas_dtype())
    assert found.tolist() == [[0, 0], [3, 4], [5, 6], [0, 0], [1, 2], [0, 0]]
    alone = pa.chunked_array([pa.array([7], number), pa.array([8, 9], number)])
    assert by_index(alone, items, 6, None).tolist() == [0, 8, 9, 0, 7, 0]
    assert by_index(pa.chunked_array([], pa.list_(number)), items[:0], 2, 2).tolist() == [[0, 0], [0, 0]]
