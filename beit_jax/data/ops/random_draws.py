"""Random numbers for many examples at once, each from the example's own seed.

TensorFlow's stateless ops take one seed for each call, so that every example of a batch would need a call of its own.
SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) is a counter and a mixing function, nine integer operations on a tensor
of any shape.
"""

import tensorflow as tf

GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def _uint64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)


def _fold(state: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, _uint64(shift)))


def _mix(state: tf.Tensor) -> tf.Tensor:
    state = _fold(state, 30) * _uint64(0xBF58476D1CE4E5B9)
    state = _fold(state, 27) * _uint64(0x94D049BB133111EB)
    return _fold(state, 31)


def keys(seeds: tf.Tensor) -> tf.Tensor:
    """uint64 `[b]`: the state of a stream of random numbers for each row of the integer seeds `[b, 2]`."""
    first, second = tf.unstack(tf.cast(seeds, tf.uint64), num=2, axis=-1)
    return _mix(_mix(first) + second * _uint64(GOLDEN_GAMMA))


def random_words(key: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """uint64 random numbers at integer positions of the streams `key`; the two shapes are broadcast."""
    return _mix(key + (tf.cast(positions, tf.uint64) + _uint64(1)) * _uint64(GOLDEN_GAMMA))


def four_uniforms(key: tf.Tensor, block: tf.Tensor, attempts: int) -> tf.Tensor:
    """float64 `[4, b, attempts]` in [0, 1): four numbers of 32 random bits for each attempt at block number `block`.

    `key` is uint64 `[b]`, `block` a scalar int32; no two blocks share a number.
    """
    positions = block * (2 * attempts) + tf.reshape(tf.range(2 * attempts), [2, 1, attempts])
    pairs = random_words(key[:, None], positions)
    low = tf.bitwise.bitwise_and(pairs, _uint64(0xFFFFFFFF))
    high = tf.bitwise.right_shift(pairs, _uint64(32))
    return tf.cast(tf.cast(tf.concat([low, high], 0), tf.int64), tf.float64) * 2.0**-32
