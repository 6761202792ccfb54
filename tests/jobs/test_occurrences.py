"""Ids in bytes: whole ones, however they are written, and nothing that merely looks like one."""

from __future__ import annotations

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_udfs.occurrences import Finder, in_file, is_telling

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
    assert finder.names(json.dumps({"_malformed_line": "5,mug,12"}))
    assert not finder.names('{"Customer": "13", "Count": 12}')
    assert [is_telling(user_id) for user_id in [*IDS, "17850", "vintage"]] == [True] * 4 + [False] * 3


def test_parquet_is_decoded(finder: Finder) -> None:
    held = parquet(user_id=["12", "13", "12"], item_id=["12", "12", "12"], n=[12, 12, 12])
    assert in_file("part.parquet", held, finder) == 2  # a row group each
    nested = parquet(add=[{"stats": '{"minValues":{"user_id":"12"}}', "m": ["user 1"]}], n=[1])
    assert in_file("00.checkpoint.parquet", nested, finder) == 2
    assert in_file("part.parquet", parquet(n=[12]), finder) == 0
    assert in_file("part.parquet", parquet(user_id=["13", None], name=["user 10", "x"]), finder) == 0
