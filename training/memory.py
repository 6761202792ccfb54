"""Keeping freed memory for what is needed next: fresh pages cost more than most of what is done with them.

A page that the kernel hands out costs up to 4 us for 4 KB (on virtual machines; it is zeroed, and mapped twice), and a
training step's tensors and a row group's columns are freed and allocated again a few times a second.
"""

from __future__ import annotations

import ctypes

import pyarrow as pa

_ARROW_KEEPS_MS = 300
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEPT_BYTES, _LARGEST_KEPT_BYTES = 2**30, 2**25  # 32 MB is the most that glibc takes


def reuse_memory() -> None:
    """Have this process keep freed memory: Arrow for 0.3 s; glibc's malloc up to 1 GB, of blocks below 32 MB.

    Both would give it back to the kernel at once. Does nothing where Arrow's pool is not jemalloc, or the C library not
    glibc.
    """
    if pa.default_memory_pool().backend_name == "jemalloc":
        pa.jemalloc_set_decay_ms(_ARROW_KEEPS_MS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
