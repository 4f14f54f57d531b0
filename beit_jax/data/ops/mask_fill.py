"""Masks that hide exactly as many patches as they should."""

import tensorflow as tf

from beit_jax.data.ops import random_draws


def fill_masks(masks: tf.Tensor, seeds: tf.Tensor, num_masked: int, first: int = 0) -> tf.Tensor:
    """Masks bool `[b, h, w]` with random patches added, all choices equally likely, until each has `num_masked`.

    Args:
      masks: with `num_masked` patches or fewer.
      seeds: integers `[b, 2]`, from which the choice follows.
      num_masked: patches of each mask.
      first: position of the first random number, see `random_draws.random_words`.
    """
    shape = tf.shape(masks)
    flat = tf.reshape(masks, [shape[0], -1])
    positions = first + tf.range(tf.shape(flat)[1], dtype=tf.int64)
    order = tf.bitcast(random_draws.random_words(random_draws.keys(seeds)[:, None], positions[None]), tf.int64)
    rank = tf.argsort(tf.argsort(tf.where(flat, tf.int64.min, order)))  # those that are masked come first
    return tf.reshape(rank < num_masked, shape)
