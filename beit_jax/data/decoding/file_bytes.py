"""The bytes of a file inside a graph. These functions never fail, whatever the file holds and however short it is."""

import tensorflow as tf


def part(encoded: tf.Tensor, start: int | tf.Tensor, count: int) -> tf.Tensor:
    """The bytes from `start` on, a scalar string: `count` of them, or fewer where the file ends."""
    return tf.strings.substr(encoded, tf.minimum(start, tf.strings.length(encoded)), count)


def read_bytes(encoded: tf.Tensor, start: int | tf.Tensor, count: int) -> tf.Tensor:
    """int32 `[count]` from `start` on; 0 behind the end of the file."""
    return tf.cast(tf.io.decode_raw(part(encoded, start, count), tf.uint8, fixed_length=count), tf.int32)


def starts_with(encoded: tf.Tensor, signature: bytes) -> tf.Tensor:
    """Whether the first bytes are these, a scalar bool."""
    return tf.strings.substr(encoded, 0, len(signature)) == signature


def split_once(encoded: tf.Tensor, separator: tf.Tensor | bytes) -> tuple[tf.Tensor, tf.Tensor]:
    """What is before and behind the first separator; the second is empty if there is none."""
    parts = tf.raw_ops.StringSplitV2(input=[encoded], sep=separator, maxsplit=1).values
    parts = tf.concat([parts, [b""]], 0)
    return parts[0], parts[1]


def replace_bytes(encoded: tf.Tensor, start: int | tf.Tensor, new: bytes) -> tf.Tensor:
    """The file with other bytes from `start` on."""
    return tf.strings.join([tf.strings.substr(encoded, 0, start), new, part(encoded, start + len(new), -1)])
