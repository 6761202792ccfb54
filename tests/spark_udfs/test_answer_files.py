"""Files of answers: what is in them, and what is left of those that were not finished. No Spark."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_udfs import answer_files
from spark_udfs.answer_files import Written, remove_files
from spark_udfs.arrow import fixed_lists
from tests.training.s3 import KEY_ID, serve
from training.errors import TableError

ROWS = 5_000


def answers(keys: pa.Array, fails_after: int | None = None) -> Iterator[pa.RecordBatch]:
    """Two numbers a key, and an answer that the model does not have, a thousand rows at a time."""
    for start in range(0, len(keys), 1_000):
        if start == fails_after:
            raise ValueError(f"planted at {start}")
        held = keys.slice(start, 1_000)
        numbers = fixed_lists(np.arange(2 * len(held), dtype=np.float32).reshape(-1, 2) + start)
        yield pa.record_batch([held, numbers, pa.nulls(len(held), pa.list_(pa.float32()))], ["key", "p", "none"])


def written(place: Path, keys: pa.Array, fails_after: int | None = None) -> Written | None:
    held = answer_files._place(str(place), {})
    return answer_files._write(answers(keys, fails_after), held, "bundle=b", "run", "key", "snappy")


def test_a_file_is_as_spark_and_delta_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_files, "GROUP_BYTES", 40_000)
    made = written(tmp_path, pa.array([None, *range(ROWS - 1, 0, -1)], pa.int64()))
    assert made is not None
    file = pq.ParquetFile(tmp_path / made.path)
    assert (made.size, made.rows) == ((tmp_path / made.path).stat().st_size, ROWS)
    assert file.metadata.num_row_groups == 3  # two thousand rows have 40,000 bytes and more
    column = file.metadata.row_group(0).column(1)
    assert (column.path_in_schema, column.compression) == ("p.list.element", "SNAPPY")
    assert file.read()["p"].to_pylist()[1_001] == [1_002, 1_003]
    ends = {"minValues": {"key": 1}, "maxValues": {"key": ROWS - 1}}
    assert json.loads(made.stats) == {"numRecords": ROWS, "nullCount": {"key": 1, "p": 0, "none": ROWS}, **ends}


@pytest.mark.parametrize(
    ("keys", "ends"), [(["b", "ä", "a" * 32], ["a" * 32, "ä"]), (["b", "a" * 33], None), ([None], None)]
)
def test_texts_bound_a_file_where_they_are_short(tmp_path: Path, keys: list[str], ends: list[str] | None) -> None:
    made = written(tmp_path, pa.array(keys, pa.string()))
    assert made is not None
    told = json.loads(made.stats)
    assert ([told[name]["key"] for name in ("minValues", "maxValues")] if "minValues" in told else None) == ends


def test_a_task_that_fails_after_it_has_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_files, "GROUP_BYTES", 1)
    with pytest.raises(ValueError, match="planted at 3000"):
        written(tmp_path, pa.array(range(ROWS), pa.int64()), fails_after=3_000)
    assert list((tmp_path / "bundle=b").iterdir()) == []
    assert written(tmp_path, pa.array([], pa.int64())) is None
    assert list((tmp_path / "bundle=b").iterdir()) == []


def test_attempts_of_a_task_have_files_of_their_own_and_a_run_knows_its_own(tmp_path: Path) -> None:
    first, second = (written(tmp_path, pa.array([1, 2], pa.int64())) for _ in range(2))
    assert first is not None
    assert second is not None
    place = answer_files._place(f"file:{tmp_path}", {})
    assert sorted(answer_files._paths_of(place, "bundle=b", "run")) == sorted([first.path, second.path])
    assert answer_files._paths_of(place, "bundle=b", "other") == answer_files._paths_of(place, "nowhere", "run") == []
    remove_files(str(tmp_path), [first, first._replace(path="bundle=b/gone")])
    assert [file.name for file in (tmp_path / "bundle=b").iterdir()] == [Path(second.path).name]


def test_what_the_driver_does_not_find_is_refused(tmp_path: Path) -> None:
    made = written(tmp_path, pa.array([1], pa.int64()))
    assert made is not None
    place = answer_files._place(str(tmp_path), {})
    answer_files._refuse_absent(place, str(tmp_path), [made])
    with pytest.raises(TableError, match=rf"{made.path}', which .* with {made.size + 1:,} bytes, and is not: .*mount"):
        answer_files._refuse_absent(place, str(tmp_path), [made._replace(size=made.size + 1)])


def test_what_cannot_be_written_is_named_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "bundle=b").write_text("in the way")
    with pytest.raises(
        TableError, match=r"file 'bundle=b/part-run-.*' of the answers' table cannot be written: .*bundle=b"
    ):
        written(tmp_path, pa.array([1], pa.int64()))
    with serve(tmp_path) as store:
        place = answer_files._place("s3://denied/answers", store.options)
        with pytest.raises(TableError, match=r"cannot be written: .*403 Forbidden: AccessDenied") as caught:
            answer_files._write(answers(pa.array([1], pa.int64())), place, "bundle=b", "run", "key", "zstd")
    told = "".join(traceback.format_exception(caught.value))
    assert "Signature=" not in told
    assert KEY_ID not in told


def test_a_store_takes_them(tmp_path: Path) -> None:
    with serve(tmp_path) as store:
        place, keys = answer_files._place("s3://shop/answers", store.options), pa.array([3, 4], pa.int64())
        made = answer_files._write(answers(keys), place, "bundle=b", "run", "key", "zstd")
        assert made is not None
        file = tmp_path / "answers" / made.path
        assert pq.read_table(file)["key"].to_pylist() == [3, 4]
        assert file.stat().st_size == made.size
        answer_files._refuse_absent(place, "s3://shop/answers", [made])
        assert answer_files._paths_of(place, "bundle=b", "run") == [made.path]
        remove_files("s3://shop/answers", [made], store.options)
        assert not file.exists()
