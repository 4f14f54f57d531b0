"""Shows where a run hangs: prints the stacks of all threads when no step completes for many times the usual time."""

import collections
import contextlib
import faulthandler
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

STALL_FACTOR = 30.0  # times the usual time of a step
MIN_LIMIT_S = 60.0  # for steps of milliseconds
FIRST_LIMIT_S = 1800.0  # before the usual time is known
KNOWN_AFTER = 5  # steps
SUSPENDED_S = 5.0  # if a pause of the thread takes so much longer, the process was suspended


class Watchdog:
    """A thread beside the training loop; it prints, and neither changes nor ends the run."""

    def __init__(
        self,
        factor: float = STALL_FACTOR,
        min_limit_s: float = MIN_LIMIT_S,
        first_limit_s: float = FIRST_LIMIT_S,
        output: TextIO | None = None,
    ):
        """
        Args:
          factor: how many times the usual (median) time of a step the limit is.
          min_limit_s: the limit is at least so many seconds.
          first_limit_s: the limit for the first steps.
          output: where the stacks are printed, a file with a descriptor; None: stderr.
        """
        self._factor, self._min_limit_s, self._first_limit_s = factor, min_limit_s, first_limit_s
        self._output = output
        self._seconds: collections.deque[float] = collections.deque(maxlen=101)
        self._last = time.monotonic()
        self._paused, self._reported = False, False
        self._done = threading.Event()

    def __enter__(self) -> "Watchdog":
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()

    def step_done(self) -> None:
        """A step has completed."""
        self._seconds.append(time.monotonic() - self._last)
        self.reset()

    def reset(self) -> None:
        """Something else has completed, such as a batch of an evaluation: starts to count seconds again."""
        self._last, self._reported = time.monotonic(), False

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """The block may take any time."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False
            self.reset()

    def limit(self) -> float:
        """Seconds without a step after which the stacks are printed."""
        if len(self._seconds) < KNOWN_AFTER:
            return self._first_limit_s
        return max(self._min_limit_s, self._factor * statistics.median(tuple(self._seconds)))

    def _watch(self) -> None:
        pause = min(self._min_limit_s, 10.0) / 4
        began = time.monotonic()
        while not self._done.wait(pause):
            began, slept = time.monotonic(), time.monotonic() - began
            if slept > pause + SUSPENDED_S:
                self.reset()
            waited, limit = time.monotonic() - self._last, self.limit()
            if waited > limit and not self._paused and not self._reported:
                self._reported = True
                output = self._output or sys.stderr
                print(f"no step has completed for {waited:.0f} s (limit {limit:.0f} s); all threads:", file=output)
                output.flush()
                faulthandler.dump_traceback(output, all_threads=True)
