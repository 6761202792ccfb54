"""The run folder's JSON files: whole or not at all, and what is damaged is one error that says what to do."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from jobs.artefacts import BEST, EVALUATION, FEEDBACK, LATEST, SCORE, STAGES, TUNING, read_json, write_json
from training.errors import ArtefactError

from .artefacts import evaluation, leave_run


def test_what_is_written_is_read(tmp_path: Path) -> None:
    leave_run(tmp_path)
    for name in (EVALUATION, TUNING, FEEDBACK, LATEST, SCORE, STAGES):
        held = json.loads((tmp_path / name).read_text())
        if isinstance(held, dict):
            del held["checksum"]
        assert read_json(tmp_path, name) == held
    models = evaluation()["protocols"]["new"]["models"]
    assert list(read_json(tmp_path, EVALUATION)["protocols"]["new"]["models"]) == list(models), (
        "tables keep their order"
    )
    assert read_json(tmp_path, BEST) is None


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "null",
        "3",
        "{",
        "",
        '{"bundle": 3}',
        '{"bundle": "b"}',
        "\xff",
        '{"bundle": "b", "identity": "..", "summary": {}}',
    ],
)
@pytest.mark.parametrize(
    ("name", "job"),
    [
        (LATEST, "train"),
        (BEST, "tune"),
        (TUNING, "tune"),
        (EVALUATION, "evaluate"),
        (SCORE, "score"),
        (FEEDBACK, "ingest-feedback"),
    ],
)
def test_a_damaged_file_is_one_error(tmp_path: Path, name: str, job: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ArtefactError, match=rf"{name}' must be .*; remove it and run `millrace {job}` again"):
        read_json(tmp_path, name)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = write_json(tmp_path, LATEST, {"bundle": "b-1", "identity": "0", "summary": {}})
    path.write_text(path.read_text().replace("b-1", "b-2"))
    with pytest.raises(
        ArtefactError, match=r"latest\.json' must have the checksum .*; remove it and run `millrace tra"
    ):
        read_json(tmp_path, LATEST)


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / SCORE).mkdir()
    with pytest.raises(ArtefactError, match=r"score\.json' must be a file that can be read"):
        read_json(tmp_path, SCORE)


def test_writers_at_once_leave_one_whole_file_and_nothing_else(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def write(number: int) -> None:
        value: Any = {"bundle": f"b-{number}", "identity": "0", "summary": {"many": [number] * 20_000}}
        try:
            for _ in range(5):
                write_json(tmp_path, LATEST, value)
        except OSError as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failed
    held = read_json(tmp_path, LATEST)
    assert f"b-{held['summary']['many'][0]}" == held["bundle"]
    assert [path.name for path in tmp_path.iterdir()] == [LATEST]
