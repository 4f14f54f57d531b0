"""Mistakes that show only in the data, told from inside a graph in one line."""

import re

import tensorflow as tf


def require(condition: tf.Tensor, *parts: str | tf.Tensor) -> tf.Operation | None:
    """Ends the input unless `condition`, a scalar bool; `parts` are the words and scalars of what is then said.

    What must not run before the check is built under `tf.control_dependencies` of the result.
    """
    words = [part if _is_text(part) else tf.strings.as_string(part) for part in parts]
    return tf.debugging.Assert(condition, [tf.strings.join(words)])


def _is_text(part: str | tf.Tensor) -> bool:
    return isinstance(part, str) or part.dtype == tf.string


def told(message: str) -> str | None:
    """What a failed `require` said, out of the message of TensorFlow's error; None for other errors."""
    found = re.search(r"assertion failed: \[(.*)\]$", message, re.MULTILINE)
    return found and found[1]
