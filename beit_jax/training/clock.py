"""The speed of a run and the time left, without the pauses for evaluation, pictures and checkpoints."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Measures training, pauses, and waiting for input between two reports."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Starts again from zero."""
        self._mark = time.perf_counter()
        self._paused = self._waited = 0.0
        self._steps = 0
        self._trained = 0.0  # seconds of training before the mark
        self._trained_steps = 0

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """The time of the block is not counted as training."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start

    @contextlib.contextmanager
    def wait(self) -> Iterator[None]:
        """The time of the block is counted as waiting for input."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - start

    def step(self) -> None:
        """A step is done."""
        self._steps += 1

    def report(self, steps_left: int) -> dict[str, float]:
        """Steps per second and fraction of waiting since the last report, and the seconds that the rest will take."""
        now = time.perf_counter()
        seconds = max(now - self._mark - self._paused, 1e-9)
        rate = self._steps / seconds
        self._trained, self._trained_steps = self._trained + seconds, self._trained_steps + self._steps
        left = steps_left * self._trained / max(self._trained_steps, 1)
        result = {"steps_per_second": rate, "input_wait": self._waited / seconds, "seconds_left": left}
        self._mark, self._paused, self._waited, self._steps = now, 0.0, 0.0, 0
        return result
