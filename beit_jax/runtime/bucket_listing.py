"""What lies in a bucket, as folders: all objects below a path are listed at once, and kept until the process ends.

A listing is one request for each 1,000 objects, one after the other. A run reads what was there when its process first
looked.
"""

import functools
import logging
import threading
from typing import Any, NamedTuple

from beit_jax.errors import UserError
from beit_jax.runtime import bucket
from beit_jax.runtime.delayed import called_after
from beit_jax.runtime.urls import BUCKET

FIELDS = "items(name,size,crc32c,generation),nextPageToken"  # an answer with everything is ten times as long
UNNAMED = ".(no name)"  # what is between two slashes that follow each other; like a hidden file, it is not read
SLOW_S = 5.0


class StoredObject(NamedTuple):
    """What the store says of an object.

    Attributes:
      size: in bytes.
      crc32c: of the contents, in base64.
      generation: another number for each version of the object.
    """

    size: int
    crc32c: str
    generation: int


class BucketFolder(NamedTuple):
    """The objects right in a folder, and the names of the folders in it."""

    files: dict[str, StoredObject]
    folders: dict[str, None]


def list_objects(path: str) -> dict[str, StoredObject]:
    """The objects at any depth below a path, by their names relative to it, as they are now.

    Raises:
      UserError: the bucket does not exist or cannot be read.
    """
    name, _, prefix = path.removeprefix(BUCKET).rstrip("/").partition("/")
    prefix = prefix and f"{prefix}/"

    def read(**settings: Any) -> dict[str, StoredObject]:
        blobs = bucket.client().list_blobs(name, prefix=prefix, fields=FIELDS, **settings)
        return {blob.name.removeprefix(prefix): StoredObject(blob.size, blob.crc32c, blob.generation) for blob in blobs}

    message = "listing the objects in %s takes long; a data set of records (docs/data.md) needs no listing"
    try:
        bucket.prepare()
        with called_after(SLOW_S, logging.getLogger("beit_jax").warning, message, path):
            return bucket.call(path, read)
    except FileNotFoundError as error:
        raise UserError(f"there is no bucket {BUCKET}{name}; correct the name") from error


def find_folder(path: str) -> BucketFolder | None:
    """What lies in a folder; None if nothing does.

    Raises:
      UserError: see `list_objects`.
    """
    path = path.rstrip("/")
    with _lock:
        roots = (root for root in _trees if path == root or path.startswith(f"{root}/"))
        if (root := next(roots, None)) is None:
            root, _trees[path] = path, _make_tree(path)
        return _trees[root].get(path)


def find_object(path: str) -> StoredObject | None:
    """What the store says of an object; None if there is none. The folder in which it lies is listed.

    Raises:
      UserError: see `list_objects`.
    """
    parent, _, name = path.rpartition("/")
    folder = find_folder(parent)
    return folder and folder.files.get(name)


@functools.cache
def is_object(path: str) -> bool:
    """Whether there is an object of that name, by a request; for a path in a folder that may be large.

    Raises:
      UserError: the bucket cannot be read.
    """
    if path.removeprefix(BUCKET).rstrip("/").count("/") < 1:
        return False
    try:
        return bool(bucket.call(path, bucket.blob(path).exists))
    except FileNotFoundError:
        return False


def forget_listings() -> None:
    """What has changed in buckets is seen after it."""
    with _lock:
        _trees.clear()
    is_object.cache_clear()


_trees: dict[str, dict[str, BucketFolder]] = {}  # by the path that was listed: all folders below it, by their paths
_lock = threading.RLock()


def _make_tree(root: str) -> dict[str, BucketFolder]:
    """The folders below a path. An object whose name ends with a slash stands for a folder, which may be empty."""
    tree: dict[str, BucketFolder] = {}

    def enter(path: str) -> BucketFolder:
        if path not in tree:
            tree[path] = BucketFolder({}, {})
            if path != root:
                parent, _, name = path.rpartition("/")
                enter(parent).folders[name] = None
        return tree[path]

    for name, facts in list_objects(root).items():
        folder, _, last = name.rpartition("/")
        folder = "/".join(part or UNNAMED for part in folder.split("/")) if folder or name != last else ""
        found = enter(f"{root}/{folder}" if folder else root)
        if last:
            found.files[last] = facts
    return tree
