"""Petastorm's worker pool, entered by its folder: the package's `__init__` imports what pyarrow 16 and later lack.

That file brings Petastorm's readers in, which Millrace does not use, and with them `pyarrow.filesystem` (gone since
pyarrow 16) and `pkg_resources` (gone since setuptools 82). The pool's own files need numpy and six alone. So they are
imported with the package's folder as their parent, unchanged, and forgotten by the import system afterwards: a later
`import petastorm` behaves as ever, whether that works here or not.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PACKAGE = "petastorm"


@contextmanager
def _folder_alone() -> Iterator[None]:
    """The package without what its `__init__` does, for as long as this lasts; as it is, where it is imported."""
    if PACKAGE in sys.modules:
        yield
        return
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise ImportError(f"no package named {PACKAGE!r}; install it: pip install --no-deps petastorm==0.12.1 six")
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
            del sys.modules[name]


def _of(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"{PACKAGE}.workers_pool.{module}"), name)


with _folder_alone():
    ThreadPool: Any = _of("thread_pool", "ThreadPool")
    Ventilator: Any = _of("ventilator", "Ventilator")
    WorkerBase: Any = _of("worker_base", "WorkerBase")
