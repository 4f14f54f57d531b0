"""The lock of a workdir in a bucket: an object that is written only if it is still the one that the writer knows.

A store numbers every version of an object (its generation), and takes the number as a condition: of two that write at
once, one is refused. The owner writes the object again every few seconds. Whoever finds the object of another one waits
until it has been silent for several times as long, and then takes the lock over; if that owner was only cut off, its
next write is refused, and it ends. The lock of a process that ran on this machine and is gone is taken over at once.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beit_jax.runtime import bucket, lock_owner, membership
from beit_jax.runtime.bucket_retries import BucketError

HEARTBEAT_S = 10.0  # between two writes of the object
SILENT_HEARTBEATS = 4  # after so many the owner is dead


@contextlib.contextmanager
def lock_in_bucket(path: Path, heartbeat_s: float = HEARTBEAT_S) -> Iterator[None]:
    """Holds a lock for the time of the block.

    Args:
      path: of its object.
      heartbeat_s: seconds between two writes.

    Raises:
      UserError: another run holds it, or the bucket cannot be written.
    """
    owned = _Lock(path)
    owned.acquire(heartbeat_s)
    done = threading.Event()
    thread = threading.Thread(target=owned.keep, args=(done, heartbeat_s), name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(heartbeat_s)  # a store that does not answer is not waited for
        if not thread.is_alive():
            owned.release()


class _Lock:
    """The object, as one process knows it."""

    def __init__(self, path: Path):
        self._path, self._generation = path, 0
        self._name = {"host": socket.gethostname(), "pid": os.getpid(), "id": secrets.token_hex(8)}
        self._name |= {"machine": _machine(), "started": _started(os.getpid())}

    def acquire(self, heartbeat_s: float) -> None:
        """Writes the object.

        Raises:
          UserError: its owner lives.
        """
        owner, generation = self._read()
        if owner and not _is_gone(owner):
            silent = 0
            while silent < SILENT_HEARTBEATS:
                time.sleep(heartbeat_s)
                asked = time.monotonic()
                if self._read()[1] != generation:
                    raise lock_owner.refusal(self._path, owner)
                # A store that did not answer for long has not answered the owner either.
                silent = silent + 1 if time.monotonic() - asked < heartbeat_s else 0
        try:
            self._write(generation)
        except FileExistsError:
            raise lock_owner.refusal(self._path, self._read()[0]) from None

    def keep(self, done: threading.Event, heartbeat_s: float) -> None:
        """The thread: writes the object again. Ends the process if another one has written it, or the store is gone."""
        while not done.wait(heartbeat_s):
            try:
                self._write(self._generation)
            except FileExistsError:
                owner: dict[str, Any] = {}
                with contextlib.suppress(BucketError):
                    owner, _ = self._read()
                lock_owner.end_without_lock(self._path, owner)
            except BucketError as error:
                # tensorstore, which writes checkpoints, would try again for a quarter of an hour.
                print(f"error: {error}", file=sys.stderr)
                membership.exit_process(2, str(error))

    def release(self) -> None:
        """Deletes the object, if it is still ours."""
        with contextlib.suppress(OSError, BucketError):
            bucket.call(self._path, bucket.blob(self._path).delete, if_generation_match=self._generation)

    def _write(self, generation: int) -> None:
        """Replaces one version of the object; 0: there is none.

        Raises:
          FileExistsError: it is another version by now.
        """
        text, written = json.dumps(self._name | {"alive": time.time()}), bucket.blob(self._path)
        try:
            bucket.call(self._path, written.upload_from_string, text, if_generation_match=generation)
            self._generation = written.generation
        except FileExistsError:
            owner, found = self._read()
            if owner.get("id") != self._name["id"]:
                raise
            self._generation = found  # of our own write, whose answer was lost

    def _read(self) -> tuple[dict[str, Any], int]:
        """The owner, and the generation of the object; nothing and 0: there is none."""
        seen = bucket.blob(self._path)
        try:
            content = bucket.call(self._path, seen.download_as_bytes)
        except FileNotFoundError:
            return {}, 0
        try:
            owner = dict(json.loads(content))
        except (ValueError, TypeError, RecursionError):  # an object that no lock has written
            owner = {"host": "?"}
        return owner, int(seen.generation)


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether an owner was a process of this machine, and is none any more."""
    if not owner.get("machine") or owner["machine"] != _machine() or not isinstance(owner.get("pid"), int):
        return False
    return _started(owner["pid"]) != owner.get("started")


def _machine() -> str:
    """What a machine has until it is booted again, and its processes see in common; empty where nothing tells."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process of this machine was started, in the kernel's words; empty: there is none of that number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
