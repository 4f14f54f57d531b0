"""What a source of images is: undecoded records in an order that depends on (seed, epoch) alone.

A source yields raw elements (an index, or a serialized record) with `raw`, and makes features of them with `record`, so
that shuffling and skipping decode no image. Both methods are called inside a tf.data graph.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from beit_jax.data.features import Features

FILE_NAME = "file_name"  # the feature of tfds data sets that names the file of a record
MAX_STREAMS = 8


class Shard(NamedTuple):
    """One of `count` parts into which examples are split: a stream of training, or what one process evaluates."""

    index: int = 0
    count: int = 1

    def bounds(self, total: int) -> tuple[int, int]:
        """Start and end of this part of `total` examples. Sizes differ by one at most; the first parts are larger."""
        size, remainder = divmod(total, self.count)
        start = self.index * size + min(self.index, remainder)
        return start, start + size + (self.index < remainder)


def count_streams(batch_size: int, repeats: int, processes: int) -> int:
    """The number of streams into which an epoch of training is split; each fills neighbouring rows of every batch.

    Up to `MAX_STREAMS` processes divide the same streams among themselves, so that batches do not depend on the number
    of processes. If that number does not divide the streams, each process has one stream.
    """
    groups = batch_size // repeats if batch_size % repeats == 0 else 1  # all views of an image are in one batch
    streams = next(number for number in range(min(MAX_STREAMS, groups), 0, -1) if groups % number == 0)
    return processes if streams % processes else streams


class Source(Protocol):
    """Labelled images of one split: their number over all processes, and the two steps of reading them."""

    num_examples: int
    num_classes: int
    class_names: tuple[str, ...]  # empty where they have none
    waiting_threads: int  # of the input, which wait for a network and take no time of a processor

    def raw(self, seed: int | None, epoch: tf.Tensor, start: tf.Tensor, shard: Shard) -> tf.data.Dataset:
        """The raw elements of a shard of an epoch from number `start` on; contiguous in file order if `seed` is None.

        The sizes of shards differ by one element at most; the first shards are the larger ones.
        """

    def record(self, raw: Any) -> Features:
        """The features of a raw element.

        `image` holds the bytes of a file, `label` is int64 or `label_map` holds the bytes of a PNG file, and `ID` is a
        name.
        """

    def labels(self) -> np.ndarray:
        """int64 `[n]`, in file order."""

    def take(self, positions: np.ndarray) -> "Source":
        """The source of the records at these positions of the file order."""

    def sample(self, most: int) -> "Source":
        """A source of at most so many of the records, fewer than there are; always the same, chosen without reading."""
