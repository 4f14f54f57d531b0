"""The source of a user's own data set (`data_sets`): examples that are read one by one, by their positions."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from beit_jax.data.features import ARRAY, ID, Features
from beit_jax.data.sources.arrays import ALIGNMENT
from beit_jax.data.sources.encoded import EncodedImages
from beit_jax.data.sources.examples import ArrayImages, Examples
from beit_jax.data.sources.permuted import Permuted
from beit_jax.data.sources.source import Shard

BLOCK = 16  # images that are read by one call of Python


class IndexedSource(Permuted):
    """Examples of a split, in the order in which they are stored."""

    def __init__(self, examples: Examples, read: Callable[[tf.Tensor], Features] | None = None):
        self._examples, self._read = examples, read or _array_reader(examples.images)
        self.num_examples, self.num_classes = len(examples.positions), examples.num_classes
        self.class_names = examples.class_names
        self._labels = tf.constant(examples.chosen_labels, tf.int64)
        self._positions = tf.constant(examples.positions, tf.int64)

    def record(self, raw: tf.Tensor) -> Features:
        """See `Source`; `ARRAY` holds the pixels in place of `image` where they are no files."""
        return {**self._read(self._positions[raw]), "label": self._labels[raw]}

    def labels(self) -> np.ndarray:
        """See `Source`."""
        return self._labels.numpy()

    def take(self, positions: np.ndarray) -> "IndexedSource":
        """See `Source`."""
        return type(self)(self._examples._replace(chosen=self._examples.positions[positions]), self._read)


class EncodedSource(IndexedSource):
    """Examples whose images are files, or parts of large files.

    Raw elements hold the bytes. TensorFlow's only op for a part of a file is a data set, which takes milliseconds to
    open; one call of Python for a block of images takes about 0.05 ms for each of them.
    """

    def __init__(self, examples: Examples, read: Any = None):
        super().__init__(examples, read or examples.images)

    def raw(self, seed: int | None, epoch: tf.Tensor, start: tf.Tensor, shard: Shard) -> tf.data.Dataset:
        """See `Source`: (position in the split, bytes, name)."""
        return (
            super()
            .raw(seed, epoch, start, shard)
            .batch(BLOCK)
            .map(tf.autograph.experimental.do_not_convert(self._read_block))
            .unbatch()
        )

    def record(self, raw: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> Features:
        """See `Source`."""
        position, image, name = raw
        return {"image": image, "label": self._labels[position], ID: name}

    def _read_block(self, block: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        positions = tf.gather(self._positions, block)
        columns = tf.numpy_function(self._bytes_and_names, [positions], [tf.string, tf.string], stateful=False)
        for column in columns:
            column.set_shape([None])
        return block, *columns

    def _bytes_and_names(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [(self._read.read(index), os.fsencode(self._read.name(index))) for index in positions.tolist()]
        columns = np.empty((2, len(found)), object)
        columns[:] = list(zip(*found, strict=True))
        return columns[0], columns[1]


def open_examples(examples: Examples) -> IndexedSource:
    """The source of a split of a user's own data set."""
    return (EncodedSource if isinstance(examples.images, EncodedImages) else IndexedSource)(examples)


def _array_reader(images: ArrayImages) -> Callable[[tf.Tensor], Features]:
    # TensorFlow reads the array where it is, also a memory map: no copy of it, and no Python for each example.
    # It stops the process if the array is not aligned; those of `npz` and `npy` are.
    array = images.load()
    assert not array.ctypes.data % ALIGNMENT
    pixels = tf.experimental.dlpack.from_dlpack(array.__dlpack__())

    def read(position: tf.Tensor) -> Features:
        name = tf.strings.join([images.name, "[", tf.strings.as_string(position), "]"])
        return {ARRAY: pixels[position], ID: name}

    return read
