"""Sources with random access: files of a folder, or the bytes of records in memory."""

import numpy as np
import tensorflow as tf

from beit_jax.data.decoding.assertions import first_that_works
from beit_jax.data.features import ID, Features
from beit_jax.data.sources.permuted import Permuted


class ListedSource(Permuted):
    """A list of images. The order of every epoch is a full permutation of it.

    Args:
      images: paths, or the bytes of files.
      labels: the class of each image.
      ids: the name of each image.
      num_classes: number of classes.
      in_files: whether `images` are paths.
      class_names: of the classes, in the order of their numbers; empty: they have none.
    """

    def __init__(
        self,
        images: list,
        labels: list[int],
        ids: list,
        num_classes: int,
        in_files: bool,
        class_names: tuple[str, ...] = (),
    ):
        self.num_examples, self.num_classes, self.class_names = len(images), num_classes, class_names
        self._images, self._labels = tf.constant(images), tf.constant(labels, tf.int64)
        self._ids = self._images if ids is images else tf.constant(ids)
        self._in_files = in_files

    def record(self, raw: tf.Tensor) -> Features:
        """See `Source`."""
        image = self._images[raw]
        image = read_file(image) if self._in_files else image
        return {"image": image, "label": self._labels[raw], ID: self._ids[raw]}

    @property
    def first_path(self) -> bytes | None:
        """Of the first image in the order of the list; None of images in memory."""
        return self._images[0].numpy() if self._in_files and self.num_examples else None

    def labels(self) -> np.ndarray:
        """See `Source`."""
        return self._labels.numpy()

    def take(self, positions: np.ndarray) -> "ListedSource":
        """See `Source`."""
        columns = [column.numpy()[positions].tolist() for column in (self._images, self._labels, self._ids)]
        return ListedSource(*columns, self.num_classes, self._in_files, self.class_names)


def read_file(path: tf.Tensor) -> tf.Tensor:
    """The bytes of a file; no bytes, which are no image, if it cannot be opened."""
    return first_that_works(path, tf.io.read_file, lambda path: tf.constant(""))
