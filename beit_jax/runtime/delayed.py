"""Calls a function if something takes long."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def called_after(seconds: float, function: Callable[..., Any], *arguments: Any) -> Iterator[None]:
    """Calls `function(*arguments)` from a thread if the block takes longer than `seconds`."""
    timer = threading.Timer(seconds, function, arguments)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
