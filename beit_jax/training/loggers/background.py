"""Runs a logger in a thread of its own, so that no service can end or slow a training."""

import json
import logging
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from beit_jax.runtime.atomic_write import write_text
from beit_jax.runtime.optional_writes import OptionalWrites
from beit_jax.training.loggers.logger import LoggedRun, Logger

FILE = "loggers.json"  # of a run: for each logger, the identifier of its log and the last step that is in it
EVALUATION = "eval/"  # prefix of the numbers of an evaluation, which are the last ones of a step
RETRY_S = 60.0  # between two attempts after a failure
CLOSE_S = 60.0  # that the end of a run waits for a service
PENDING = 10_000  # lines that wait for a service; older ones are left out
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)  # in names of environment variables


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
    """

    def __init__(self, name: str, logger: Logger, run: LoggedRun, past: Sequence[Mapping[str, Any]] = ()) -> None:
        """
        Args:
          name: of the logger.
          logger: that is run.
          run: that is logged.
          past: the lines that the run has written before.
        """
        self._name, self._logger, self._run = name, logger, run
        self._inbox: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._pending: deque[Item] = deque(maxlen=PENDING)
        self._held: Item | None = None  # the numbers of a step that may get more
        self._started, self._failing, self._id, self._sent = False, False, None, -1
        self._settled, self._settling = -1, deque()  # the last step that a kill leaves, and later ones with their time
        self._state = OptionalWrites(str(run.folder / FILE))
        for line in past:
            self._take(_item_of(line))
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        try:
            logger.load()
        except Exception as error:
            message = "cannot log to %s (%s); the run goes on without it"
            logging.getLogger("beit_jax").warning(message, name, describe(error))
            return
        self._thread.start()

    def submit(self, item: Item) -> None:
        """Hands over something to log; returns at once."""
        if self._thread.is_alive():
            self._inbox.put(item)

    def close(self) -> None:
        """Waits until everything is sent, `CLOSE_S` at most."""
        if not self._thread.is_alive():
            return
        self._inbox.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            message = "%s has not taken all lines after %.0f s; metrics.jsonl has them"
            logging.getLogger("beit_jax").warning(message, self._name, CLOSE_S)

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
        return True

    def _take(self, item: Item) -> None:
        held, self._held = self._held, None
        if item.method != "log_scalars":
            self._held = held
            self._pending.append(item)
            return
        if held and held.step == item.step:
            item = item._replace(values={**held.values, **item.values})
        elif held:
            self._pending.append(held)
        if any(name.startswith(EVALUATION) for name in item.values):
            self._pending.append(item)
        else:
            self._held = item

    def _attempt(self, closing: bool) -> bool:
        """Sends what is pending; whether that succeeded."""
        try:
            if not self._started:
                self._start()
            if self._pending:
                self._send()
            if closing:
                self._logger.close()
                self._save(closed=True)
        except BaseException as error:  # libraries raise SystemExit, too; a thread has nothing else to end
            if not self._failing:
                message = "cannot log to %s (%s); the run goes on, and tries it again"
                logging.getLogger("beit_jax").warning(message, self._name, describe(error))
            self._failing = True
            return False
        self._failing = False
        return True

    def _start(self) -> None:
        saved = read_state(self._run.folder).get(self._name, {})
        self._id = self._logger.start(self._run, saved.get("id"))
        self._sent = saved.get("step", -1) if self._id == saved.get("id") else -1
        if (last := self._logger.last_step()) is not None:
            self._sent = min(self._sent, last)
        self._settled = self._sent
        self._started = True
        self._save()

    def _send(self) -> None:
        try:
            while self._pending:
                item = self._pending[0]
                if item.step > self._sent:
                    getattr(self._logger, item.method)(item.step, item.values)
                    if item.method == "log_scalars":
                        self._sent = item.step
                        self._settling.append((time.monotonic(), item.step))
                self._pending.popleft()
        finally:
            self._save()

    def _save(self, closed: bool = False) -> None:
        while self._settling and (closed or time.monotonic() - self._settling[0][0] >= self._logger.settles_s):
            self._settled = self._settling.popleft()[1]

        def write() -> None:
            with _state_lock:
                state = read_state(self._run.folder) | {self._name: {"id": self._id, "step": self._settled}}
                write_text(self._run.folder / FILE, json.dumps(state, indent=1) + "\n")

        self._state.attempt(write)


_state_lock = threading.Lock()


def read_state(folder: Path) -> dict[str, dict[str, Any]]:
    """The contents of `loggers.json` of a run; empty where it is missing or damaged."""
    try:
        state = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    entries = state.items() if isinstance(state, dict) else ()
    return {
        name: entry
        for name, entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and type(entry.get("step")) is int
    }


def describe(error: BaseException) -> str:
    """An error in one line, without secrets: values of environment variables, and passwords in addresses."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) > 3:
            text = text.replace(value, f"${name}")
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)[:300]


def _item_of(line: Mapping[str, Any]) -> Item:
    return Item("log_scalars", line["step"], {name: value for name, value in line.items() if name != "step"})
