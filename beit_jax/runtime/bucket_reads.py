"""Reads many objects of a bucket at the same time."""

import asyncio
from collections.abc import Sequence

import fsspec.asyn

from beit_jax.errors import UserError
from beit_jax.runtime import bucket


def read_objects(paths: Sequence[str], most: int | None = None) -> list[bytes | None]:
    """The contents of objects, by one request each; None where there is no such object.

    Args:
      paths: of the objects.
      most: bytes that are read of each, from its start; None: all.

    Raises:
      UserError: the bucket cannot be read.
    """
    files = bucket.file_system()

    async def read(path: str) -> bytes | None:
        try:
            return await files._cat_file(path, end=most)
        except FileNotFoundError:
            return None

    async def read_all() -> list[bytes | None]:
        return await asyncio.gather(*map(read, paths))

    try:
        # Not `cat`, to which the names of files are patterns.
        return fsspec.asyn.sync(files.loop, read_all)
    except bucket.BucketError as error:
        raise UserError(str(error)) from error
