"""Mistakes that show only in the data: told from inside a graph in one line, or passed over inside it."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from beit_jax.errors import UserError

BLOCK = 8  # elements


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


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turns TensorFlow's errors of an input into UserError."""
    try:
        yield
    except tf.errors.OpError as error:
        reason = told(error.message)
        if reason:
            raise UserError(reason) from error
        raise UserError(f"the input stopped: {error.message.splitlines()[0]}; check the files and the ops") from error


def first_that_works(value: Any, *ways: Callable[[Any], Any]) -> Any:
    """What the first of several functions of `value` gives that does not fail; those after it are not called.

    The only way to catch an error inside a graph: a data set of one, which ignores errors, but those of the last way.
    Its functions are made ready for each value anew, which for one of many operations takes longer than to decode an
    image: see `map_in_blocks`.
    """
    *tried, last = [tf.data.Dataset.from_tensors((value,)).map(way) for way in ways]
    tried = [way.ignore_errors(log_warning=False) for way in tried]
    return functools.reduce(tf.data.Dataset.concatenate, [*tried, last]).take(1).get_single_element()


def map_in_blocks(
    dataset: tf.data.Dataset, function: Callable[[Any], Any], hope: Callable[..., Any], mend: Callable[..., Any]
) -> tf.data.Dataset:
    """`function(hope(*element))` for every element, in parallel; `function(mend(*element))` near where that fails.

    An error is caught for a block of elements at once, all of which are then mended: so what it takes to catch errors
    is spent once a block. The results of `function` are stacked.
    """
    once = tf.function(function, autograph=False)  # traced once

    def of_block(prepare: Callable[..., Any]) -> Callable[[Any], Any]:
        def run(block: Any) -> Any:
            elements = tf.data.Dataset.from_tensor_slices(block)
            return elements.map(lambda *element: once(prepare(*element))).batch(BLOCK).get_single_element()

        return run

    def tried(*block: Any) -> Any:
        return first_that_works(block, of_block(hope), of_block(mend))

    plainly = tf.autograph.experimental.do_not_convert(tried)
    return dataset.batch(BLOCK).map(plainly, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
