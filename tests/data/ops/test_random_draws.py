import numpy as np
import tensorflow as tf

from beit_jax.data.ops import random_draws

MASK = 2**64 - 1


def splitmix64(state):
    """The reference algorithm on Python integers: the first output of a generator in `state`."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def test_words_are_splitmix64():
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # published first output of seed 0
    key = tf.constant([0, 1234567, 2**63 + 5], tf.uint64)
    found = random_draws.random_words(key[:, None], tf.range(4)[None]).numpy()
    gamma = 0x9E3779B97F4A7C15
    for state, row in zip(key.numpy().tolist(), found.tolist(), strict=True):
        assert row == [splitmix64((state + place * gamma) & MASK) for place in range(4)]


def test_uniforms_are_uniform_and_independent():
    seeds = tf.stack([tf.fill([2000], tf.constant(3, tf.int64)), tf.range(2000, dtype=tf.int64)], 1)
    key = random_draws.keys(seeds)
    blocks = np.stack([random_draws.four_uniforms(key, tf.constant(block), 5).numpy() for block in range(3)])
    assert blocks.shape == (3, 4, 2000, 5)
    assert blocks.min() >= 0 and blocks.max() < 1
    assert len(np.unique(blocks)) > 0.9999 * blocks.size
    columns = blocks.transpose(2, 0, 1, 3).reshape(2000, -1)
    assert np.abs(columns.mean(0) - 0.5).max() < 0.03
    correlation = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlation).max() < 0.12
    neighbours = np.corrcoef(columns[:-1].ravel(), columns[1:].ravel())[0, 1]
    assert abs(neighbours) < 0.01


def test_keys_differ():
    seeds = tf.constant([[first, second] for first in range(-20, 20) for second in range(-20, 20)], tf.int64)
    assert len(set(random_draws.keys(seeds).numpy().tolist())) == 1600
