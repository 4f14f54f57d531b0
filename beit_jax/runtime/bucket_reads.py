"""Reads many objects of a bucket at the same time."""

import asyncio
from collections.abc import Sequence

import fsspec.asyn

from beit_jax.runtime import bucket
from beit_jax.runtime.bucket_retries import BucketError

NO_SUCH_RANGE = 416  # of HTTP


def read_objects(paths: Sequence[str], most: int | None = None) -> list[bytes | None]:
    """The contents of objects, by one request each; None where there is no such object.

    Args:
      paths: of the objects.
      most: bytes that are read of each, from its start; None: all.

    Raises:
      BucketError: the bucket cannot be read.
    """
    files = bucket.file_system()

    async def read(path: str) -> bytes | None:
        try:
            return await files._cat_file(path, end=most)
        except FileNotFoundError:
            return None
        except BucketError as error:
            if getattr(error.__cause__, "code", None) == NO_SUCH_RANGE:  # an empty object has no first byte
                return b""
            raise

    async def read_all() -> list[bytes | None]:
        return await asyncio.gather(*map(read, paths))

    # Not `cat`, to which the names of files are patterns.
    return fsspec.asyn.sync(files.loop, read_all)
