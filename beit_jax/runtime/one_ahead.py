"""Overlaps what the host does with what devices compute."""

from collections.abc import Iterable, Iterator
from typing import Any


def one_ahead(items: Iterable[Any]) -> Iterator[Any]:
    """The items, each yielded when the one after it has been started: the host works while the devices compute."""
    items = iter(items)
    for current in items:
        for following in items:
            yield current
            current = following
        yield current
