"""Whether two runs read the same data: names and sizes of what a split is made of, wherever it lies."""

import concurrent.futures
import hashlib
import os
from typing import Any

import tensorflow as tf

from beit_jax.data.records.shard_plan import READERS
from beit_jax.data.sources import folder
from beit_jax.data.sources.open_source import prepared


def fingerprint(config: Any) -> str:
    """Of `config.split` of `config.source`, in file order; no image is read.

    Args:
      config: of the input, see `pipeline`.

    Raises:
      UserError: the split cannot be read.
    """
    place, is_folder = config.source.removeprefix("folder:"), config.source.startswith("folder:")
    found = _files(place, config.split) if is_folder else _records(config)
    seen = hashlib.blake2b(digest_size=16)
    for part in found:
        seen.update(repr(part).encode())
    return seen.hexdigest()


def _files(root: str, split: str) -> list[tuple]:
    paths = [image for image, _ in folder.list_pairs(root, split)] if folder.is_paired(root) else None
    paths = paths or folder.list_folder(root, split).paths
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        sizes = list(pool.map(_size, paths))
    return [(os.fsencode(folder.relative(path, root)), size) for path, size in zip(paths, sizes, strict=True)]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1  # training replaces what it cannot read


def _records(config: Any) -> list[tuple]:
    builder = prepared(config.source, config.data_dir or None)
    parts = builder.info.splits[config.split].file_instructions
    return [
        (os.path.basename(part.filename), tf.io.gfile.stat(part.filename).length, part.skip, part.take)
        for part in parts
    ]
