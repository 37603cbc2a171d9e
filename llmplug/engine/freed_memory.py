"""Memory that was freed, given back to the system; an allocator keeps it for later otherwise."""

from __future__ import annotations

import ctypes


def give_back_freed() -> None:
    """Do so where the C library can, as glibc does; takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
