"""A path in a bucket, with the methods of `pathlib.Path` that this package uses.

A bucket has no folders: one is there while an object lies in it. Objects appear complete or not at all.
"""

import contextlib
import fnmatch
import glob
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from etils import epath
from etils.epath import backend
from etils.epath.gpath import PosixGPath

from beit_jax.runtime import bucket
from beit_jax.runtime.urls import BUCKET

INCOMPLETE = ".incomplete"  # an object in a folder whose upload has not ended


class BucketPath(PosixGPath):
    """`gs://BUCKET/NAME`."""

    @property
    def _backend(self) -> backend.Backend:
        """gcsfs; where TensorFlow is installed, etils would take its client, a connection with other retries."""
        bucket.prepare()
        return backend.fsspec_backend

    def absolute(self) -> Self:
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> Self:
        """Itself: there are no links."""
        return self

    def is_symlink(self) -> bool:
        """False."""
        return False

    def is_file(self) -> bool:
        """Whether there is an object of that name."""
        return self.name != "" and bucket.file_system().isfile(str(self))

    @property
    def parents(self) -> tuple[Self, ...]:
        """The folders that it lies in, up to the bucket."""
        found, path = [], self
        while len(path.parts) > 3:  # "/", "gs", bucket
            path = path.parent
            found.append(path)
        return tuple(found)

    def glob(self, pattern: str) -> Iterator[Self]:
        """Objects and folders below this one that match; `*` stays within a level."""
        found = bucket.file_system().glob(f"{glob.escape(str(self))}/{pattern}")
        return iter([self._new(f"{BUCKET}{name}") for name in found])

    def rglob(self, pattern: str) -> Iterator[Self]:
        """Objects at any depth whose names match."""
        return iter([self / name for name in self.objects() if fnmatch.fnmatch(name.rpartition("/")[2], pattern)])

    def objects(self) -> dict[str, dict[str, Any]]:
        """What the store says of each object at any depth (`size`, `crc32c`, ...), by its path relative to this one.

        Objects that stand for an empty folder, as Google's console makes them, are left out.
        """
        found = bucket.file_system().find(str(self), detail=True)
        start = len(str(self).removeprefix(BUCKET)) + 1
        named = {name[start:]: facts for name, facts in found.items()}
        return {name: facts for name, facts in named.items() if name and name[-1] != "/"}

    def open(self, mode: str = "r", **settings: Any) -> IO:
        """Opens an object; one that is written appears when it is closed."""
        settings.pop("buffering", None)
        return bucket.file_system().open(str(self), mode, **settings)

    def read_bytes(self) -> bytes:
        """The contents, by one request."""
        return bucket.file_system().cat_file(str(self))

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The contents as text."""
        return self.read_bytes().decode(encoding, errors)

    def write_bytes(self, data: bytes) -> int:
        """Replaces the contents."""
        bucket.file_system().pipe_file(str(self), bytes(data))
        return len(data)

    def write_text(self, text: str, encoding: str = "utf-8", errors: str = "strict") -> int:
        """Replaces the contents."""
        return self.write_bytes(text.encode(encoding, errors))

    def rmdir(self) -> None:
        """Does nothing: a folder without objects is none."""

    def rename(self, target: os.PathLike) -> Self:
        """Copies every object below this path, and deletes it then."""
        for name in self.objects():
            bucket.file_system().cp_file(f"{self}/{name}", f"{target}/{name}")
        self.rmtree()
        return self._new(target)


@contextlib.contextmanager
def uploaded(path: BucketPath) -> Iterator[Path]:
    """Yields a temporary path on this machine; what the block makes there is uploaded at its end.

    A file becomes one object. While a folder is uploaded, it has an object called `INCOMPLETE`.
    """
    with tempfile.TemporaryDirectory(prefix="beit_jax-") as folder:
        part = Path(folder, path.name)
        yield part
        if part.is_file():
            bucket.file_system().put_file(str(part), str(path))
        elif part.is_dir():
            (path / INCOMPLETE).write_bytes(b"")
            for file in sorted(file for file in part.rglob("*") if file.is_file()):
                bucket.file_system().put_file(str(file), str(path / file.relative_to(part).as_posix()))
            (path / INCOMPLETE).unlink()


def is_incomplete(path: BucketPath) -> bool:
    """Whether the upload of a folder was cut short."""
    return (path / INCOMPLETE).is_file()


_copies: dict[tuple[str, ...], tempfile.TemporaryDirectory] = {}


def local_copy(path: BucketPath, *names: str) -> Path:
    """An object, or objects of a folder, on this machine until the process ends; each is fetched once.

    Args:
      path: of the object or the folder.
      *names: of the objects in the folder; none: all of them, at any depth.

    Raises:
      FileNotFoundError: there is nothing at that path.
    """
    key = (str(path), *names)
    if key not in _copies:
        folder = tempfile.TemporaryDirectory(prefix="beit_jax-", ignore_cleanup_errors=True)
        target = Path(folder.name, path.name)
        files = bucket.file_system()
        if not names and files.isfile(str(path)):
            files.get_file(str(path), str(target))
        elif found := names or path.objects():
            for name in found:
                local = target / name
                local.parent.mkdir(parents=True, exist_ok=True)
                files.get_file(str(path / name), str(local))
        else:
            raise FileNotFoundError(f"{path} does not exist")
        _copies[key] = folder
    return Path(_copies[key].name, path.name)


epath.register_path_cls(BUCKET)(BucketPath)  # for Orbax and tfds, which make paths of texts
