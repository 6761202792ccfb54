"""Freed memory is kept: blocks that a step frees cost the next one no fresh pages."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource
from training.data.memory import reuse_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [bytearray(size) for size in (2**23, 2**23, 2**26)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
reuse_memory()
faults()
print(before, faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_costs_no_pages_again() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 20 * 2**14, "64 MB are 16,384 pages, and allocating them again cost none: the test shows nothing"
    assert after < before / 50
