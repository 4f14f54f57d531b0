"""Pixels that are not opaque: they are laid on a background, as viewers show them."""

from typing import Any

import tensorflow as tf

from beit_jax.data.decoding.file_bytes import part, read_bytes, split_once, starts_with
from beit_jax.data.large_images import in_parts
from beit_jax.errors import UserError

Background = tuple[int, int, int] | None  # red, green and blue; None: transparency is dropped
WHITE = 255
PNG_KIND, WITH_ALPHA = 25, (4, 6)  # where the header of a PNG file has its kind of pixels, and the kinds with alpha
WEBP_FLAGS = {b"VP8L": 24, b"VP8X": 20}  # where a WebP file tells of alpha
WEBP_ALPHA = 0x10


def parse_background(op: str, background: Any) -> Background:
    """The argument `background` of an op: a grey level, (red, green, blue), or None.

    Raises:
      UserError: it is something else.
    """
    levels = (background,) * 3 if isinstance(background, int) else background
    if levels is None:
        return None
    is_colour = isinstance(levels, tuple | list) and len(levels) == 3
    if is_colour and all(type(level) is int and 0 <= level <= 255 for level in levels):
        return tuple(levels)
    raise UserError(
        f"{op}: found the background {background!r}; expected a level from 0 to 255, (red, green, blue), or None to "
        "drop transparency"
    )


def has_alpha(encoded: tf.Tensor) -> tf.Tensor:
    """Whether a PNG or WebP file has pixels that may not be opaque, a scalar bool; False for all other bytes."""
    header, webp_kind = read_bytes(encoded, 0, PNG_KIND + 1), part(encoded, 12, 4)
    webp = [(webp_kind == kind) & (header[flags] & WEBP_ALPHA > 0) for kind, flags in WEBP_FLAGS.items()]
    before_pixels, _ = split_once(encoded, b"IDAT")
    _, transparent_colours = split_once(before_pixels, b"tRNS")
    png = [header[PNG_KIND] == kind for kind in WITH_ALPHA] + [transparent_colours != b""]
    is_webp, is_png = starts_with(encoded, b"RIFF"), starts_with(encoded, b"\x89PNG")
    return (is_webp & tf.reduce_any(webp)) | (is_png & tf.reduce_any(png))


def lay_on(background: Background, image: tf.Tensor) -> tf.Tensor:
    """uint8 `[h, w, 3]` from `[h, w, 4]`, whose last channel is alpha; without a background alpha is dropped.

    Levels are those of Pillow's `alpha_composite`: (alpha * level + (255 - alpha) * background) / 255, rounded.
    """
    if background is None:
        return image[..., :3]

    def blend(pixels: tf.Tensor) -> tf.Tensor:
        levels, alpha = tf.cast(pixels[..., :3], tf.int32), tf.cast(pixels[..., 3:], tf.int32)
        mixed = alpha * levels + (255 - alpha) * tf.constant(background) + 128
        return tf.cast((mixed // 256 + mixed) // 256, tf.uint8)

    return in_parts(blend, image)
