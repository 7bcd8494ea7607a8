"""Freed memory is kept for the next picture: a megabyte given back and asked for anew costs more than its arithmetic."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's names for what is set."""
KEPT_BYTES = 64 << 20
"""What is kept at most of what was freed."""
LARGE_BYTES = 16 << 20
"""What is larger goes back at once."""


def keep_freed_memory() -> bool:
    """Ask the allocator of this process for it; False where it knows no such wish, and all is only slower."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(TRIM_THRESHOLD, KEPT_BYTES) and mallopt(MMAP_THRESHOLD, LARGE_BYTES))
