"""One run to a workdir.

The kernel's lock on a file ends with the process, however it dies, so that a run that was killed can be continued at
once. It does not reach other hosts on every file system: the owner also writes to the file every few seconds, and one
that another host has not written to for several times as long is dead.
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

FILE = "lock"
ALIVE_S = 5.0  # between two signs of life
SIGN_BYTES = 512


@contextlib.contextmanager
def hold(workdir: Path, alive_s: float = ALIVE_S) -> Iterator[None]:
    """Keeps other runs out of a workdir, which is made where it does not exist.

    Args:
      workdir: of the run.
      alive_s: seconds between two signs of life; a silence of four times as long is death.

    Raises:
      UserError: another run is in it.
    """
    path, new = workdir / FILE, not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error}; choose another folder") from error
    with file:
        _wait_for_death(path, alive_s)
        try:
            _sign(file)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error}; make room, and run the same command again") from error
        done = threading.Event()
        thread = threading.Thread(target=_live, args=(file, done, alive_s), name="lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            path.unlink(missing_ok=True)
            if new:
                with contextlib.suppress(OSError):
                    workdir.rmdir()  # where the run was refused before it wrote anything


def _locked(path: Path) -> TextIO:
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
            raise _refusal(path, _owner(path)) from None
        except OSError:
            return file  # a file system without locks: the signs of life remain
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # its owner has just removed it


def _wait_for_death(path: Path, alive_s: float) -> None:
    """Returns once the owner of another host has been silent for long enough."""
    owner = _owner(path)
    if owner.get("host") in (None, socket.gethostname()):
        return
    for _ in range(4):
        time.sleep(alive_s)
        if _owner(path) != owner:
            raise _refusal(path, owner)


def _refusal(path: Path, owner: dict[str, object]) -> UserError:
    return UserError(
        f"{path.parent} is in use by process {owner.get('pid', '?')} on {owner.get('host', '?')}; wait for it, stop "
        "it, or choose another --workdir"
    )


def _owner(path: Path) -> dict[str, object]:
    """What the owner wrote last; opened anew, since file systems over a network look again only then."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}


def _sign(file: TextIO) -> None:
    sign = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "alive": time.time()})
    os.pwrite(file.fileno(), sign.ljust(SIGN_BYTES).encode(), 0)  # in place: needs no room on a disk that is full
    os.fsync(file.fileno())  # other hosts see it


def _live(file: TextIO, done: threading.Event, alive_s: float) -> None:
    while not done.wait(alive_s):
        with contextlib.suppress(OSError):  # a full disk, say
            _sign(file)
