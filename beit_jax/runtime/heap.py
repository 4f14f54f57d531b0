"""Gives memory that was freed back to the system, while batches are read.

Glibc keeps it, in up to eight heaps per core. Each epoch fills the shuffle window from whichever of them its threads
happen to use, so that memory grows from epoch to epoch: by a window's size within a few thousand steps.
"""

import ctypes
import sys
import time
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

PAUSE = 5.0  # seconds; it takes a few hundredths of one


def trimmed(batches: Iterator[T]) -> Iterator[T]:
    """The same batches."""
    last = time.monotonic()
    for batch in batches:
        if time.monotonic() - last > PAUSE:
            _trim()
            last = time.monotonic()
        yield batch


def _trim() -> None:
    if sys.platform == "linux":  # and there only in glibc
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)
