"""The progress bar of commands that take hours."""

import sys
import threading

from tqdm import tqdm

LOG_EVERY_S = 60  # between two lines of progress in a log file


def progress_bar(total: int, done: int, unit: str = "images", delay: float = 0.0) -> tqdm:
    """A bar of `total` units, of which `done` were done before, after a delay in seconds; a line a minute in a file."""
    interval = 0.5 if sys.stderr.isatty() else LOG_EVERY_S
    tqdm.set_lock(threading.RLock())  # tqdm's own lock is one between processes, which a kill leaves behind
    return tqdm(total=total, initial=done, unit=f" {unit}", mininterval=interval, smoothing=0.05, delay=delay)
