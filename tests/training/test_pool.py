"""Petastorm's pool: its own code, entered without the package's `__init__`, which is left as it was."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest

from training.data import pool

INSTALLED = Path(str(importlib.metadata.distribution("petastorm").locate_file("petastorm")))
OLD_ARROW = int(pyarrow.__version__.split(".")[0]) < 16


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("name", "file"), [("ThreadPool", "thread_pool"), ("Ventilator", "ventilator"), ("WorkerBase", "worker_base")]
)
def test_the_pool_is_petastorms_own_code(name: str, file: str) -> None:
    entered = getattr(pool, name)
    source = Path(entered.__init__.__code__.co_filename)
    assert source == INSTALLED / "workers_pool" / f"{file}.py"
    assert (entered.__name__, entered.__module__) == (name, f"petastorm.workers_pool.{file}")
    listed = importlib.metadata.files("petastorm") or []
    [recorded] = [entry for entry in listed if str(entry) == f"petastorm/workers_pool/{file}.py"]
    assert recorded.hash is not None
    digest = base64.urlsafe_b64encode(hashlib.new(recorded.hash.mode, source.read_bytes()).digest())
    assert digest.decode().rstrip("=") == recorded.hash.value


def test_the_import_system_forgets_how_it_was_entered() -> None:
    code = (
        "import sys, training.data.reader; print([name for name in sys.modules if name.split('.')[0] == 'petastorm'])"
    )
    assert python(code) == "[]"


def test_a_package_that_is_imported_already_is_taken() -> None:
    """With its own `__init__` run, where that can run, or with whatever else stands under its name."""
    stand_in = "import sys, types, importlib.util as u; spec = u.find_spec('petastorm'); "
    stand_in += "sys.modules['petastorm'] = u.module_from_spec(spec); "
    code = (
        stand_in + "import training.data.pool as p; print(sys.modules['petastorm'].workers_pool.thread_pool.ThreadPool"
    )
    assert python(code + " is p.ThreadPool)") == "True"


@pytest.mark.skipif(not OLD_ARROW, reason="petastorm's own __init__ needs pyarrow below 16")
def test_the_whole_package_still_imports_after_it() -> None:
    code = "import training.data.pool, petastorm; print(petastorm.make_batch_reader.__module__)"
    assert python(code) == "petastorm.reader"


@pytest.mark.skipif(OLD_ARROW, reason="with this pyarrow the whole package imports")
def test_the_whole_package_fails_after_it_as_it_fails_before() -> None:
    assert python(
        "import training.data.pool\ntry: import petastorm\nexcept ImportError as e: print(e.name)"
    ).startswith("pyarrow")
