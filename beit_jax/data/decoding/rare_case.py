"""Functions that most images do not need."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def rare_case(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which a graph holds as one operation and prepares when it is called for the first time.

    TensorFlow goes through the operations of the input's functions again for every few images (see
    `assertions.map_with_fallback`), and without this through all that they might call.
    """
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
