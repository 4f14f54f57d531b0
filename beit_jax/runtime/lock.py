"""The lock of a workdir, so that two runs do not write to it.

The kernel's lock on a file ends with its process, even if that is killed: a killed run can be continued at once. On
some file systems other hosts do not see that lock. So the owner also writes a heartbeat to the file every few seconds;
an owner on another host that is silent for several times as long is taken for dead. If it was only suspended, it finds
the heartbeat of its successor, and ends. No clock is compared with another: a heartbeat counts when it has changed.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from beit_jax.errors import UserError
from beit_jax.runtime.bucket_lock import lock_in_bucket
from beit_jax.runtime.lock_owner import end_without_lock, refusal
from beit_jax.runtime.urls import is_bucket

FILE = "lock"
HEARTBEAT_S = 5.0  # between two heartbeats
SILENT_HEARTBEATS = 4  # after so many the owner is dead
HEARTBEAT_BYTES = 512


@contextlib.contextmanager
def lock_workdir(workdir: Path, heartbeat_s: float = HEARTBEAT_S) -> Iterator[None]:
    """Locks a workdir for the time of the block; makes the folder where it does not exist.

    Args:
      workdir: of the run.
      heartbeat_s: seconds between two heartbeats.

    Raises:
      UserError: another run has locked it.
    """
    if is_bucket(workdir):
        with lock_in_bucket(workdir / FILE):
            yield
        return
    path, is_new = workdir / FILE, not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = _open_locked(path)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error}; choose another folder") from error
    with file:
        _wait_for_silence(path, heartbeat_s)
        name = {"host": socket.gethostname(), "pid": os.getpid()}  # the name of a host may change
        try:
            _write_heartbeat(file, name)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error}; free some space, and run the same command again"
            ) from error
        done = threading.Event()
        thread = threading.Thread(
            target=_write_heartbeats, args=(file, path, name, done, heartbeat_s), name="lock", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with contextlib.suppress(OSError):  # such as a disk that is read-only now: the error that says so is told
                path.unlink()
            if is_new:
                with contextlib.suppress(OSError):
                    workdir.rmdir()  # succeeds where the run was refused before it wrote anything


def _open_locked(path: Path) -> TextIO:
    """The file, opened and locked.

    Raises:
      UserError: another process of this host has locked it.
    """
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise refusal(path, _owner(path)) from None
        except OSError:
            return file  # a file system without locks: the heartbeats remain
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # the owner has just removed the file


def _wait_for_silence(path: Path, heartbeat_s: float) -> None:
    """Returns once an owner on another host has been silent for long enough.

    Raises:
      UserError: that owner lives.
    """
    owner = _owner(path)
    if owner.get("host") in (None, socket.gethostname()):
        return
    for _ in range(SILENT_HEARTBEATS):
        time.sleep(heartbeat_s)
        if _owner(path) != owner:
            raise refusal(path, owner)


def _owner(path: Path) -> dict[str, object]:
    """The last heartbeat. The file is opened again each time, because network file systems refresh only then."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):  # gone, or no JSON object
        return {}


def _write_heartbeat(file: TextIO, name: dict[str, object]) -> None:
    heartbeat = json.dumps(name | {"alive": time.time()})
    os.pwrite(file.fileno(), heartbeat.ljust(HEARTBEAT_BYTES).encode(), 0)  # in place: works on a full disk too
    os.fsync(file.fileno())  # so that other hosts see it


def _write_heartbeats(
    file: TextIO, path: Path, name: dict[str, object], done: threading.Event, heartbeat_s: float
) -> None:
    """The thread: writes heartbeats, and ends the process if another one has taken the workdir over."""
    while not done.wait(heartbeat_s):
        with contextlib.suppress(OSError):  # such as a full disk
            owner = _owner(path)
            if owner and not owner.items() >= name.items():
                end_without_lock(path, owner)
            _write_heartbeat(file, name)
