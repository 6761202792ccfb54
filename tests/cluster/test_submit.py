"""cluster/submit.sh: what it gives to spark-submit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[2]


def submit(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it with a spark-submit that says what it got, an argument a line."""
    command = tmp_path / "bin" / "spark-submit"
    command.parent.mkdir()
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    env = {**os.environ, "SPARK_HOME": str(tmp_path), "PYSPARK_DRIVER_PYTHON": sys.executable}
    script = str(ROOT / "cluster" / "submit.sh")
    return subprocess.run([script, *arguments], env=env, capture_output=True, text=True, check=False)


def test_a_job_comes_with_the_jars_of_the_installed_delta(tmp_path: Path) -> None:
    """Their name has Spark's version in it from Delta 4.1 on, and Scala's before."""
    said = submit(tmp_path, "train", "--master", "yarn", "--", "training.launcher=barrier")
    given = said.stdout.splitlines()
    builder: Any = configure_spark_with_delta_pip(SparkSession.builder)
    assert given[given.index("--packages") + 1] == builder._options["spark.jars.packages"], said.stderr
    assert given[-4:] == ["--master", "yarn", str(ROOT / "jobs" / "train.py"), "training.launcher=barrier"]


def test_a_job_that_is_not_there_is_refused(tmp_path: Path) -> None:
    said = submit(tmp_path, "bake")
    assert (said.returncode, said.stdout) == (2, "")
    assert "there is no job 'bake'" in said.stderr


def test_a_driver_without_python_is_told(tmp_path: Path) -> None:
    script = str(ROOT / "cluster" / "submit.sh")
    env = {**os.environ, "PYSPARK_DRIVER_PYTHON": str(tmp_path / "python")}
    said = subprocess.run([script, "train"], env=env, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (2, "")
    assert f"there is no Python '{tmp_path}/python': make install makes it" in said.stderr
