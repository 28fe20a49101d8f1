"""Gives memory back that a start has used and freed."""

import ctypes
import gc


def trim() -> None:
    """Returns free memory to the kernel: glibc keeps what the loading of a model has freed. Does
    nothing with another C library."""
    gc.collect()
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
