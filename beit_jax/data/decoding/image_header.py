"""The size of an image by the header of its file: known before memory is taken for its pixels."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

MAX_PIXELS = 2**28 // 3  # a quarter of a GiB once decoded; above it Pillow warns of decompression bombs
HEADER = 30  # bytes


class _Format(NamedTuple):
    """Where a kind of file has its name and its sides; `height` and `width` are places of bytes, lowest one first."""

    name: bytes
    place: int
    height: tuple[int, ...]
    width: tuple[int, ...]
    bits: int  # of each side
    unused: int = 0  # bits below those of the height
    more: int = 0  # what a side is larger than its number


FORMATS = (
    _Format(b"\x89PNG", 0, (23, 22, 21, 20), (19, 18, 17, 16), 32),
    _Format(b"GIF8", 0, (8, 9), (6, 7), 16),
    _Format(b"VP8 ", 12, (28, 29), (26, 27), 14),  # WebP is of three kinds
    _Format(b"VP8L", 12, (22, 23, 24), (21, 22), 14, unused=6, more=1),
    _Format(b"VP8X", 12, (27, 28, 29), (24, 25, 26), 24, more=1),
)


def _names() -> np.ndarray:
    """int64 `[formats, HEADER]`: the bytes that tell a format, and -1 for all others."""
    table = np.full((len(FORMATS), HEADER), -1, np.int64)
    for row, kind in zip(table, FORMATS, strict=True):
        row[kind.place : kind.place + len(kind.name)] = list(kind.name)
    return table


def _places() -> np.ndarray:
    """int64 `[formats, 2, HEADER]`: what a byte counts in height and width."""
    table = np.zeros((len(FORMATS), 2, HEADER), np.int64)
    for sides, kind in zip(table, FORMATS, strict=True):
        for side, places in zip(sides, (kind.height, kind.width), strict=True):
            side[list(places)] = 256 ** np.arange(len(places))
    return table


_NAMES, _PLACES = _names(), _places()
_UNUSED = np.array([(2**kind.unused, 1) for kind in FORMATS])
_LIMITS = np.array([[2**kind.bits] for kind in FORMATS])
_MORE = np.array([[kind.more] for kind in FORMATS])


def size(encoded: tf.Tensor) -> tf.Tensor:
    """int64 `[2]`, height and width, of a JPEG, PNG, GIF (its canvas) or WebP file; 0 x 0 for all other bytes.

    Among those are BMP files, which are as long as their pixels if they can be read. Fails for a JPEG file whose header
    cannot be read.
    """
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.int64),
        lambda: _in_header(encoded),
    )


def _in_header(encoded: tf.Tensor) -> tf.Tensor:
    header = tf.io.decode_raw(tf.strings.substr(encoded, 0, HEADER), tf.uint8, fixed_length=HEADER)
    header = tf.cast(header, tf.int64)
    named = tf.reduce_all((header == _NAMES) | (_NAMES < 0), axis=1)
    sides = tf.reduce_sum(header * _PLACES, axis=-1) // _UNUSED % _LIMITS + _MORE
    return tf.reduce_sum(tf.where(named[:, None], sides, 0), axis=0)
