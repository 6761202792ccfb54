"""JSON files: what is written comes back typed; what was torn, changed or is of another kind is named."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from training.errors import ArtefactError
from training.state.json_files import parse_json, read_json, write_json


@dataclass(frozen=True)
class Result:
    name: str
    steps: int
    history: list[dict[str, int | float]]
    seconds: float = 0.0


@dataclass(frozen=True)
class Sealed:
    name: str
    checksum: str


def test_what_is_written_comes_back_typed(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"name": "ü", "steps": 3, "history": [{"epoch": 1, "loss": math.nan}], "later": (1, 2)})
    read = read_json(path, Result)
    assert (read.name, read.steps, read.seconds) == ("ü", 3, 0.0)
    assert read.history[0]["epoch"] == 1
    assert isinstance(read.history[0]["epoch"], int)
    assert math.isnan(read.history[0]["loss"])
    assert read_json(path, dict[str, Any])["later"] == [1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"name": "old"})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"name": object()})
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_json(tmp_path / "folder", {"name": "new"})
    assert read_json(path, dict[str, Any])["name"] == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "result.json"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "Invalid JSON: EOF while parsing"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[", "Invalid JSON"),
        (b'{"a":' * 100_000, "recursion limit"),
        (b"[]", r"should be an object \(it is \[\]\)"),
        (b"null", r"should be an object \(it is None\)"),
        (b"{}", "name: Field required; steps: Field required; history: Field required"),
        (b'{"name": 1, "steps": "3", "history": {}}', r"name: .* \(it is 1\); steps: .* \(it is '3'\); history: "),
        (b'{"name": "a", "steps": true, "history": []}', r"steps: .* integer \(it is True\)"),
        (b'{"name": "a", "steps": 3, "history": [{"a": 1}, {"a": "b"}]}', r"history\.1\.a\.int: "),
        (b'{"name": "a", "steps": 3, "history": [], "checksum": "00"}', "checksum that it carries; it was changed"),
        (b'{"name": "a", "steps": 3, "history": [], "checksum": null}', "checksum that it carries; it was changed"),
    ],
)
def test_what_is_not_of_the_shape_is_named(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(text)
    with pytest.raises(ArtefactError, match=words) as refused:
        read_json(path, Result)
    assert str(refused.value).startswith(f"'{path}' must")
    assert len(str(refused.value)) < 600


def test_long_values_are_cut() -> None:
    text = json.dumps({"name": ["x" * 100_000] * 1000, "steps": {"y" * 100_000: 1}, "history": ["z"] * 1000}).encode()
    with pytest.raises(ArtefactError, match="and 999 more") as refused:
        parse_json(text, Result, "the result")
    assert len(str(refused.value)) < 800


def test_any_changed_value_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"name": "a", "steps": 3, "history": [{"loss": 0.1}]})
    whole = path.read_text()
    for old, new in (("0.1", "0.2"), ('"steps": 3', '"steps": 4'), ('"a"', '"b"')):
        path.write_text(whole.replace(old, new))
        with pytest.raises(ArtefactError, match="it was changed after it was written"):
            read_json(path, Result)
    path.write_text(json.dumps(json.loads(whole)))  # other white space is no change
    assert read_json(path, Result).steps == 3


def test_a_file_without_checksum_is_taken_unless_the_shape_insists(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text('{"name": "a", "steps": 3, "history": []}')
    assert read_json(path, Result).name == "a"
    with pytest.raises(ArtefactError, match="checksum: Field required"):
        read_json(path, Sealed)
    write_json(path, {"name": "a"})
    assert read_json(path, Sealed).name == "a"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"none\.json' must be a file that can be read: No such file"):
        read_json(tmp_path / "none.json", Result)
    with pytest.raises(ArtefactError, match="must be a file that can be read: Is a directory"):
        read_json(tmp_path, Result)
