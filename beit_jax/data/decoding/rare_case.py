"""Functions that most images do not need."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def rare_case(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which a graph holds as one operation and prepares when it is called for the first time.

    TensorFlow prepares the functions of the input again for every few images (see `assertions.map_with_fallback`), and
    without this all that they might call with them.
    """
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
