"""A command asks for the images of a folder many times: within a block, each folder is listed once."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

P, R = ParamSpec("P"), TypeVar("R")

_blocks: list[dict] = []  # results of the open blocks; the first one is that of the outermost block


@contextlib.contextmanager
def listed_once() -> Iterator[None]:
    """In this block, listings are kept; what changes in a folder is seen after it."""
    _blocks.append({})
    try:
        yield
    finally:
        _blocks.pop()


def kept(function: Callable[P, R]) -> Callable[P, R]:
    """A function of hashable arguments, whose results are kept within `listed_once`; callers leave them unchanged."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _blocks:
            return function(*args, **kwargs)
        key = function, args, tuple(sorted(kwargs.items()))
        if key not in _blocks[0]:
            _blocks[0][key] = function(*args, **kwargs)
        return _blocks[0][key]

    return call
