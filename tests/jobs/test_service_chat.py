"""The tables of a terminal: answers up to the limit, and of an order's number that stands twice nothing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from jobs.tasks.service_chat import _answers, _encoder, _open, _orders
from jobs.tasks.service_options import ORDERS
from spark_udfs.knowledge import id_of
from tests.training.text_models import save_folder
from training.errors import BundleError, DataError

ROWS = [
    ("1001", "jo@shop.example", "packed", None, ""),
    ("1001", "jo@shop.example", "packed", None, None),
    ("1002", None, "packed", None, None),
    ("1002", "ann@shop.example", "lost", None, "9 EUR"),
]


def test_what_stands_twice_is_told_of_where_its_rows_are_one(tmp_path: Path) -> None:
    assert _orders(str(tmp_path)) is None
    columns = zip(*ROWS, strict=True)
    held = {name: pa.array(column, pa.string()) for name, column in zip(ORDERS, columns, strict=True)}
    write_deltalake(tmp_path / "orders", pa.table(held))
    order = _orders(str(tmp_path))
    assert order is not None
    assert order("1001") == {"order_number": "1001", "email": "jo@shop.example", "status": "packed"}
    assert order("1002") == {"order_number": "1002"}
    assert order("1003") is None


def test_a_terminal_holds_no_more_answers_than_a_worker(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "answers", pa.table({"intent": ["a", "b", "b"], "answer": ["x", "y", "y"]}))
    held = _open(str(tmp_path), "answers")
    assert {one.answer_id for one in _answers(held, 2)} == {id_of("a", "x"), id_of("b", "y")}
    with pytest.raises(DataError, match=r"options\.most_answers=1 at most"):
        _answers(held, 1)


def test_a_terminal_takes_no_other_weights(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"weights in '.*' must be those that .*, 0a0a; they are [0-9a-f]{64}: put"):
        _encoder(str(save_folder(tmp_path)), "0a0a")
