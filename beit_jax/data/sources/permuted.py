"""What all sources with random access have in common: the order of every epoch is a full permutation."""

from typing import Self

import numpy as np
import tensorflow as tf

from beit_jax.data.sources.source import Shard


class Permuted:
    """The order of the elements of a `Source`; subclasses set `num_examples` and define `take`."""

    num_examples: int
    waiting_threads = 0

    def raw(self, seed: int | None, epoch: tf.Tensor, start: tf.Tensor, shard: Shard) -> tf.data.Dataset:
        """Positions in the split, int64; see `Source`. Shard i of n has every n-th one of the epoch's order."""
        order = tf.range(self.num_examples, dtype=tf.int64)
        if seed is None:
            first, end = shard.bounds(self.num_examples)
            return tf.data.Dataset.from_tensor_slices(order[first:end][start:])
        # A real permutation: the cheaper index_shuffle is far from even for the few labelled examples of a task.
        order = tf.random.experimental.stateless_shuffle(order, tf.stack([tf.constant(seed, tf.int64), epoch]))
        return tf.data.Dataset.from_tensor_slices(order[shard.index + start * shard.count :: shard.count])

    def sample(self, most: int) -> Self:
        """See `Source`. Evenly spread: files are often sorted by their classes."""
        return self.take(np.arange(most) * self.num_examples // most)
