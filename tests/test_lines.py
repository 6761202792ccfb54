"""The lines of versions: their locks against pyproject's bounds, and the Python that an installation takes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
PYTHONS = {line: versions.split() for line, versions in re.findall(r"^PYTHONS-(\w+) *:= (.*)$", MAKEFILE, re.MULTILINE)}
DOCS = (ROOT / "docs" / "cluster.md").read_text()
CHECK = ROOT / "cluster" / "check_machine.sh"


def requirements(path: Path) -> list[Requirement]:
    return [Requirement(line) for line in path.read_text().splitlines() if line and not line.startswith("#")]


def locked(line: str, python: str) -> dict[str, str]:
    """Name and version of what a line installs with a Python on Linux."""
    machine = {"python_version": python, "python_full_version": f"{python}.5", "sys_platform": "linux"}
    found = requirements(ROOT / "cluster" / "lines" / f"{line}.lock")
    held = [one for one in found if one.marker is None or one.marker.evaluate(machine)]
    return {one.name: str(one.specifier).removeprefix("==") for one in held}


def test_there_is_a_lock_for_each_line() -> None:
    folder = ROOT / "cluster" / "lines"
    assert {path.stem for path in folder.glob("*.lock")} == {path.stem for path in folder.glob("*.in")} == set(PYTHONS)
    assert set(PYTHONS) == set(re.findall(r"^LINES *:= (.*)$", MAKEFILE, re.MULTILINE)[0].split())


@pytest.mark.parametrize(("line", "python"), [(line, python) for line, found in PYTHONS.items() for python in found])
def test_a_lock_holds_what_the_bounds_and_its_line_ask_for(line: str, python: str) -> None:
    versions = locked(line, python)
    assert python in SpecifierSet(PROJECT["requires-python"])
    lines = [
        *PROJECT["dependencies"],
        *(one for extra in ("dev", "text", "decoder") for one in PROJECT["optional-dependencies"][extra]),
    ]
    wanted = [Requirement(text) for text in lines] + requirements(ROOT / "cluster" / "lines" / f"{line}.in")
    outside = {str(one): versions.get(one.name) for one in wanted if versions.get(one.name, "0") not in one.specifier}
    assert not outside


def python_that(folder: Path, name: str, says: str) -> Path:
    """A command of that name, which does what a line of shell does."""
    folder.mkdir(exist_ok=True)
    command = folder / name
    command.write_text(f"#!/bin/sh\n{says}\n")
    command.chmod(0o755)
    return command


def check(tmp_path: Path, *versions: str, free_mb: int = 9000, **variables: str) -> subprocess.CompletedProcess[str]:
    """cluster/check_machine.sh with the commands in tmp_path/bin ahead of the system's tools, and no Python else."""
    java = python_that(tmp_path / "bin", "java", "echo 'openjdk version \"17.0.1\"' >&2").parent
    python_that(tmp_path / "bin", "df", f"echo 'Filesystem MB Used Available'; echo 'disk 99999 0 {free_mb}'")
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    for tool in ("bash", "sh", "sed", "head", "awk", "make", "true"):
        if not (tools / tool).exists():
            (tools / tool).symlink_to(str(shutil.which(tool)))
    own = {"PATH": f"{java}:{tools}", "HOME": str(tmp_path), "PYENV_ROOT": str(tmp_path / "pyenv"), "CXX": "true"}
    command = [str(tools / "bash"), str(CHECK), ".venv", *versions]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=own | variables)


THIS = ".".join(map(str, sys.version_info[:2]))
WORKS = f'exec {sys.executable} "$@"'


def test_the_first_python_that_runs_is_taken(tmp_path: Path) -> None:
    """A shim that fails, and one of another version than its name says, are passed over."""
    python_that(tmp_path / "bin", "python3.99", "echo 'pyenv: python3.99: command not found' >&2; exit 127")
    python_that(tmp_path / "bin", "python3.98", WORKS)
    taken = python_that(tmp_path / "bin", f"python{THIS}", WORKS)
    found = check(tmp_path, "3.99", "3.98", THIS)
    assert (found.stdout.strip(), found.stderr) == (str(taken), "")


def test_pyenvs_own_are_found_behind_their_shims(tmp_path: Path) -> None:
    python_that(tmp_path / "bin", f"python{THIS}", "exit 127")
    folder = tmp_path / "pyenv" / "versions" / f"{THIS}.7" / "bin"
    folder.mkdir(parents=True)
    taken = python_that(folder, f"python{THIS}", WORKS)
    assert check(tmp_path, THIS).stdout.strip() == str(taken)


def test_an_environment_keeps_its_python_while_that_runs(tmp_path: Path) -> None:
    python_that(tmp_path / "bin", f"python{THIS}", WORKS)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python_that(tmp_path / ".venv" / "bin", "python", WORKS)
    assert check(tmp_path, "3.99", THIS).stdout.strip() == ".venv/bin/python"
    python_that(tmp_path / ".venv" / "bin", "python", "exit 127")
    assert check(tmp_path, "3.99", THIS).stdout.strip() == str(tmp_path / "bin" / f"python{THIS}")


def test_each_python_that_will_not_do_is_named_with_its_reason(tmp_path: Path) -> None:
    python_that(tmp_path / "bin", "python3.99", "echo 'pyenv: python3.99: command not found' >&2; exit 127")
    other = python_that(tmp_path / "bin", "python3.98", WORKS)
    found = check(tmp_path, "3.99", "3.98", JAVA_HOME="/nowhere")
    assert found.returncode == 1
    assert found.stdout == ""
    assert "lacks 2 thing(s)" in found.stderr
    assert "Python 3.99 or 3.98 that runs, with venv and headers (" in found.stderr
    assert f"{tmp_path}/bin/python3.99 pyenv: python3.99: command not found; {other} is Python {THIS}" in found.stderr
    assert "Java 17" in found.stderr


def test_a_python_without_venv_is_named_with_the_package_that_brings_it(tmp_path: Path) -> None:
    """As Debian's is: the module ensurepip is in a package of its own."""
    without = "import sys; sys.modules['ensurepip'] = None; sys.argv = sys.argv[1:]; exec(sys.argv[1])"
    python_that(tmp_path / "bin", f"python{THIS}", f'shift; exec {sys.executable} -c "{without}" - "$@"')
    found = check(tmp_path, THIS)
    assert f"has no venv module: apt-get install -y python{THIS}-venv" in found.stderr


def test_the_python_asked_for_is_taken_or_refused(tmp_path: Path) -> None:
    python_that(tmp_path / "bin", "python3.99", WORKS)
    asked = python_that(tmp_path / "bin", "mine", WORKS)
    assert check(tmp_path, "3.99", THIS, PYTHON=str(asked)).stdout.strip() == str(asked)
    assert f"{asked} is Python {THIS}" in check(tmp_path, "3.99", PYTHON=str(asked)).stderr
    assert "nowhere is not there" in check(tmp_path, THIS, PYTHON="nowhere").stderr


def test_a_full_disk_is_named_unless_the_environment_is_there(tmp_path: Path) -> None:
    python_that(tmp_path / "bin", f"python{THIS}", WORKS)
    assert (
        "9 GB of free disk here (torch is most of it); there are 7109 MB" in check(tmp_path, THIS, free_mb=7109).stderr
    )
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python_that(tmp_path / ".venv" / "bin", "python", WORKS)
    assert check(tmp_path, THIS, free_mb=7109).stdout.strip() == ".venv/bin/python"


def test_a_line_that_is_not_there_is_refused() -> None:
    said = subprocess.run(
        ["make", "-n", "install", "LINE=oldest"], cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ
    )
    assert said.returncode != 0
    assert "LINE=oldest is none of newest current legacy" in said.stderr


@pytest.mark.parametrize("line", PYTHONS)
def test_the_connect_servers_artefact_is_that_of_the_line(line: str) -> None:
    """Spark 3.5 is built for Scala 2.12; Deltas for Spark 4.1 and later name Spark's line."""
    held = locked(line, PYTHONS[line][0])
    spark, delta = held["pyspark"], held["delta-spark"]
    of_spark = f"{spark.rpartition('.')[0]}_" if Version(spark) >= Version("4.1") else ""
    artefact = f"io.delta:delta-spark_{of_spark}{'2.12' if spark < '4' else '2.13'}:{delta}"
    (row,) = re.findall(rf"^\| `{line}` \| Spark (\S+), .* \| `(.*?)`", DOCS, re.MULTILINE)
    assert (row[0], row[1].partition(",")[0]) == (spark, artefact)
