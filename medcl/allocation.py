"""How the process asks the system for memory."""

from __future__ import annotations

import ctypes
import sys

# Of mallopt(3), glibc.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Let the process keep freed memory for its next arrays; it is given back when the process ends.

    glibc hands every freed large array back to the system, which clears and maps each page of the next one again. A network on a CPU
    frees and asks for the same hundreds of megabytes at every layer. Elsewhere than under glibc nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
        mallopt(_ARENA_MAX, 1)  # else other threads than the first get their large arrays from the system still
