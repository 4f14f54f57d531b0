"""Notices that another process of the run is gone: killed, stopped, or on a host that cannot be reached.

Each process counts up a number of its own in the coordination service, from a thread: compiling, saving and waiting for
a disk do not delay it. A process whose number stays the same for too long is silent. One that is alive but stuck in a
step is not: the watchdog reports it.
"""

import itertools
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

SIGN_S = 1.0  # between two signs
SILENCE_S = 100.0  # after which a process is taken for dead
UNANSWERED_S = 5.0  # of the service, after which its process is the silent one


class Others:
    """The other processes of a run: what they last said, and for how long each has been silent."""

    def __init__(self, service: Any, folder: str, this: int, count: int):
        """
        Args:
          service: the client of the coordination service, which process 0 runs.
          folder: of the run in the service.
          this: the index of this process.
          count: how many processes there are.
        """
        self._service, self._folder, self._this = service, folder, this
        self._signs: dict[int, str] = {}
        self._silent = {process: 0.0 for process in range(count) if process != this}
        self._unanswered = 0.0
        self._lock, self._done = threading.Lock(), threading.Event()

    def watch(self, failed: Callable[[str], None], silent: Callable[[int, float], None]) -> None:
        """Starts the threads.

        Args:
          failed: called with what another process posted to `failed` in the folder.
          silent: called with the index of a process and for how many seconds it has been silent.
        """
        for name, target, argument in (
            ("other processes", self._exchange, failed),
            ("silent processes", self._measure, silent),
        ):
            threading.Thread(target=target, args=(argument,), name=name, daemon=True).start()

    def stop(self) -> None:
        """Ends the threads; returns when none of them talks to the service any more."""
        with self._lock:
            self._done.set()

    def host(self, process: int) -> str:
        """The host of a process, as it said itself; empty where it never did."""
        return self._signs.get(process, "").partition(" ")[2]

    def longest_silent(self) -> tuple[int, float]:
        """The process that has been silent for longest, and for how many seconds.

        While the service does not answer, nobody is heard: process 0, which runs it, is the silent one.
        """
        silent = dict(self._silent)
        process = 0 if self._unanswered > UNANSWERED_S and 0 in silent else max(silent, key=silent.__getitem__)
        return process, silent[process]

    def _exchange(self, failed: Callable[[str], None]) -> None:
        """Gives this process's sign, and reads those of the others; hangs where the service does not answer."""
        for number in itertools.count():
            with self._lock:
                if self._done.is_set():
                    return
                try:
                    sign = f"{number} {socket.gethostname()}"
                    self._service.key_value_set(f"{self._folder}/alive/{self._this}", sign, allow_overwrite=True)
                    signs, failures = self._read("alive"), self._read("failed")
                except Exception:
                    return  # the service is gone: `lost_service` reports it, or `_measure`
            self._unanswered = 0.0
            for process in self._silent:
                if signs.get(process) != self._signs.get(process):
                    self._silent[process] = 0.0
            self._signs = signs
            for process in self._silent.keys() & failures.keys():
                failed(failures[process])
            time.sleep(SIGN_S)

    def _read(self, name: str) -> dict[int, str]:
        values = self._service.key_value_dir_get(f"{self._folder}/{name}")
        return {int(key.rpartition("/")[2]): value for key, value in values}

    def _measure(self, silent: Callable[[int, float], None]) -> None:
        """Counts the seconds; those in which this process was stopped itself do not count."""
        last = time.monotonic()
        while not self._done.wait(SIGN_S):
            now = time.monotonic()
            passed, last = min(now - last, 2 * SIGN_S), now
            self._unanswered += passed
            for process in self._silent:
                self._silent[process] += passed
            process, seconds = self.longest_silent()
            if seconds > SILENCE_S:
                silent(process, seconds)
