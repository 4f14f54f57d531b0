"""Folders and files that hold images, of this machine or in a bucket, as listings look at them.

The objects of a bucket are listed once (`runtime.bucket_listing`): what is asked here afterwards needs no request.
"""

import contextlib
import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from beit_jax.runtime.paths import as_path
from beit_jax.runtime.urls import is_bucket


class Entry(NamedTuple):
    """An object or a folder of a bucket, with the methods of `os.DirEntry`."""

    name: str
    path: str
    is_folder: bool

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self.is_folder

    def is_file(self) -> bool:
        """Whether it is an object."""
        return not self.is_folder

    def is_symlink(self) -> bool:
        """False: there are no links."""
        return False


def scan(folder: str) -> contextlib.AbstractContextManager[Iterable[os.DirEntry | Entry]]:
    """What lies in a folder, as `os.scandir` has it.

    Raises:
      OSError: the folder cannot be read.
      UserError: the bucket cannot be read.
    """
    if not is_bucket(folder):
        return os.scandir(folder)
    from beit_jax.runtime.bucket_listing import find_folder

    if (found := find_folder(folder)) is None:
        raise FileNotFoundError(f"{folder} does not exist")
    names = [(name, True) for name in found.folders] + [(name, False) for name in found.files]
    return contextlib.nullcontext(Entry(name, f"{folder.rstrip('/')}/{name}", is_folder) for name, is_folder in names)


def walk(top: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders, the names of the folders in each, and those of its files, as `os.walk` has them.

    Raises:
      UserError: the bucket cannot be read.
    """
    if not is_bucket(top):
        yield from os.walk(top)
        return
    from beit_jax.runtime.bucket_listing import find_folder

    pending = [top.rstrip("/")]
    while pending:
        folder = pending.pop()
        if found := find_folder(folder):
            folders = list(found.folders)
            yield folder, folders, list(found.files)
            pending += [f"{folder}/{name}" for name in folders]


def path_at(path: str | os.PathLike) -> Path:
    """The object that names what lies below a path; `~` is a name like others."""
    return as_path(path) if is_bucket(path) else Path(path)


def is_folder(path: str | os.PathLike) -> bool:
    """Whether there is a folder.

    Raises:
      UserError: the bucket cannot be read.
    """
    if not is_bucket(path):
        return os.path.isdir(path)
    from beit_jax.runtime.bucket_listing import find_folder

    return find_folder(os.fspath(path)) is not None


def exists(path: str | os.PathLike) -> bool:
    """Whether there is a file or a folder.

    Raises:
      UserError: the bucket cannot be read.
    """
    if not is_bucket(path):
        return os.path.exists(path)
    from beit_jax.runtime.bucket_listing import is_object

    return is_folder(path) or is_object(os.fspath(path))


def is_file(path: str) -> bool:
    """Whether there is a file.

    Raises:
      UserError: the bucket cannot be read.
    """
    return exists(path) and not is_folder(path)


def is_link(path: str) -> bool:
    """Whether a path is a symbolic link."""
    return not is_bucket(path) and os.path.islink(path)


def real_path(path: str) -> str:
    """The path without links."""
    return path if is_bucket(path) else os.path.realpath(path)


def identity(folder: str) -> Hashable:
    """What two paths of the same folder have in common.

    Raises:
      OSError: the folder cannot be read.
    """
    if is_bucket(folder):
        return folder
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def read_text(path: str) -> str:
    """The contents of a small file, which may not be there.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not UTF-8.
    """
    if is_bucket(path):
        from beit_jax.runtime.bucket_listing import find_object

        if find_object(path) is None:
            raise FileNotFoundError(f"{path} does not exist")
    return path_at(path).read_text(encoding="utf-8")


def file_size(path: str) -> int:
    """Bytes of a file.

    Raises:
      OSError: it cannot be read.
    """
    if not is_bucket(path):
        return os.stat(path).st_size
    from beit_jax.runtime.bucket_listing import find_object

    if (found := find_object(path)) is None:
        raise FileNotFoundError(f"{path} does not exist")
    return found.size


def stored_checksums(paths: Sequence[str]) -> list[str] | None:
    """What the store says of the contents of files in a bucket; None of files of this machine."""
    if not paths or not is_bucket(paths[0]):
        return None
    from beit_jax.runtime.bucket_listing import find_object

    return [found.crc32c if (found := find_object(path)) else "" for path in paths]


def read_files(paths: Sequence[str], most: int | None = None) -> list[bytes | None]:
    """The contents of files, all at the same time where they lie in a bucket; None of one that cannot be opened.

    Args:
      paths: all of this machine, or all in buckets.
      most: bytes that are read of each, from its start; None: all.

    Raises:
      UserError: the bucket cannot be read.
    """
    if paths and is_bucket(paths[0]):
        from beit_jax.runtime.bucket_reads import read_objects

        return read_objects(paths, most)
    return [_read(path, most) for path in paths]


def _read(path: str, most: int | None) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(-1 if most is None else most)
    except OSError:
        return None
