"""Paths that users give: of files and folders of this machine, and of objects in a bucket (`gs://BUCKET/NAME`)."""

import os
from pathlib import Path

from beit_jax.runtime.urls import check_url, is_bucket, is_url


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
