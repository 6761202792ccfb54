"""The script that builds Horovod: one wheel for its inputs, and a failure names the torch that is tested."""

from __future__ import annotations

import os
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A Python that says what torch there is, makes environments of itself, and whose pip makes a wheel or fails.
PYTHON = """#!/bin/sh
case "$*" in
    -) echo "$FACTS" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    -c*) mkdir -p "$PLACE/site" && echo "$PLACE/site" ;;
    *"pip wheel"*)
        echo built >>"$PLACE/builds"
        [ -z "$SIGNAL" ] || { kill -"$SIGNAL" $PPID; echo "ERROR: Operation cancelled by user" >&2; exit 1; }
        [ -z "$BROKEN" ] || { echo "error: You need C++23 to compile PyTorch"; yes setup.py | head -99; exit 1; } >&2
        while [ "$1" != --wheel-dir ]; do shift; done
        mkdir -p "$2" && touch "$2/horovod-0.28.1-cp313-cp313-linux_x86_64.whl" ;;
    *"pip install"*) echo "$@" >>"$PLACE/installs" ;;
esac
"""


FACTS = "cpython-313 2.15.0 13.2 1"


def _heeding() -> None:
    """A shell heeds no signal that it was started to ignore, as in the background of another."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def build(place: Path, facts: str = FACTS, **variables: str) -> subprocess.CompletedProcess[str]:
    python = place / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    own = {"PLACE": str(place), "FACTS": facts, "BROKEN": "", "SIGNAL": "", "MILLRACE_CACHE": str(place / "cache")}
    script = str(ROOT / "cluster" / "horovod" / "build.sh")
    done = os.environ | own | variables
    return subprocess.run(
        [script, str(python)], capture_output=True, text=True, check=False, env=done, preexec_fn=_heeding
    )


def builds(place: Path) -> int:
    return len((place / "builds").read_text().splitlines())


def test_a_wheel_is_built_once_for_its_inputs(tmp_path: Path) -> None:
    first = build(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "building 0.28.1 from its source package for cpython-313, torch 2.15.0, CPUs (Gloo)" in first.stdout
    again = build(tmp_path)
    assert "a wheel for these inputs is in the cache" in again.stdout
    assert builds(tmp_path) == 1
    last = (tmp_path / "installs").read_text().splitlines()[-1]
    assert "--no-deps --force-reinstall" in last
    assert last.endswith("horovod-0.28.1-cp313-cp313-linux_x86_64.whl")


@pytest.mark.parametrize("facts", ["cpython-312 2.15.0 13.2 1", "cpython-313 2.14.0 13.2 1"])
def test_another_python_or_torch_is_another_wheel(tmp_path: Path, facts: str) -> None:
    build(tmp_path)
    build(tmp_path, facts)
    assert builds(tmp_path) == 2


def test_a_python_is_found_on_the_search_path(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "python").rename(tmp_path / "python3.77")
    own = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PLACE": str(tmp_path),
        "FACTS": FACTS,
        "BROKEN": "",
        "SIGNAL": "",
    }
    own |= {"MILLRACE_CACHE": str(tmp_path / "cache")}
    script = str(ROOT / "cluster" / "horovod" / "build.sh")
    done = subprocess.run([script, "python3.77"], capture_output=True, text=True, check=False, env=os.environ | own)
    assert "a wheel for these inputs is in the cache" in done.stdout, done.stderr


@pytest.mark.parametrize(("name", "code"), [("INT", 130), ("TERM", 143)])
def test_an_interrupted_build_blames_nothing(tmp_path: Path, name: str, code: int) -> None:
    stopped = build(tmp_path, SIGNAL=name)
    assert stopped.returncode == code
    assert stopped.stderr == "horovod: interrupted; nothing was installed. The same command begins the build again\n"
    assert [path.suffix for path in (tmp_path / "cache" / "horovod").iterdir()] == [".log"]


def test_a_torch_that_breaks_the_build_is_told_which_works(tmp_path: Path) -> None:
    failed = build(tmp_path, "cpython-313 2.99.0 15.0 1", BROKEN="yes")
    assert failed.returncode == 1
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (tested,) = [line for line in dependencies if line.startswith("torch")]
    assert "You need C++23" in failed.stderr
    assert "the build against torch 2.99.0 failed; its whole log:" in failed.stderr
    assert f"it is tested with {tested}. " in failed.stderr
    assert not list((tmp_path / "cache" / "horovod").glob("*/horovod-*.whl"))
    assert not list((tmp_path / "cache" / "horovod").glob("build.*"))


def test_nccl_wants_a_torch_with_cuda(tmp_path: Path) -> None:
    failed = build(tmp_path, "cpython-313 2.15.0+cpu cpu 1", GPU="1")
    assert failed.returncode == 1
    assert "GPU=1, but torch 2.15.0+cpu is a CPU build" in failed.stderr


def test_a_toolkit_that_holds_no_nvcc_is_named(tmp_path: Path) -> None:
    failed = build(tmp_path, GPU="1", CUDA_HOME=str(tmp_path))
    assert failed.returncode == 1
    assert f"CUDA_HOME is {tmp_path}, which holds no bin/nvcc. Set it to a toolkit of CUDA 13.2" in failed.stderr


def test_no_compiler_is_said_before_anything_is_made(tmp_path: Path) -> None:
    failed = build(tmp_path, CXX="no-such-compiler")
    assert (failed.returncode, "no C++ compiler named 'no-such-compiler'" in failed.stderr) == (1, True)
    assert not (tmp_path / "cache").exists()
