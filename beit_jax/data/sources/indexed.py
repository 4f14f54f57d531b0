"""The source of a user's own data set (`data_sets`): examples that are read one by one, by their positions."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from beit_jax.data.features import ARRAY, ID, Features
from beit_jax.data.sources.arrays import ALIGNMENT
from beit_jax.data.sources.examples import ArrayImages, Examples
from beit_jax.data.sources.permuted import Permuted


class IndexedSource(Permuted):
    """Examples of a split, in the order in which they are stored."""

    def __init__(self, examples: Examples, read: Callable[[tf.Tensor], Features] | None = None):
        self._examples, self._read = examples, read or open_images(examples.images)
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
        return IndexedSource(self._examples._replace(chosen=self._examples.positions[positions]), self._read)


def open_images(images: ArrayImages) -> Callable[[tf.Tensor], Features]:
    """A function that reads the image at a position, in a graph: the features `image` or `ARRAY`, and `ID`."""
    return _array_reader(images)


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
