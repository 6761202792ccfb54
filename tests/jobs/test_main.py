"""The command line: errors raised on purpose are one message and exit code 2."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import PythonException

from jobs.command import EXIT_FAILED, EXIT_REFUSED, guarded, run_job
from jobs.console import CONSOLE
from jobs.main import JOBS, build_app
from jobs.settings import Settings
from training.errors import NoTableError, TableError

ROOT = Path(__file__).resolve().parents[2]


def test_an_error_on_purpose_has_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise TableError("table 'events' is missing [x]; run ingest")

    with pytest.raises(SystemExit) as stopped:
        guarded(fail)
    assert stopped.value.code == EXIT_REFUSED
    assert "TableError: table 'events' is missing [x]; run ingest" in capsys.readouterr().err.replace("\n", " ")


def test_what_a_disk_refuses_has_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for call in (lambda: (tmp_path / "gone" / "file").read_text(), lambda: os.truncate(tmp_path, 0)):
        with pytest.raises(SystemExit) as stopped:
            guarded(call)
        assert stopped.value.code == EXIT_REFUSED
    said = capsys.readouterr().err.replace("\n", "")
    assert "gone/file': No such file or directory; mend that" in said
    assert "Is a directory; mend that" in said


def test_any_other_error_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 / 0)


def test_every_job_has_a_module_with_run() -> None:
    for name in JOBS:
        source = (ROOT / "jobs" / f"{name.replace('-', '_')}.py").read_text()
        assert re.search(r"\ndef run\(\s*settings: Settings, spark: SparkSession \| None = None", source), name
        assert '\nif __name__ == "__main__":' in source, name


def test_every_job_is_a_command() -> None:
    names = {command.name for command in build_app().registered_commands}
    assert names == {"benchmark", "chat", "demo", "erase", "init", "score-table", "search", "settings", "tasks", *JOBS}


ENDED = """Job aborted:
spark.hadoop.fs.s3a.secret.key=abc 'AWS_SECRET_ACCESS_KEY': 'abc' Authorization: Bearer abcabcabcabc
  Traceback of it \ud800
training.errors.DataError: row 7 of s3://me:abc@box is none"""


@pytest.mark.parametrize("place", ["terminal", "log", "full"])
def test_what_spark_ended_has_its_reason_and_its_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path if place != "full" else tmp_path / "none"))
    monkeypatch.setattr(CONSOLE, "_force_terminal", place != "log")

    def fail() -> None:
        raise PythonException(ENDED)

    with pytest.raises(SystemExit) as ended:
        guarded(fail)
    assert ended.value.code == EXIT_FAILED
    said = " ".join(capsys.readouterr().err.split())
    assert "Spark ended the work: training.errors.DataError: row 7 of s3://me:***@box is none" in said
    kept = "".join(file.read_text() for file in tmp_path.iterdir())
    assert ("Traceback of it" in said, "Traceback of it" in kept) == (place == "log", place == "terminal")
    assert ("The whole trace is in 'no file: No such file or directory'" in said) == (place == "full")
    assert "abc" not in said + kept
    assert "memory" not in said


def test_who_named_no_settings_is_told_so(tmp_path: Path) -> None:
    def refused(settings: str | None, flags: list[str]) -> str:
        def run(read: Settings) -> dict[str, Any]:
            raise NoTableError(f"nothing at {read.tables.root}")

        with pytest.raises(NoTableError) as error:
            run_job("train", run, settings, flags)
        return str(error.value)

    (tmp_path / "shop.yaml").write_text("tables: {root: elsewhere}")
    assert refused(None, []) == "nothing at out/tables, or name your settings with --settings (none are named)"
    assert refused(str(tmp_path / "shop.yaml"), []) == "nothing at elsewhere"
    assert refused(None, ["tables.root=mine"]) == "nothing at mine"


def test_the_version_names_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_app()(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"millrace \S.* \(pyspark \d\S+, delta-spark \d\S+, torch \d\S+\)\n", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        build_app()(["--help"])
    assert "section.key=value" in capsys.readouterr().out


def test_a_wrong_flag_ends_with_code_2() -> None:
    command = [sys.executable, "-m", "jobs.train", "training.epoch=3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_REFUSED
    assert "did you mean 'epochs'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_py4j_logs_beside_raising_it_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def call() -> None:
        for path in ("/site-packages/py4j/java_gateway.py", "/elsewhere/ours.py"):
            record = logging.LogRecord("root", logging.ERROR, path, 1, f"told by {path}", (), None)
            logging.getLogger().handle(record)

    guarded(call)
    assert caplog.messages == ["told by /elsewhere/ours.py"]


def test_the_module_is_the_command_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.main", "train", "training.epochs=0"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == EXIT_REFUSED
    assert b"training.epochs" in done.stderr
