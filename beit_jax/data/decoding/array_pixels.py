"""Which arrays are images, and what they are once they are decoded. Nothing else decides this.

TensorFlow is imported only to decode: arrays are checked before it is loaded.
"""

from typing import TYPE_CHECKING

import numpy as np

from beit_jax.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

GREY, COLOURS, MOST_CHANNELS = 1, 3, 1024
LARGEST = 65_535.0  # of 16 bits


def check_pixels(dtype: np.dtype, channels: int) -> None:
    """
    Raises:
      UserError: arrays of that type, or with so many channels, are not read.
    """
    if dtype not in (np.uint8, np.uint16, np.float32):
        raise UserError(f"found images of type {dtype}; expected uint8, uint16 or float32")
    if channels > MOST_CHANNELS:
        raise UserError(f"found images with {channels} channels, the last axis; expected at most {MOST_CHANNELS}")


def find_not_finite(pixels: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
    """An array, and what is wrong with it: with numbers that are not finite it is black. Empty: nothing."""
    import tensorflow as tf

    if not pixels.dtype.is_floating:
        return pixels, tf.constant("")
    is_finite = tf.reduce_all(tf.math.is_finite(pixels))
    fault = tf.where(is_finite, "", "pixels that are NaN or infinite")
    return tf.where(is_finite, pixels, tf.zeros_like(pixels)), fault


def white(dtype: np.dtype, max_value: float) -> float:
    """The number that means 1 in arrays of a type.

    That of whole numbers is `max_value`, or else their largest one, which it also is of uint8 where `max_value` is that
    of 16 bits. That of float32 is `max_value`.
    """
    if dtype == np.float32 or (max_value and (dtype != np.uint8 or max_value != LARGEST)):
        return float(max_value)
    return float(np.iinfo(dtype).max)


def decode_pixels(pixels: "tf.Tensor", channels: int = COLOURS, max_value: float = 0.0) -> "tf.Tensor":
    """Pixels `[h, w, channels]` from an array `[h, w, c]` that `check_pixels` takes.

    uint8 stays so without `max_value`; else they are float32 numbers over `white`. Grey is repeated for three channels.

    Raises:
      UserError: the array has other channels, or is float32 and nothing says which number means 1.
    """
    import tensorflow as tf

    found = pixels.shape[-1]
    if found not in (channels, GREY if channels == COLOURS else channels):
        advice = (
            "move the axis of the channels, which is the first one of an image, to the end"
            if pixels.shape[0] == channels
            else f"in training, give channels={found} to the config file, or --config.data.channels={found}"
        )
        raise UserError(f"found images with {found} channels and data.channels={channels}; expected the same: {advice}")
    if pixels.dtype == tf.float32 and not max_value:
        raise UserError(
            "found float32 images, and data.max_value does not say which number means 1; give it, such as "
            "--config.data.max_value=1.0"
        )
    if pixels.dtype != tf.uint8 or max_value:
        pixels = tf.cast(pixels, tf.float32) / white(pixels.dtype.as_numpy_dtype, max_value)
    return tf.repeat(pixels, channels, axis=-1) if found == GREY else pixels
