"""Sources with random access: files of a folder, or records in memory."""

import numpy as np
import tensorflow as tf

from beit_jax.data.decoding.assertions import first_that_works
from beit_jax.data.preprocessing import Features
from beit_jax.data.sources.source import ID, Shard


class Listed:
    """Records with random access: files of a folder, or bytes in memory. Every epoch is a full permutation of them."""

    def __init__(self, images: list, labels: list[int], ids: list, num_classes: int, in_files: bool):
        self.num_examples, self.num_classes = len(images), num_classes
        self._images, self._labels = tf.constant(images), tf.constant(labels, tf.int64)
        self._ids = self._images if ids is images else tf.constant(ids)
        self._in_files = in_files

    def raw(self, seed: int | None, epoch: tf.Tensor, start: tf.Tensor, share: Shard) -> tf.data.Dataset:
        """Positions in the split, int64; see `Source`. Shard i of n is every n-th one of the epoch's order."""
        order = tf.range(self.num_examples, dtype=tf.int64)
        if seed is None:
            least, more = divmod(self.num_examples, share.count)
            first = share.index * least + min(share.index, more)
            own = order[first : first + least + (share.index < more)]
            return tf.data.Dataset.from_tensor_slices(own[start:])
        # A real permutation: the cheaper index_shuffle is far from even for the few labelled examples of a task.
        order = tf.random.experimental.stateless_shuffle(order, tf.stack([tf.constant(seed, tf.int64), epoch]))
        return tf.data.Dataset.from_tensor_slices(order[share.index + start * share.count :: share.count])

    def record(self, raw: tf.Tensor) -> Features:
        """See `Source`."""
        image = self._images[raw]
        image = read_file(image) if self._in_files else image
        return {"image": image, "label": self._labels[raw], ID: self._ids[raw]}

    def labels(self) -> np.ndarray:
        """See `Source`."""
        return self._labels.numpy()

    def take(self, positions: np.ndarray) -> "Listed":
        """See `Source`."""
        columns = [column.numpy()[positions].tolist() for column in (self._images, self._labels, self._ids)]
        return Listed(*columns, self.num_classes, self._in_files)


def read_file(path: tf.Tensor) -> tf.Tensor:
    """The bytes of a file; none, which are no image, where it cannot be opened."""
    return first_that_works(path, tf.io.read_file, lambda path: tf.constant(""))
