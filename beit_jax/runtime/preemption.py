"""SIGTERM and SIGHUP: the run saves at a step that all of its processes agree on, and ends with status 0.

SIGHUP comes when a terminal is closed; a run started with nohup ignores it.

A process is in one of two phases. While there is no state to save (data preparation, restoring, compilation, reports)
a signal ends it at once, from a thread of its own, because the main thread may be inside the compiler. Between
`defer_exit` and `allow_exit` it continues until `should_stop` returns True, which it does at the same call in every
process: the threads exchange how often it was called, and choose the call after the last of them. If one process has no
state to save yet, no process can have made a step without it, and all end at once.
"""

import os
import select
import signal
import sys
import threading
from typing import Any

from beit_jax.runtime import distributed, membership

KEYS = f"{distributed.KEYS}/preemption"
POLL_S = 1.0  # between two checks for a signal that another process received
ANSWER_TIMEOUT_S = 60  # for the threads of all processes to answer
HOW_TO_CONTINUE = "run the same command again to continue"
NEVER = float("inf")

SIGNALS = (signal.SIGTERM, signal.SIGHUP)

_change = threading.Condition()
_calls = -1  # of `should_stop` since `defer_exit`; -1: there is no state to save
_stop_at = NEVER  # the call of `should_stop` that returns True
_agreeing = False
_received = signal.SIGTERM  # which signal it was; where another process received it, the usual one


class PreemptionRequested(SystemExit):
    """Raised to leave a long operation, such as an evaluation, once `should_stop` has returned True."""


class Preempted(SystemExit):
    """Ends a run whose state is saved; `text` says how to continue it."""

    def __init__(self, text: str):
        super().__init__(0)
        self.text = text


def handle_signals() -> None:
    """Installs the handler of `SIGNALS`; called once, from the main thread, before `membership.start`."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGHUP
            signal.signal(number, _do_nothing)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]
    arguments = reader, terminals
    threading.Thread(target=_wait_for_signal, args=arguments, name="preemption", daemon=True).start()


def describe_signal() -> str:
    """The name of the signal that arrived."""
    return _received.name


def _do_nothing(*_: Any) -> None:
    """The thread acts instead; the number of the signal, written to the pipe, wakes it."""


def defer_exit() -> None:
    """From now on there is state to save: a signal waits for the next `should_stop`."""
    global _calls
    with _change:
        _change.wait_for(lambda: not _agreeing)
        _calls = 0


def allow_exit() -> None:
    """From now on there is no state to save: a signal ends the process at once."""
    global _calls
    with _change:
        _change.wait_for(lambda: not _agreeing)
        _calls = -1


def exit_if_preempted() -> None:
    """Ends a process whose stage was complete before the step that was agreed on; called between two stages.

    Raises:
      Preempted: a signal has arrived.
    """
    if _stop_at < NEVER:
        raise Preempted(f"stopped by {describe_signal()} between two stages; {HOW_TO_CONTINUE}")


def should_stop() -> bool:
    """Whether to save and stop here. Every process must call it equally often after `defer_exit`."""
    global _calls
    with _change:
        _change.wait_for(lambda: not _agreeing)
        if _calls < 0:
            return False
        _calls += 1
        return _calls >= _stop_at


def _wait_for_signal(reader: int, terminals: list[int]) -> None:
    """The thread: waits for a signal, in this process or in another one."""
    global _received
    while True:
        ready, _, _ = select.select([reader], [], [], POLL_S)
        numbers = os.read(reader, 64) if ready else b""
        received = [number for number in SIGNALS if number in numbers]
        if received:
            _received = received[0]
        if signal.SIGHUP in received:
            _detach(terminals)
        if received or _received_elsewhere():
            _agree_on_a_call()
            return


def _detach(terminals: list[int]) -> None:
    """Discards what is printed to a terminal that was closed: writing to it would be an error."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in terminals:
        os.dup2(null, stream)
    os.close(null)


def _received_elsewhere() -> bool:
    try:
        return bool(distributed.posted_values(KEYS))
    except Exception:
        return False  # the service is gone


def _agree_on_a_call() -> None:
    """Agrees with the other processes on the call of `should_stop` that returns True, or ends all of them."""
    global _agreeing, _stop_at
    with _change:
        _agreeing, calls = True, _calls
    calls_of_all = _exchange(calls)
    if min(calls_of_all) < 0:
        distributed.print_once(f"stopped by {describe_signal()} while there was nothing to save; {HOW_TO_CONTINUE}")
        membership.exit_process(0)
    with _change:
        _agreeing, _stop_at = False, max(calls_of_all) + 1
        _change.notify_all()


def _exchange(calls: int) -> list[int]:
    """Gives the other processes this one's number of calls, and returns those of all."""
    if distributed.process_count() == 1:
        return [calls]
    service = distributed.client()
    service.key_value_set(f"{KEYS}/{distributed.process_index()}", str(calls))
    calls_of_all = []
    for process in range(distributed.process_count()):
        try:
            text = service.blocking_key_value_get(f"{KEYS}/{process}", ANSWER_TIMEOUT_S * 1000)
        except Exception:  # of the service: a time limit
            named = f"process {distributed.describe(process)}"
            reason = f"{named} has not said for {ANSWER_TIMEOUT_S} s where to stop after {describe_signal()}"
            print(f"error: {reason}; {membership.HOW_TO_GO_ON}", file=sys.stderr)
            membership.exit_process(1, reason, without=[process])
        calls_of_all.append(int(text))
    return calls_of_all
