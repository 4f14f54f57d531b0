"""Mean and standard deviation of the pixels of a data set, one image in memory at a time."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from beit_jax.data import preprocessing
from beit_jax.data.batching import map_examples, plain_graph
from beit_jax.data.decoding.assertions import readable_errors
from beit_jax.data.features import FAULT, SEED, Features
from beit_jax.data.ops.image import unit_range
from beit_jax.data.sources.open_source import open_source
from beit_jax.data.sources.source import Shard
from beit_jax.errors import UserError


def count(config: Any) -> int:
    """Images of the training split of a section `data`.

    Raises:
      UserError: the split cannot be read.
    """
    return open_source(config.source, config.data_dir, config.split, shuffle_buffer=1).num_examples


def measure(config: Any, progress: Callable[[int], Any] = lambda images: None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel, float64 `[c]`, of pixels as the op `decode` makes them, in [0, 1].

    Args:
      config: the section `data` of a config with numbers for the names in its ops.
      progress: is called with the number of images that were read.

    Raises:
      UserError: the split cannot be read, or has no readable image.
    """
    source = open_source(config.source, config.data_dir, config.split, shuffle_buffer=1)
    program = preprocessing.build_program(preprocessing.ops_on_examples(_decoding(config.ops))[0])
    zero = tf.constant(0, tf.int64)

    def read(raw: Any) -> Features:
        return {**source.record(raw), SEED: tf.zeros([2], tf.int64)}

    def example(features: Features, seed: tf.Tensor) -> Features:
        features = program.example(features, seed)
        pixels = tf.cast(unit_range(features["image"]), tf.float64)
        sums = [tf.reduce_sum(values, axis=[0, 1]) for values in (pixels, pixels**2)]
        size = tf.cast(tf.reduce_prod(tf.shape(pixels)[:2]), tf.float64)
        return {"sums": tf.stack(sums), "pixels": size, FAULT: features[FAULT]}

    dataset = map_examples(source.raw(None, zero, zero, Shard()), program._replace(example=plain_graph(example)), read)
    total, pixels = 0.0, 0.0
    with readable_errors():
        for found in dataset.as_numpy_iterator():
            progress(1)
            if not found[FAULT]:
                total, pixels = total + found["sums"], pixels + found["pixels"]
    if not pixels:
        raise UserError(f"no image of {config.split!r} of {config.source} can be read; expected one or more")
    mean, square = total / pixels
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    if not np.all(std > 0):
        constant = int(np.flatnonzero(std <= 0)[0]) + 1
        raise UserError(f"channel {constant} has the same value in every pixel; leave it out of the images")
    return mean, std


def _decoding(ops: str) -> str:
    return re.sub(r"^\s*decode_view\b(\([^()]*\))?", "decode", ops)
