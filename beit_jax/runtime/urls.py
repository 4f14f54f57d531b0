"""URLs among the paths that users give: those of buckets, and others, which are refused."""

import os

from beit_jax.errors import UserError

BUCKET = "gs://"


def is_bucket(path: str | os.PathLike) -> bool:
    """Whether a path leads into a bucket."""
    return os.fspath(path).startswith(BUCKET)


def is_url(path: str | os.PathLike) -> bool:
    """Whether a path is a URL: of a bucket, or of something that is not supported."""
    return "://" in os.fspath(path)


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
