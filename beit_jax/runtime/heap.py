"""Returns freed memory to the system while batches are read.

Glibc keeps freed memory, in up to eight heaps per core. Each epoch fills the shuffle window from the heaps that its
threads happen to use, so that memory grows from epoch to epoch: by a window's size within a few thousand steps.
"""

import ctypes
import sys
import time
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

TRIM_EVERY_S = 5.0  # one call takes a few hundredths of a second


def trim_heap(batches: Iterator[T]) -> Iterator[T]:
    """Yields the same batches, and trims the heap every few seconds."""
    last = time.monotonic()
    for batch in batches:
        if time.monotonic() - last > TRIM_EVERY_S:
            _trim()
            last = time.monotonic()
        yield batch


def _trim() -> None:
    if sys.platform == "linux":  # only glibc has this function
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)
