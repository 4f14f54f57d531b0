"""A fingerprint of the files of a split, by which two runs can tell whether they read the same data."""

import concurrent.futures
import hashlib
import os
from typing import Any

import tensorflow as tf

from beit_jax.data.sources import folder, layout
from beit_jax.data.sources.names import relative_name
from beit_jax.data.sources.open_source import open_builder

THREADS = 16  # that wait for a disk or a network


def fingerprint(config: Any) -> str:
    """A hash of the names and sizes of the files of `config.split` of `config.source`, in file order.

    No image is read, and the folder in which the files lie does not count.

    Args:
      config: of the input, see `pipeline`.

    Raises:
      UserError: the split cannot be read.
    """
    root = layout.path_of(config.source)
    files = _list_images(root, config.split) if root else _list_records(config)
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(repr(file).encode())
    return digest.hexdigest()


def _list_images(root: str, split: str) -> list[tuple[bytes, int]]:
    if layout.is_paired(root):
        paths = [image for image, _ in folder.list_pairs(root, split)]
    else:
        paths = folder.list_folder(root, split).paths
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        sizes = list(pool.map(_size, paths))
    return [(os.fsencode(relative_name(path, root)), size) for path, size in zip(paths, sizes, strict=True)]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1  # training replaces what it cannot read


def _list_records(config: Any) -> list[tuple[str, int, int, int]]:
    builder = open_builder(config.source, config.data_dir)
    return [
        (os.path.basename(file.filename), tf.io.gfile.stat(file.filename).length, file.skip, file.take)
        for file in builder.info.splits[config.split].file_instructions
    ]
