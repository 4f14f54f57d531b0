"""Clocks."""

import statistics
import time
from collections.abc import Callable, Sequence

WARM = 2  # calls that are not timed: they compile, and fill caches
Contestant = Callable[[int, int], None]  # makes the calls `first` to `first + count - 1`, and waits for the last


def in_turns(
    contestants: Sequence[Contestant], rounds: int, calls: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median seconds of a call of each, measured in turns so that a busy moment does not favour any.

    Args:
      contestants: called as `(first, count)`.
      rounds: turns of each.
      calls: in a turn, between which the device need not idle.
      clock: in seconds; `time.process_time` counts those of a processor, whatever else it does.
    """
    seconds: list[list[float]] = [[] for _ in contestants]
    for contestant in contestants:
        contestant(0, WARM)
    for turn in range(rounds):
        for contestant, taken in zip(contestants, seconds, strict=True):
            start = clock()
            contestant(turn * calls, calls)
            taken.append((clock() - start) / calls)
    return [statistics.median(taken) for taken in seconds]
