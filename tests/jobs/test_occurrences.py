"""Ids in bytes: whole ones, however they are written, and nothing that merely looks like one."""

from __future__ import annotations

import gzip
import io
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_udfs.occurrences import UNREADABLE, Finder, in_file, is_telling

IDS = ["user 1", "U000000012", 'o"Neil\\7', "é-mail@läden.de", "12"]


@pytest.fixture
def finder() -> Finder:
    return Finder(IDS, {"user_id"})


def parquet(**columns: list[object]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=2)
    return file.getvalue()


@pytest.mark.parametrize("user_id", IDS[:4])
@pytest.mark.parametrize("around", ["{}", "a,{},b", '"{}"', "\n{}\n", "x={}&"])
def test_an_id_is_found_as_a_word(finder: Finder, user_id: str, around: str) -> None:
    assert finder.places(around.format(user_id).encode()) == 1
    assert in_file("x.csv.gz", gzip.compress(around.format(user_id).encode()), finder) == 1


@pytest.mark.parametrize("user_id", IDS[:4])
def test_an_id_is_found_as_json_in_json(finder: Finder, user_id: str) -> None:
    for levels in (1, 2):
        for ascii_only in (True, False):
            text = user_id
            for _ in range(levels):
                text = json.dumps(text, ensure_ascii=ascii_only)
            assert finder.places(text.encode()) == 1


@pytest.mark.parametrize("text", ["user 10", "xuser 1", "U0000000123", "user_1", "12", "112", '{"quantity": "12"}'])
def test_what_only_looks_like_an_id_is_none(finder: Finder, text: str) -> None:
    assert finder.places(text.encode()) == 0


def test_short_ids_are_found_where_users_stand(finder: Finder) -> None:
    stats = json.dumps({"minValues": {"user_id": "12"}, "maxValues": {"user_id": "9"}, "numRecords": 12})
    assert finder.places(json.dumps({"add": {"stats": stats}}).encode()) == 1
    assert finder.places(b'{"user_id" : "12"}') == 1
    assert finder.names('{"Customer": "12"}')
    assert not finder.names('{"Customer": "13", "Count": "112"}')
    assert [is_telling(user_id) for user_id in [*IDS, "17850", "vintage"]] == [True] * 4 + [False] * 3


def test_parquet_is_decoded(finder: Finder) -> None:
    held = parquet(user_id=["12", "13", "12"], item_id=["12", "12", "12"], n=[12, 12, 12])
    assert in_file("part.parquet", held, finder) == 2  # a row group each
    nested = parquet(add=[{"stats": '{"minValues":{"user_id":"12"}}', "m": ["user 1"]}], n=[1])
    assert in_file("00.checkpoint.parquet", nested, finder) == 2
    assert in_file("part.parquet", parquet(n=[12]), finder) == 0
    assert in_file("part.parquet", parquet(user_id=["13", None], name=["user 10", "x"]), finder) == 0
    mixed = pa.table({"user_id": pa.array(["12", "13"]).dictionary_encode(), "note": pa.array([b"\xff", b"user 1"])})
    file = io.BytesIO()
    pq.write_table(mixed, file)
    assert in_file(".part-0.parquet.inprogress", file.getvalue(), finder) == 2


@pytest.mark.parametrize("user_id", ["zoë", "a\\b", 'o"n', "o'n\\", "李雷", "a&b", "12"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_values_are_compared_as_they_were_before_they_were_written(user_id: str, ascii_only: bool) -> None:
    finder = Finder([user_id], {"user_id", "Идент"})
    assert not is_telling(user_id)
    for key in ("user_id", "Идент"):
        text = json.dumps({"other": user_id, key: user_id, "next": "x"}, ensure_ascii=ascii_only)
        for _ in range(3):
            assert finder.places(text.encode()) == 1
            text = json.dumps({"add": text}, ensure_ascii=ascii_only)
    assert finder.places(b'{"nullCount":{"user_id":12}}') == 0


def test_ids_in_html_and_after_escapes() -> None:
    finder = Finder(["a&b-123456", "user 1"], ())
    assert finder.places(b"<summary>Customer a&amp;b-123456 <small>") == 1
    assert finder.places(rb'{"html": "\u003cb\u003euser 1\u003c/b\u003e", "text": "call\nuser 1"}') == 2


def test_a_value_is_an_id_however_deep_it_stands(finder: Finder) -> None:
    assert finder.names(json.dumps({"item": "x", "customer": '{"id": 12}'}))
    assert finder.names(json.dumps({"others": json.dumps([{"key": "customer", "value": " 12 "}])}))
    assert not finder.names(json.dumps({"others": json.dumps([{"key": "customer", "value": "112"}]), "none": None}))


def test_what_was_cut_off_is_unreadable(finder: Finder) -> None:
    whole = parquet(user_id=["12"])
    torn = {"part.parquet": whole[:50], ".part.parquet.inprogress": whole[:-9], "x.gz": gzip.compress(b"user 1")[:-9]}
    assert [in_file(name, data, finder) for name, data in torn.items()] == [UNREADABLE] * 3
    assert in_file("part.parquet", b"", finder) == 0


@pytest.mark.parametrize("shape", ["customer-{:08d}", "user {}", "{}-customer@shop.example", "U{:09d}"])
def test_the_work_does_not_grow_with_the_number_of_ids(shape: str) -> None:
    finder = Finder([shape.format(number) for number in range(100_000, 200_000)], {"user_id"})
    data = b" ".join(shape.format(number).encode() for number in range(199_990, 260_000))
    began = time.process_time()
    assert finder.places(data) == 10
    assert time.process_time() - began < 5


def test_the_same_ids_are_looked_for_in_other_columns(finder: Finder) -> None:
    held = parquet(id=["12", "user 1"])
    assert in_file("part.parquet", held, finder) == 1
    assert in_file("part.parquet", held, finder.of_columns({"id"})) == 2
    assert in_file("part.parquet", held, finder) == 1
