"""The source of images that are objects in a bucket: many are read at the same time."""

import os

import numpy as np
import tensorflow as tf

from beit_jax.data.features import ID, Features
from beit_jax.data.sources.listed import ListedSource
from beit_jax.data.sources.source import Shard
from beit_jax.data.sources.tree import read_files

BLOCK = 16  # images that are read by one call of Python, at the same time
BLOCKS_AHEAD = 16  # that are read before they are used, of all streams together


class FetchedSource(ListedSource):
    """A list of objects, in the order of a `ListedSource`; raw elements hold their bytes.

    Args:
      paths: of the images.
      labels: the class of each image.
      num_classes: number of classes.
      class_names: of the classes; empty: they have none.
      others: more lists of paths, whose bytes follow those of the image in raw elements.
    """

    waiting_threads = BLOCKS_AHEAD

    def __init__(
        self,
        paths: list[bytes],
        labels: list[int],
        num_classes: int,
        class_names: tuple[str, ...] = (),
        others: tuple[list[bytes], ...] = (),
    ):
        super().__init__(paths, labels, paths, num_classes, in_files=True, class_names=class_names)
        self._columns = [list(map(os.fsdecode, column)) for column in (paths, *others)]

    def raw(self, seed: int | None, epoch: tf.Tensor, start: tf.Tensor, shard: Shard) -> tf.data.Dataset:
        """See `Source`: (position in the split, bytes of the image, bytes of what belongs to it, ...)."""
        blocks = super().raw(seed, epoch, start, shard).batch(BLOCK)
        read = tf.autograph.experimental.do_not_convert(self._read_block)
        ahead = max(1, BLOCKS_AHEAD // shard.count)
        return blocks.map(read, num_parallel_calls=ahead, deterministic=True).unbatch()

    def record(self, raw: tuple[tf.Tensor, ...]) -> Features:
        """See `Source`."""
        position, image = raw[:2]
        return {"image": image, "label": self._labels[position], ID: self._ids[position]}

    def take(self, positions: np.ndarray) -> "FetchedSource":
        """See `Source`."""
        (paths, *others), labels = self._columns, self._labels.numpy()[positions].tolist()
        chosen = [[os.fsencode(column[position]) for position in positions] for column in (paths, *others)]
        return FetchedSource(chosen[0], labels, self.num_classes, self.class_names, tuple(chosen[1:]))

    def _read_block(self, block: tf.Tensor) -> tuple[tf.Tensor, ...]:
        columns = tf.numpy_function(self._read, [block], [tf.string] * len(self._columns), stateful=False)
        for column in columns:
            column.set_shape([None])
        return block, *columns

    def _read(self, block: np.ndarray) -> list[np.ndarray]:
        """The bytes of each column; none, which are no image, of an object that is gone."""
        paths = [column[position] for column in self._columns for position in block.tolist()]
        contents = np.empty(len(paths), object)
        contents[:] = [content or b"" for content in read_files(paths)]
        return np.split(contents, len(self._columns))
