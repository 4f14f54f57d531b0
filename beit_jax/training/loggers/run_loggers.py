"""The loggers of one run together: what they get, and how long their end may take."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from beit_jax.training.loggers.background import BackgroundLogger, Item
from beit_jax.training.loggers.logger import Status

CLOSE_S = 60.0  # that the end of a run waits for all services together
STOPPED_S = 10.0  # the same after a signal, which a scheduler may follow up with a kill

Opener = Callable[[Sequence[Mapping[str, Any]]], list[BackgroundLogger]]


class RunLoggers:
    """The loggers of a run, as a context: they end with it, and are told how it has ended."""

    def __init__(self, opener: Opener = lambda past: []) -> None:
        """
        Args:
          opener: gives the loggers, from the lines that the run has written before.
        """
        self._opener, self._running = opener, []

    def open(self, past: Sequence[Mapping[str, Any]]) -> None:
        """Opens the loggers."""
        self._running = self._opener(past)

    def submit(self, item: Item) -> None:
        """Hands over something to log to each of them; returns at once."""
        for logger in self._running:
            logger.submit(item)

    def close(self, status: Status = Status.FINISHED) -> None:
        """Ends all logs; warns of lines that are not in them in time."""
        end = time.monotonic() + (STOPPED_S if status is Status.STOPPED else CLOSE_S)
        for logger in self._running:
            logger.end(status)
        for logger in self._running:
            logger.wait(end)
        self._running = []

    def __enter__(self) -> "RunLoggers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        is_stop = kind is not None and issubclass(kind, SystemExit | KeyboardInterrupt)  # of a signal
        self.close(Status.STOPPED if is_stop else Status.FINISHED if kind is None else Status.FAILED)
