"""Runs a logger in a thread of its own, so that no service can end or slow a training."""

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from beit_jax.runtime.optional_writes import OptionalWrites
from beit_jax.training.loggers.error_text import describe
from beit_jax.training.loggers.logger import LoggedRun, Logger, Status
from beit_jax.training.loggers.saved_state import FILE, Saved, read_state, write_state

EVALUATION = "eval/"  # prefix of the numbers of an evaluation, which are the last ones of a step
RETRY_S = 60.0  # between two attempts after a failure
PENDING = 10_000  # lines that wait for a service, beside those of before the start; older ones are left out
ATTEMPTS = 5  # after which the numbers of a step may be the cause of a failure, and not the service
PROBES = 4  # items that may fail in a row before it is the service
WORDS = {"log_scalars": "numbers", "log_pictures": "pictures", "log_tables": "tables"}


class Item(NamedTuple):
    """Something to log: the method of `Logger`, and its arguments."""

    method: str
    step: int
    values: Mapping[str, Any]


class BackgroundLogger:
    """One logger in its thread.

    The numbers of a step are sent together, when the step is complete: at its evaluation, or at the first number of a
    later step. `loggers.json` holds the last step that was sent. After a kill, lines of `metrics.jsonl` that were not
    sent are sent, and steps that are repeated are not sent a second time: they have the same numbers.

    A service that fails gets everything later. What fails while later numbers succeed is itself the cause: it is left
    out, with a warning. For pictures and tables this is tried at once, for numbers after `ATTEMPTS` attempts.
    """

    def __init__(
        self, name: str, make: Callable[[], Logger], run: LoggedRun, past: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """
        Args:
          name: of the logger.
          make: makes it.
          run: that is logged.
          past: the lines that the run has written before.
        """
        self._name, self._run = name, run
        self._inbox: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._pending: deque[Item] = deque()
        self._limit, self._left_out = PENDING + len(past), 0
        self._held: Item | None = None  # the numbers of a step that may get more
        self._started, self._failing, self._failures, self._status = False, False, 0, Status.FINISHED
        saved = read_state(run.folder).get(name, Saved())
        self._saved = saved if saved.project == run.project else Saved()  # another project gets a log of its own
        self._id, self._sent = self._saved.id, self._saved.step
        self._settled, self._settling = self._sent, deque()  # the last step that a kill leaves; later ones, with times
        self._state = OptionalWrites(str(run.folder / FILE))
        for line in past:
            self._take(Item("log_scalars", line["step"], {key: line[key] for key in line if key != "step"}))
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        try:
            self._logger = make()
            self._logger.load()
        except (Exception, SystemExit) as error:
            _warn("cannot log to %s (%s); the run goes on without it", name, describe(error))
            return
        self._thread.start()

    def submit(self, item: Item) -> None:
        """Hands over something to log; returns at once."""
        if self._thread.is_alive():
            self._inbox.put(item)

    def end(self, status: Status) -> None:
        """Asks for the end of the log, after everything that was handed over; returns at once."""
        self._status = status
        self._inbox.put(None)

    def wait(self, end: float) -> None:
        """Waits for the end of the log until a time of `time.monotonic`, and warns of lines that are not in it."""
        if self._thread.ident is None:  # the library could not be loaded, which was told
            return
        self._thread.join(max(0.0, end - time.monotonic()))
        waiting = [*self._pending.copy(), *([] if self._status is Status.STOPPED else [self._held])]
        with contextlib.suppress(queue.Empty):
            while True:  # of a thread that still waits for the service
                waiting.append(self._inbox.get_nowait())
        steps = {item.step for item in waiting if item and item.method == "log_scalars" and item.step > self._sent}
        if missing := self._left_out + len(steps):
            message = "%s has not taken the lines of %d steps; metrics.jsonl has them, and a continued run sends them"
            _warn(message, self._name, missing)

    def _work(self) -> None:
        retry_at, closing = 0.0, False
        while True:
            if closing or time.monotonic() >= retry_at:
                retry_at = 0.0 if self._attempt(closing) else time.monotonic() + RETRY_S
            if closing:
                return
            closing = self._receive()

    def _receive(self) -> bool:
        """Waits for something, and takes all that there is; whether it was the end."""
        item = self._inbox.get()
        while item is not None:
            self._take(item)
            if self._inbox.empty():
                return False
            item = self._inbox.get()
        if self._held and self._status is not Status.STOPPED:  # a stopped run may add its evaluation of this step
            held, self._held = self._held, None
            self._append(held)
        return True

    def _take(self, item: Item) -> None:
        held, self._held = self._held, None
        if item.method != "log_scalars":
            self._held = held
            return self._append(item)
        if held and held.step == item.step:
            item = item._replace(values={**held.values, **item.values})
        elif held:
            self._append(held)
        if any(name.startswith(EVALUATION) for name in item.values):
            self._append(item)
        else:
            self._held = item

    def _append(self, item: Item) -> None:
        self._pending.append(item)
        if len(self._pending) > self._limit:
            if not self._left_out:
                message = "more than %d lines wait for %s; the oldest ones are left out, and metrics.jsonl has them"
                _warn(message, PENDING, self._name)
            self._left_out += self._pending.popleft().method == "log_scalars"

    def _attempt(self, closing: bool) -> bool:
        """Sends what is pending, and at the end closes the log; whether everything was sent."""
        try:
            if not self._started:
                self._start()
            self._send(closing)
        except BaseException as error:  # libraries raise SystemExit, too; a thread has nothing else to end
            if not self._failing:
                _warn("cannot log to %s (%s); the run goes on, and tries it again", self._name, describe(error))
            self._failing = True
        else:
            self._failing = False
        if closing and self._started:
            self._close()
        return not self._failing

    def _close(self) -> None:
        try:
            self._logger.close(self._status)
        except BaseException as error:
            return _warn("cannot end the log at %s (%s)", self._name, describe(error))
        self._save(closed=True)

    def _start(self) -> None:
        self._id = self._logger.start(self._run, self._saved.id)
        self._sent = self._saved.step if self._id == self._saved.id else -1
        if (last := self._logger.last_step()) is not None:
            self._sent = min(self._sent, last)
        self._settled = self._sent
        self._started = True
        self._save()

    def _send(self, closing: bool) -> None:
        doubtful: list[tuple[Item, BaseException]] = []  # they, or the service, are the cause of a failure
        try:
            while self._pending:
                try:
                    self._log(self._pending[0])
                except BaseException as error:
                    item = self._pending.popleft()
                    self._failures += not doubtful
                    doubtful.append((item, error))
                    may_be_cause = closing or item.method != "log_scalars" or self._failures >= ATTEMPTS
                    if not may_be_cause or len(doubtful) == PROBES:
                        break
                    continue
                if self._pending.popleft().method != "log_scalars":  # which may only be kept for their step
                    continue
                self._failures = 0
                for item, error in doubtful:
                    message = "%s does not take the %s of step %d (%s); they are left out"
                    _warn(message, self._name, WORDS[item.method], item.step, describe(error))
                doubtful.clear()
            if doubtful:
                raise doubtful[0][1]
        finally:
            self._pending.extendleft(item for item, _ in reversed(doubtful))
            self._save()

    def _log(self, item: Item) -> None:
        if item.step <= self._sent:
            return
        getattr(self._logger, item.method)(item.step, item.values)
        if item.method == "log_scalars":
            self._sent = item.step
            self._settling.append((time.monotonic(), item.step))

    def _save(self, closed: bool = False) -> None:
        while self._settling and (closed or time.monotonic() - self._settling[0][0] >= self._logger.settles_s):
            self._settled = self._settling.popleft()[1]
        saved = Saved(self._id, self._settled, self._run.project)
        self._state.attempt(lambda: write_state(self._run.folder, self._name, saved))


def _warn(message: str, *values: Any) -> None:
    logging.getLogger("beit_jax").warning(message, *values)
