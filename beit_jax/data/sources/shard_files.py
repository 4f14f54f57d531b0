"""Whether the files of a tfds data set are those that its metadata describe; no record is read.

`shard_dataset` writes the size of each shard into `shard_sizes.json` beside them. Other data sets have no such file; of
theirs it is known that a record takes at least 16 bytes.
"""

import concurrent.futures
import json
import os
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from beit_jax.data.sources.listed_once import kept
from beit_jax.data.sources.tree import read_text
from beit_jax.errors import UserError
from beit_jax.runtime.urls import is_bucket

SIZES = "shard_sizes.json"
RECORD_OVERHEAD = 16  # bytes that a TFRecord file adds to each record: its length and two checksums
THREADS = 16  # that wait for a disk or a network


def check_files(builder: tfds.core.DatasetBuilder, found: tfds.core.SplitInfo) -> None:
    """Compares the files of a split, or of a slice of one, with the metadata of the data set.

    Raises:
      UserError: a file is missing, or is not the one that was written.
    """
    advice = f"restore it, or write the data set {builder.name} again"
    files = {os.fspath(file.filename): file.examples_in_shard for file in found.file_instructions}
    written = _read_sizes(os.fspath(builder.data_dir))
    for (path, records), size in zip(files.items(), file_sizes(tuple(files)), strict=True):
        expected = None if written is None else written.get(os.path.basename(path), {"bytes": 0, "records": 0})
        if size < 0:
            raise UserError(f"{path} is missing, or is no file; {advice}")
        if expected is None and not 0 <= records * RECORD_OVERHEAD <= size:
            raise UserError(f"{path} has {size:,} bytes, which cannot be {records:,} records; {advice}")
        if expected is not None and {"bytes": size, "records": records} != expected:
            raise UserError(
                f"{path} is not the file that was written: found {size:,} bytes for {records:,} records, expected "
                f"{expected['bytes']:,} for {expected['records']:,} ({SIZES}); {advice}"
            )


@kept
def file_sizes(paths: tuple[str, ...]) -> list[int]:
    """Bytes of each file; -1 if there is none."""
    if paths and is_bucket(paths[0]):
        from beit_jax.runtime.bucket_listing import find_object

        return [found.size if (found := find_object(path)) else -1 for path in paths]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_size, paths))


def _size(path: str) -> int:
    try:
        status = tf.io.gfile.stat(path)
    except tf.errors.OpError:
        return -1
    return -1 if status.is_directory else status.length


@kept
def _read_sizes(folder: str) -> dict[str, Any] | None:
    """The contents of `SIZES`; None: there is no such file."""
    path = os.path.join(folder, SIZES)
    if not (is_bucket(path) or tf.io.gfile.exists(path)):
        return None
    try:
        sizes = json.loads(read_text(path) if is_bucket(path) else tf.io.gfile.GFile(path).read())
    except FileNotFoundError:
        return None
    except (tf.errors.OpError, ValueError, RecursionError):
        sizes = None
    if not isinstance(sizes, dict) or not all(map(_is_size, sizes.values())):
        raise UserError(f"{path} is damaged; restore it, or delete it to read the shards without comparing their sizes")
    return sizes


def _is_size(value: Any) -> bool:
    return isinstance(value, dict) and {type(value.get("bytes")), type(value.get("records"))} == {int}
