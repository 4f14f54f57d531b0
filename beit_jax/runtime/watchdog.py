"""Says where a run hangs: the stacks of all threads, once no step completes for a multiple of the usual time."""

import collections
import contextlib
import faulthandler
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

LEAST_S = 60.0  # steps of a millisecond are not worth an alarm after thirty
FIRST_S = 1800.0  # before the usual time is known
KNOWN = 5  # steps after which it is


class Watchdog:
    """A thread beside the training loop; it changes nothing and ends nothing."""

    def __init__(self, factor: float, least_s: float = LEAST_S, first_s: float = FIRST_S, to: TextIO | None = None):
        """
        Args:
          factor: of the usual (median) time of a step; 0: there is no watchdog.
          least_s: seconds below which nothing is an alarm.
          first_s: the limit for the first steps.
          to: where the stacks go, a file with a descriptor; None: stderr.
        """
        self._factor, self._least_s, self._first_s, self._to = factor, least_s, first_s, to
        self._seconds: collections.deque[float] = collections.deque(maxlen=101)
        self._last = time.monotonic()
        self._asleep, self._barked = False, False
        self._done = threading.Event()

    def __enter__(self) -> "Watchdog":
        if self._factor:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()

    def step(self) -> None:
        """A step has completed."""
        self._seconds.append(time.monotonic() - self._last)
        self.beat()

    def beat(self) -> None:
        """Something else has completed, such as a batch of an evaluation."""
        self._last, self._barked = time.monotonic(), False

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """What is done in here may take any time."""
        self._asleep = True
        try:
            yield
        finally:
            self._asleep = False
            self.beat()

    def limit(self) -> float:
        """Seconds without a step that are an alarm."""
        if len(self._seconds) < KNOWN:
            return self._first_s
        return max(self._least_s, self._factor * statistics.median(tuple(self._seconds)))

    def _watch(self) -> None:
        while not self._done.wait(min(self._least_s, 10.0) / 4):
            waited, limit = time.monotonic() - self._last, self.limit()
            if waited > limit and not self._asleep and not self._barked:
                self._barked = True
                to = self._to or sys.stderr
                print(f"no step has completed for {waited:.0f} s (limit {limit:.0f} s); all threads:", file=to)
                to.flush()
                faulthandler.dump_traceback(to, all_threads=True)
