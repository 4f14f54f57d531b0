"""Arithmetic on images so large that their values of 16 or 32 bits together would take gigabytes."""

from collections.abc import Callable

import tensorflow as tf

from beit_jax.data.decoding.rare_case import rare_case

PART = 2**24  # levels that are computed at once


def in_parts(function: Callable[[tf.Tensor], tf.Tensor], levels: tf.Tensor) -> tf.Tensor:
    """`function(levels)`, uint8 `[n, ...]`, where each row depends on the same row of uint8 levels `[n, ...]` alone.

    The rows of a large image are computed part by part.
    """

    @rare_case
    def by_part(levels: tf.Tensor) -> tf.Tensor:
        n = tf.shape(levels)[0]
        rows = tf.maximum(PART // (tf.size(levels) // n), 1)
        parts = tf.TensorArray(tf.uint8, (n + rows - 1) // rows, infer_shape=False)
        shapes = []  # of what the function gives, as far as it is known while the graph is made

        def step(index: tf.Tensor, parts: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            part = function(levels[index * rows : (index + 1) * rows])
            shapes.append([None, *part.shape[1:]])
            return index + 1, parts.write(index, part)

        ended = tf.while_loop(lambda index, _: index * rows < n, step, (0, parts), parallel_iterations=1)
        return tf.ensure_shape(ended[1].concat(), shapes[0])

    return tf.cond(tf.size(levels) <= PART, lambda: function(levels), lambda: by_part(levels))
