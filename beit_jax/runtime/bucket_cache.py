"""Files of buckets that are read again and again, on the disk of this machine.

A file is fetched as a whole when it is first asked for, and compared with the checksum of the store. Its name follows
from the generation of the object: one that has changed is another file. Files that were used least recently make room
for others, but not those in use: a process has a shared lock on the last files that it was given. Processes share the
folder.
"""

import base64
import collections
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import threading
from pathlib import Path

from beit_jax.errors import UserError
from beit_jax.runtime import bucket
from beit_jax.runtime.bucket_listing import StoredObject, find_object
from beit_jax.runtime.bucket_retries import BucketError
from beit_jax.runtime.cache_folder import SIZE_VARIABLE, VARIABLE, cache_folder, size_limit
from beit_jax.runtime.urls import BUCKET

FOLDER = "buckets"
IN_USE = 128  # files that a process keeps locked: more than its inputs have open or ahead
ATTEMPTS = 3  # to fetch a file whose contents arrive damaged
CHUNK = 2**22
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


class _InUse:
    """The last files that this process was given, each with the descriptor that locks it."""

    def __init__(self) -> None:
        self._lock, self._descriptors = threading.Lock(), collections.OrderedDict()

    def add(self, file: Path, descriptor: int) -> None:
        """Keeps a locked descriptor, and closes the oldest beyond `IN_USE`."""
        with self._lock:
            closed = [self._descriptors.pop(file)] if file in self._descriptors else []
            self._descriptors[file] = descriptor
            if len(self._descriptors) > IN_USE:
                closed.append(self._descriptors.popitem(last=False)[1])
        for old in closed:
            os.close(old)


_in_use = _InUse()
_fetching: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)  # by path


def check_folder() -> None:
    """Checks that files can be kept.

    Raises:
      UserError: the folder cannot be written.
    """
    folder = cache_folder() / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (probe := folder / f".write_test-{secrets.token_hex(4)}").write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise _unusable(error) from error
    size_limit(0)


def fetched(path: str) -> Path:
    """The copy of an object on this machine. Threads and processes may ask for the same at once.

    Raises:
      UserError: the object is gone or has changed since it was listed, the bucket cannot be read, or the disk is full.
    """
    if (facts := find_object(path)) is None:
        raise UserError(f"{path} does not exist; restore it")
    file = _file_of(path, facts)
    with _fetching[path]:
        while not _lock_file(file, facts):
            _fetch(path, facts, file)
    return file


def _file_of(path: str, facts: StoredObject) -> Path:
    name, _, rest = path.removeprefix(BUCKET).partition("/")
    key = hashlib.blake2b(repr((rest, facts)).encode(), digest_size=8).hexdigest()
    readable = re.sub(r"[^\w.-]", "_", rest)[-100:]
    return cache_folder() / FOLDER / name / f"{readable}-{key}"


def _lock_file(file: Path, facts: StoredObject) -> bool:
    """Whether the file is there: then it is locked, and was used last now."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable(error) from error
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    status = os.fstat(descriptor)
    if not status.st_nlink or status.st_size != facts.size:  # another process has just deleted it, or it was cut short
        with contextlib.suppress(OSError):
            file.unlink() if status.st_nlink else None
        os.close(descriptor)
        return False
    with contextlib.suppress(OSError):  # a cache that others have filled
        os.utime(file)
    _in_use.add(file, descriptor)
    return True


def _fetch(path: str, facts: StoredObject, file: Path) -> None:
    part = file.with_name(f"{file.name}.part-{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as lock:  # the lock says that its process lives, and that it is no leftover
            fcntl.flock(lock, fcntl.LOCK_SH)
            _make_room(facts.size)
            for _ in range(ATTEMPTS):
                _download(path, part)
                if _is_intact(part, facts):
                    os.replace(part, file)
                    return
            raise UserError(
                f"{path} has changed since this command began: it has not the {facts.size:,} bytes and the checksum "
                "that were listed; run the same command again"
            )
    except BucketError as error:
        if _is_refusal(error.__cause__):
            raise _unusable(error.__cause__) from error
        raise
    except OSError as error:
        raise _unusable(error) from error
    finally:
        part.unlink(missing_ok=True)


def _download(path: str, part: Path) -> None:
    files = bucket.file_system()
    try:
        # As one request; many files are fetched at the same time.
        files.get_file(path, str(part), concurrency=1)
    except FileNotFoundError as error:
        raise UserError(f"{path} was deleted since this command began; restore it") from error


def _is_intact(part: Path, facts: StoredObject) -> bool:
    import google_crc32c

    checksum, stored = google_crc32c.Checksum(), base64.b64decode(facts.crc32c)
    with open(part, "rb") as file:
        while data := file.read(CHUNK):
            checksum.update(data)
    return part.stat().st_size == facts.size and stored == checksum.digest()


def _make_room(size: int) -> None:
    """Deletes files that nobody uses, first those of killed processes, until another of `size` bytes may be there."""
    found = []
    for folder, _, names in os.walk(cache_folder() / FOLDER):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.stat(file := os.path.join(folder, name))
                found.append((".part-" not in name, status.st_mtime_ns, file, status.st_size))
    used = sum(entry[-1] for entry in found)
    limit = size_limit(used)
    for is_complete, _, file, bytes_freed in sorted(found):
        if is_complete and used + size <= limit:
            break
        if _delete_unused(file):
            used -= bytes_freed


def _delete_unused(file: str) -> bool:
    try:
        with open(file, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(file)
            return True
    except OSError:  # it is in use, or gone
        return False


def _is_refusal(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in REFUSALS


def _unusable(error: BaseException) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(
        f"files of buckets cannot be kept in {cache_folder() / FOLDER}: {reason}; set the environment variable "
        f"{VARIABLE} to a folder on a disk with room, and {SIZE_VARIABLE} to what they may take of it"
    )
