"""Mean and standard deviation of the pixels of a data set, one image in memory at a time."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from beit_jax.data import preprocessing
from beit_jax.data.batching import map_examples, plain_graph
from beit_jax.data.decoding.assertions import readable_errors
from beit_jax.data.features import FAULT, ID, SEED, Features
from beit_jax.data.op_chain import arguments_of, call, join_chain, name_of, split_chain
from beit_jax.data.ops.crop import decode_view
from beit_jax.data.ops.image import unit_range
from beit_jax.data.sources.open_source import open_source
from beit_jax.data.sources.source import Shard
from beit_jax.errors import UserError, printable


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
    program = preprocessing.build_program(_decoding(config.ops))
    zero = tf.constant(0, tf.int64)

    def read(*raw: Any) -> Features:
        return {**source.record(raw if len(raw) > 1 else raw[0]), SEED: tf.zeros([2], tf.int64)}

    def example(features: Features, seed: tf.Tensor) -> Features:
        features = program.example(features, seed)
        pixels = tf.cast(unit_range(features["image"]), tf.float64)
        sums = [tf.reduce_sum(values, axis=[0, 1]) for values in (pixels, pixels**2)]
        size = tf.cast(tf.reduce_prod(tf.shape(pixels)[:2]), tf.float64)
        return {"sums": tf.stack(sums), "pixels": size, FAULT: features[FAULT], ID: features[ID]}

    dataset = map_examples(source.raw(None, zero, zero, Shard()), program._replace(example=plain_graph(example)), read)
    total, pixels, unreadable = 0.0, 0.0, []
    with readable_errors():
        for found in dataset.as_numpy_iterator():
            progress(1)
            if found[FAULT]:
                unreadable.append(b"%s: %s" % (found[ID], found[FAULT]))
            else:
                total, pixels = total + found["sums"], pixels + found["pixels"]
    if not pixels:
        raise UserError(f"no image of {config.split!r} of {config.source} can be read; expected one or more")
    if unreadable:
        logging.getLogger("beit_jax").warning(
            "%d images cannot be read, and do not count; the first: %s",
            *(len(unreadable), printable(unreadable[0].decode("utf-8", "backslashreplace"))),
        )
    mean, square = total / pixels
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    if not np.all(std > 0):
        constant = int(np.flatnonzero(std <= 0)[0]) + 1
        raise UserError(f"channel {constant} has the same value in every pixel; leave it out of the images")
    return mean, std


def _decoding(ops: str) -> str:
    """The op that decodes a whole image as a chain does."""
    first = preprocessing.ops_on_examples(ops)[0]
    (node,) = split_chain(first)
    if name_of(node) != "decode_view":
        return first
    given = arguments_of(node, tuple(inspect.signature(decode_view).parameters))
    return join_chain(
        [call("decode", {name: given[name] for name in ("background", "exif_transpose") if name in given})]
    )
