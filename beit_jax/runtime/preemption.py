"""SIGTERM: a run that is told to stop saves at a step that all of its processes agree on, and ends with status 0.

A process is in one of two phases. While there is nothing to lose (data preparation, restoring, compilation, reports)
the signal ends it at once, from a thread of its own: the main thread may be deep inside the compiler. Between `hold`
and `release` it goes on until its next `poll`, and `poll` says yes at the same call in every process: the threads tell
each other how often it was called and take the call after the last of them. Where one process has nothing to lose yet,
none can have made a step without it, and all end at once.
"""

import os
import select
import signal
import threading
from typing import Any

from beit_jax.runtime import distributed

KEYS = f"{distributed.KEYS}/stop"
LOOK_S = 1.0  # between two looks for a signal that another process got
ANSWER_S = 60  # for the threads of all processes to answer
AGAIN = "run the same command again to continue"
NEVER = float("inf")

_change = threading.Condition()
_calls = -1  # of `poll` since `hold`; -1: nothing to lose
_stop_at = NEVER  # the call of `poll` that says yes
_agreeing = False


class Stopping(SystemExit):
    """Raised to leave something long, such as an evaluation, once `poll` has said yes."""


class Stopped(SystemExit):
    """Ends a run that has saved its state; `text` says how to continue."""

    def __init__(self, text: str):
        super().__init__(0)
        self.text = text


def listen() -> None:
    """From now on SIGTERM is heeded; called once, from the main thread, before `distributed.start`."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, _heard)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reader,), name="stop", daemon=True).start()


def _heard(*_: Any) -> None:
    """What there is to do is done by the thread, which the number of the signal wakes."""


def hold() -> None:
    """From now on there is something to lose: SIGTERM waits for `poll`."""
    global _calls
    with _change:
        _change.wait_for(lambda: not _agreeing)
        _calls = 0


def release() -> None:
    """From now on there is nothing to lose: SIGTERM ends the process at once."""
    global _calls
    with _change:
        _change.wait_for(lambda: not _agreeing)
        _calls = -1


def check() -> None:
    """Ends a process whose stage came to its end before the step that was agreed on; called between two stages."""
    if _stop_at < NEVER:
        raise Stopped(f"stopped by SIGTERM between two stages; {AGAIN}")


def say(text: str) -> None:
    """Prints once for all processes."""
    if distributed.is_main():
        print(text, flush=True)


def poll() -> bool:
    """Whether to stop here. Every process must call it equally often between `hold` and `release`."""
    global _calls
    with _change:
        _change.wait_for(lambda: not _agreeing)
        if _calls < 0:
            return False
        _calls += 1
        return _calls >= _stop_at


def _wait(reader: int) -> None:
    """The thread: waits for the signal, here or in another process."""
    while True:
        ready, _, _ = select.select([reader], [], [], LOOK_S)
        here = bool(ready) and signal.SIGTERM in os.read(reader, 64)
        if here or _asked():
            try:
                _settle()
            except Exception as error:  # of the service: another process does not answer
                distributed.leave(1, f"no agreement on where to stop: {str(error).splitlines()[0]}")
            return


def _asked() -> bool:
    """Whether another process got the signal."""
    try:
        return bool(distributed.look(KEYS))
    except Exception:
        return False  # the service is gone


def _settle() -> None:
    """Agrees with the other processes on the call of `poll` that stops them, or ends this one with them."""
    global _agreeing, _stop_at
    with _change:
        _agreeing, calls = True, _calls
    everyone = _tell(calls)
    if min(everyone) < 0:
        say(f"stopped by SIGTERM before there was anything to save; {AGAIN}")
        distributed.leave(0)
    with _change:
        _agreeing, _stop_at = False, max(everyone) + 1
        _change.notify_all()


def _tell(calls: int) -> list[int]:
    """This process's number of calls for all others, and theirs for it."""
    if distributed.count() == 1:
        return [calls]
    service = distributed.client()
    service.key_value_set(f"{KEYS}/{distributed.index()}", str(calls))
    keys = [f"{KEYS}/{process}" for process in range(distributed.count())]
    return [int(service.blocking_key_value_get(key, ANSWER_S * 1000)) for key in keys]
