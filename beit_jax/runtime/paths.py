"""Paths that users give: of files and folders of this machine, and of objects in a bucket (`gs://BUCKET/NAME`)."""

import os
from pathlib import Path

from beit_jax.errors import UserError

BUCKET = "gs://"


def is_bucket(path: str | os.PathLike) -> bool:
    """Whether a path leads into a bucket."""
    return os.fspath(path).startswith(BUCKET)


def is_url(path: str | os.PathLike) -> bool:
    """Whether a path is a URL: of a bucket, or of something that is not supported."""
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike) -> Path:
    """The object that opens, lists and writes what a path leads to.

    Args:
      path: of this machine, with `~` for the home folder (shells leave it alone behind `=`), or `gs://BUCKET/...`.

    Returns:
      A `Path`, or an object with the same methods for a path in a bucket.

    Raises:
      UserError: the path is another URL, names no bucket, or what buckets need is not installed.
    """
    text = os.fspath(path)
    if not is_url(text):
        return Path(text).expanduser()
    check_url(text)
    from beit_jax.runtime.bucket_path import BucketPath

    return BucketPath(text)


def local_path(path: str | os.PathLike) -> Path:
    """As `as_path`, for libraries that open files of this machine: what lies in a bucket is copied, once.

    Raises:
      UserError: see `as_path`.
      FileNotFoundError: there is nothing at that path of a bucket.
    """
    found = as_path(path)
    if not is_bucket(found):
        return found
    from beit_jax.runtime.bucket_path import local_copy

    return local_copy(found)


def check_url(path: str) -> None:
    """Checks the form of a URL, without a library.

    Raises:
      UserError: it is not one of a bucket of Google Cloud Storage.
    """
    name = path.removeprefix(BUCKET).partition("/")[0]
    if not path.startswith(BUCKET):
        raise UserError(f"{path} is a URL; expected a folder, or a path in a bucket: gs://BUCKET/NAME")
    if not name:
        raise UserError(f"{path} names no bucket; expected gs://BUCKET/NAME")
