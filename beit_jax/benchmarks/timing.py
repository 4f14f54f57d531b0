"""Clocks."""

import statistics
import time
from collections.abc import Callable, Sequence

WARMUP_CALLS = 2  # that are not timed: they compile, and fill caches
Timed = Callable[[int, int], None]  # makes the calls `first` to `first + count - 1`, and waits for the last


def time_alternately(
    timed: Sequence[Timed], rounds: int, calls: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median seconds of a call of each, measured alternately so that a busy moment does not favour any.

    Args:
      timed: called as `(first, count)`.
      rounds: measurements of each.
      calls: in a measurement, between which the device need not idle.
      clock: in seconds; `time.process_time` counts those of this process alone, whatever else runs.
    """
    seconds: list[list[float]] = [[] for _ in timed]
    for call in timed:
        call(0, WARMUP_CALLS)
    for index in range(rounds):
        for call, measured in zip(timed, seconds, strict=True):
            start = clock()
            call(index * calls, calls)
            measured.append((clock() - start) / calls)
    return [statistics.median(measured) for measured in seconds]
