"""Executors that are lost, on a cluster of two real ones; each case starts a JVM of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.launch import launch


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from tests.cluster import lineage

    folder = tmp_path_factory.mktemp("unbroken")
    spec = {"table": lineage.make_table(folder / "table"), "folder": str(folder / "run")}
    return launch("tests.cluster.lineage:train", spec, ranks=2, env={"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["barrier", "spark"])
@pytest.mark.parametrize("kind", ["executor", "parent"])
def test_a_lost_executor_costs_no_row(launcher: str, kind: str, unbroken: dict[str, Any], tmp_path: Path) -> None:
    """Its JVM, or the Python process beside the rank, is killed in step 13; the last checkpoint is of step 10."""
    command = [sys.executable, "-m", "tests.cluster.lose_executor", str(tmp_path), launcher, kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=280, check=True)
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["result"] == unbroken
    assert seen["starts"] == [0, 10]
    assert any("starting all 2 ranks again (1 of at most 2 times)" in line for line in seen["lines"])
