"""A source whose classes have other numbers: those of a model that is evaluated on it, or that goes on learning."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from beit_jax.data.features import Features
from beit_jax.data.sources.source import Shard, Source


class ModelClasses(NamedTuple):
    """Which number a model gives to each class of a source (empty: its own), and how many classes the model has."""

    numbers: tuple[int, ...] = ()
    num_classes: int = 0


OWN_CLASSES = ModelClasses()


def renumbered(source: Source, classes: ModelClasses) -> Source:
    """The source with the numbers of a model."""
    return RenumberedSource(source, *classes) if classes.numbers else source


class RenumberedSource:
    """The records of a source, with other labels.

    Args:
      source: with labels.
      numbers: the new number of each class.
      num_classes: how many classes there are then.
    """

    def __init__(self, source: Source, numbers: Sequence[int], num_classes: int):
        self._source, self._numbers = source, np.array([*numbers, -1], np.int64)  # the last is that of label -1
        self.num_examples, self.num_classes, self.class_names = source.num_examples, num_classes, ()
        self.waiting_threads = source.waiting_threads

    def raw(self, seed: int | None, epoch: tf.Tensor, start: tf.Tensor, shard: Shard) -> tf.data.Dataset:
        """See `Source`."""
        return self._source.raw(seed, epoch, start, shard)

    def record(self, raw: Any) -> Features:
        """See `Source`."""
        record, numbers = self._source.record(raw), tf.constant(self._numbers)
        label = tf.cast(record["label"], tf.int64)
        return {**record, "label": numbers[tf.where(label < 0, tf.size(numbers, tf.int64) - 1, label)]}

    def labels(self) -> np.ndarray:
        """See `Source`."""
        return self._numbers[self._source.labels()]

    def take(self, positions: np.ndarray) -> "RenumberedSource":
        """See `Source`."""
        return RenumberedSource(self._source.take(positions), self._numbers[:-1].tolist(), self.num_classes)

    def sample(self, most: int) -> "RenumberedSource":
        """See `Source`."""
        return RenumberedSource(self._source.sample(most), self._numbers[:-1].tolist(), self.num_classes)
