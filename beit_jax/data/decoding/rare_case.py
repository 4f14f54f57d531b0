"""Functions that most images do not need."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def rare_case(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which a graph holds as one operation and prepares when it is called for the first time.

    TensorFlow goes through the operations of the input's functions again for every few images (see
    `assertions.map_with_fallback`), and without this through all that they might call.

    Of the functions of a graph that are held so, one runs at a time, in the order of the code. If one failed while
    another was about to start, TensorFlow could report that the other was cancelled, and data sets do not ignore that
    as they ignore the failure.
    """

    def stateful(*arguments: Any) -> Any:
        # TensorFlow keeps the order of functions that hold an operation with a state, which a check is.
        tf.raw_ops.Assert(condition=True, data=[0])
        return function(*arguments)

    return tf.function(stateful, autograph=False, experimental_attributes={"_noinline": True})
