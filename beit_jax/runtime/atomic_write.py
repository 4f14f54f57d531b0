"""Files and folders that appear complete or not at all, also when the process is killed or the power fails."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from beit_jax.runtime.urls import is_bucket

PART = ".part-"  # follows the name of the file in the names of temporary files; a random number follows it


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its name at the end of the block.

    The block makes a file or a folder of that path. An error removes it and leaves what was at `path`; a kill leaves it
    too, and the temporary file beside it. Each call has its own temporary path, so that two writers do not mix.

    Args:
      path: to write, also in a bucket (see `bucket_path.uploaded`); its parent folder is made where it does not exist.
        An existing file is replaced, or the one that a link leads to. An existing folder is replaced only if it is
        empty. A pipe or a device, such as /dev/stdout, is written itself.
    """
    if is_bucket(path):
        from beit_jax.runtime.bucket_path import uploaded

        with uploaded(path) as part:
            yield part
        return
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}{PART}{secrets.token_hex(4)}")
    try:
        yield part
        for inner in (*part.rglob("*"), part):
            with contextlib.suppress(OSError) if inner.is_dir() else contextlib.nullcontext():
                _sync(inner)  # some file systems cannot sync a folder
        os.replace(part, path)
        with contextlib.suppress(OSError):
            _sync(path.parent)
    except OSError as error:
        if error.filename == str(part):
            error.filename = str(path)  # the name that a user knows
        raise
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file with `atomic_write`."""
    if is_bucket(path):
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        return
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files need not be UTF-8


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file with `atomic_write`."""
    if is_bucket(path):  # an object appears whole, without a copy on this machine
        path.write_bytes(content)
        return
    with atomic_write(path) as part:
        part.write_bytes(content)


def _sync(path: Path) -> None:
    """Waits until the contents of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
