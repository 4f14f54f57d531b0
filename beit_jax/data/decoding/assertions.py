"""Errors inside a tf.data graph: checks with a message of one line, and functions with a fallback."""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from beit_jax.errors import UserError

BLOCK = 16  # elements
_as_it_is = tf.autograph.experimental.do_not_convert  # the code has no Python that TensorFlow would need to rewrite
# In messages of TensorFlow: nodes of its graphs, and its iterators.
_INTERNALS = re.compile(r"\{\{.*?\}\} | \[Op:.*|Error in user-defined function passed to \S+ .*iterator: \S+: ")

# What a function of this package that TensorFlow called has said.
_FROM_PYTHON = re.compile(r"\b(?:UserError|BucketError): (.+)")


def require(condition: tf.Tensor, *message: str | tf.Tensor) -> tf.Operation | None:
    """Stops the input unless `condition`, a scalar bool, is true; `message` is a list of texts and scalar tensors.

    What must run after the check is built under `tf.control_dependencies` of the result.
    """
    texts = [part if _is_text(part) else tf.strings.as_string(part) for part in message]
    return tf.debugging.Assert(condition, [tf.strings.join(texts)])


def _is_text(part: str | tf.Tensor) -> bool:
    return isinstance(part, str) or part.dtype == tf.string


def assertion_message(message: str) -> str | None:
    """The message of a failed `require`, from that of TensorFlow's error; None for other errors."""
    match = re.search(r"assertion failed: \[(.*)\]$", message, re.MULTILINE)
    return match and match[1]


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turns TensorFlow's errors of an input into UserError."""
    try:
        yield
    except tf.errors.OpError as error:
        if reason := assertion_message(error.message):
            raise UserError(reason) from error
        if found := _FROM_PYTHON.search(error.message):
            raise UserError(found[1]) from error
        reason = _INTERNALS.sub("", error.message.splitlines()[0])
        raise UserError(f"the input stopped: {reason}; check the files and the ops") from error


def first_that_works(value: Any, *functions: Callable[[Any], Any]) -> Any:
    """The result of the first of several functions of `value` that does not fail; those after it are not called.

    This is the only way to catch an error inside a graph: a data set of one element, which ignores the errors of all
    functions but the last. TensorFlow prepares the functions again for each value, which for
    functions of many operations takes longer than to decode an image: see `map_with_fallback`.
    """
    *attempts, last = [tf.data.Dataset.from_tensors((value,)).map(function) for function in functions]
    attempts = [attempt.ignore_errors(log_warning=False) for attempt in attempts]
    return functools.reduce(tf.data.Dataset.concatenate, [*attempts, last]).take(1).get_single_element()


def map_with_fallback(
    dataset: tf.data.Dataset,
    function: Callable[[Any], Any],
    prepare: Callable[..., Any],
    fallback: Callable[..., Any],
) -> tf.data.Dataset:
    """`function(prepare(*element))` for every element, in parallel, or `function(fallback(*element))` if that fails.

    Errors are caught for a block of elements at once, so that the cost of catching them is paid once for each block; if
    one element of a block fails, all of them take the fallback.

    Each block is a data set inside `interleave`, which prepares `function` once for all blocks. With
    `get_single_element`, TensorFlow prepares it again for each block, one block at a time.
    """
    traced_once = tf.function(function, autograph=False)
    cores = os.cpu_count() or 1

    def results(prepare: Callable[..., Any], block: Any) -> tf.data.Dataset:
        elements = tf.data.Dataset.from_tensor_slices(block)
        return elements.map(_as_it_is(lambda *element: traced_once(prepare(*element))))

    def run_block(*block: Any) -> tf.data.Dataset:
        size = _length(block)
        without_failed = results(prepare, block).ignore_errors(log_warning=False).batch(BLOCK)
        complete = without_failed.filter(_as_it_is(lambda *batch: tf.equal(_length(batch), size)))
        return complete.concatenate(results(fallback, block).batch(BLOCK)).take(1)

    blocks = dataset.batch(BLOCK)
    return blocks.interleave(_as_it_is(run_block), cycle_length=cores, num_parallel_calls=cores).unbatch()


def _length(batch: Any) -> tf.Tensor:
    return tf.shape(tf.nest.flatten(batch)[0])[0]
