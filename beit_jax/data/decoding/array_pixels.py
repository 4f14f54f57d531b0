"""Which arrays are images, and what they are once they are decoded. Nothing else decides this.

TensorFlow is imported only to decode: arrays are checked before it is loaded.
"""

from typing import TYPE_CHECKING

import numpy as np

from beit_jax.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

GREY, COLOURS = 1, 3


def check_pixels(dtype: np.dtype, channels: int) -> None:
    """
    Raises:
      UserError: arrays of that type, or with so many channels, are not read.
    """
    if dtype != np.uint8:
        raise UserError(f"found images of type {dtype}; expected uint8, with levels from 0 to 255")
    if channels not in (GREY, COLOURS):
        raise UserError(f"found images with {channels} channels, the last axis; expected 3 (red, green, blue) or 1")


def decode_pixels(pixels: "tf.Tensor") -> "tf.Tensor":
    """uint8 `[h, w, 3]`, as files are decoded, from an array `[h, w, c]` that `check_pixels` takes."""
    import tensorflow as tf

    return tf.repeat(pixels, COLOURS, axis=-1) if pixels.shape[-1] == GREY else pixels
