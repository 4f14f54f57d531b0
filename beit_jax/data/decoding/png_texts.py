"""Texts of PNG files that are or may be compressed: TensorFlow keeps up to 1000 of them, each of up to 8 MB."""

import tensorflow as tf

from beit_jax.data.decoding.file_bytes import starts_with

MOST_TEXTS = 50  # a file has a few
NAMES = b"zTXt", b"iTXt"


def count_texts(encoded: tf.Tensor) -> tf.Tensor:
    """How many such texts a PNG file has, int32; 0 for other files."""

    def count() -> tf.Tensor:
        parts = [tf.raw_ops.StringSplitV2(input=[encoded], sep=name, maxsplit=-1).values for name in NAMES]
        return tf.add_n([tf.size(each) - 1 for each in parts])

    return tf.cond(starts_with(encoded, b"\x89PNG"), count, lambda: 0)
