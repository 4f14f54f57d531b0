"""What a source of images is: undecoded records in an order that depends on (seed, epoch) alone.

A source hands out small raw elements (a position, or a serialized record) and reads one into features later, so that
shuffling and skipping never touch pixels. Both methods are called inside a tf.data graph.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from beit_jax.data.preprocessing import Features

ID = "_id"  # names a record in messages
FILE_NAME = "file_name"  # the feature of tfds data sets that tells where a record comes from
STREAMS = 8


class Shard(NamedTuple):
    """One of the parts into which the examples are split: a stream of training, or what a process evaluates."""

    index: int = 0
    count: int = 1


def streams(batch_size: int, repeats: int, processes: int) -> int:
    """Into how many shares an epoch of training is split, each of which fills a block of rows of every batch.

    Up to `STREAMS` processes divide the same shares among themselves, so that batches do not depend on their number.
    Where it does not divide the shares, each process has one.
    """
    groups = batch_size // repeats if batch_size % repeats == 0 else 1  # all views of an image in one batch
    shares = next(number for number in range(min(STREAMS, groups), 0, -1) if groups % number == 0)
    return processes if shares % processes else shares


class Source(Protocol):
    """Labelled images of one split: their number over all processes, and the two steps of reading them."""

    num_examples: int
    num_classes: int

    def raw(self, seed: int | None, epoch: tf.Tensor, start: tf.Tensor, share: Shard) -> tf.data.Dataset:
        """The raw elements of a share of an epoch from the `start`-th on; contiguous in file order if `seed` is None.

        Shares differ by one element at most, and the first ones are the longer ones.
        """

    def record(self, raw: Any) -> Features:
        """`image`, the bytes of a file, `label`, int64, or `label_map`, the bytes of a PNG file, and `_id`, a name."""

    def labels(self) -> np.ndarray:
        """int64 `[n]`, in file order."""

    def take(self, positions: np.ndarray) -> "Source":
        """The source of the records at these positions of the file order."""
