"""The progress bar of commands that take hours."""

import sys
import threading

from tqdm import tqdm

LOG_EVERY_S = 60  # between two lines of progress in a log file


def bar(total: int, done: int, unit: str = "images") -> tqdm:
    """A bar of `total` units, of which some were done before; a line a minute where nobody looks on."""
    pause = 0.5 if sys.stderr.isatty() else LOG_EVERY_S
    tqdm.set_lock(threading.RLock())  # its own is one between processes, which has to be cleared away after a kill
    return tqdm(total=total, initial=done, unit=f" {unit}", mininterval=pause, smoothing=0.05)
