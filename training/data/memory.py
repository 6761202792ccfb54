"""Keeping freed memory for what is needed next: fresh pages cost more than most of what is done with them.

A page that the kernel hands out costs up to 4 us for 4 KB (on virtual machines; it is zeroed, and mapped twice), and a
training step's tensors and a row group's columns are freed and allocated again a few times a second.
"""

from __future__ import annotations

import ctypes

import pyarrow as pa

_ARROW_KEEPS_MS = 300
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_KEPT_BYTES = 2**31 - 1  # the most that mallopt takes


def reuse_memory() -> None:
    """Have this process keep freed memory: Arrow for 0.3 s, glibc's malloc what lies below its highest block and 2 GB.

    Both would give much of it back at once: glibc maps each block of 32 MB or more anew, and a matrix of scores is one
    in each step. Does nothing where Arrow's pool is not jemalloc, or the C library not glibc.
    """
    if pa.default_memory_pool().backend_name == "jemalloc":
        pa.jemalloc_set_decay_ms(_ARROW_KEEPS_MS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
