"""The size of an image, read from the header of its file before memory is allocated for its pixels."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from beit_jax.data.decoding.file_bytes import read_bytes

MAX_PIXELS = 2**28 // 3  # a quarter of a GiB once decoded; above it Pillow warns of decompression bombs
HEADER = 30  # bytes


class _Format(NamedTuple):
    """Where the header of a format has its name, its height and its width; all numbers but the bits are bytes."""

    name: bytes
    name_start: int
    height: tuple[int, ...]  # positions of the bytes, the least significant one first
    width: tuple[int, ...]
    bits: int  # of height and width
    bits_below_height: int = 0  # bits of something else in the lowest byte of the height
    added: int = 0  # by how much the size is larger than the number that is stored


FORMATS = (
    _Format(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 0, (23, 22, 21, 20), (19, 18, 17, 16), 32),
    _Format(b"GIF8", 0, (8, 9), (6, 7), 16),
    _Format(b"BM", 0, (22, 23, 24, 25), (18, 19, 20, 21), 32),
    _Format(b"VP8 ", 12, (28, 29), (26, 27), 14),  # WebP has three formats
    _Format(b"VP8L", 12, (22, 23, 24), (21, 22), 14, bits_below_height=6, added=1),
    _Format(b"VP8X", 12, (27, 28, 29), (24, 25, 26), 24, added=1),
)


def _name_bytes() -> np.ndarray:
    """int64 `[formats, HEADER]`: the bytes of a format's name, and -1 elsewhere."""
    table = np.full((len(FORMATS), HEADER), -1, np.int64)
    for row, kind in zip(table, FORMATS, strict=True):
        row[kind.name_start : kind.name_start + len(kind.name)] = list(kind.name)
    return table


def _byte_weights() -> np.ndarray:
    """int64 `[formats, 2, HEADER]`: the weight of each byte in height and width."""
    table = np.zeros((len(FORMATS), 2, HEADER), np.int64)
    for sides, kind in zip(table, FORMATS, strict=True):
        for side, positions in zip(sides, (kind.height, kind.width), strict=True):
            side[list(positions)] = 256 ** np.arange(len(positions))
    return table


_NAMES, _WEIGHTS = _name_bytes(), _byte_weights()
_DIVISORS = np.array([(2**kind.bits_below_height, 1) for kind in FORMATS])
_LIMITS = np.array([[2**kind.bits] for kind in FORMATS])
_ADDED = np.array([[kind.added] for kind in FORMATS])


def read_size(encoded: tf.Tensor) -> tf.Tensor:
    """int64 `[2]`, height and width, of a JPEG, PNG, BMP, GIF (its canvas) or WebP file; 0 x 0 for all other bytes.

    Fails for a JPEG file whose header cannot be read.
    """
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.int64),
        lambda: _read_header(encoded),
    )


def _read_header(encoded: tf.Tensor) -> tf.Tensor:
    header = tf.cast(read_bytes(encoded, 0, HEADER), tf.int64)
    is_format = tf.reduce_all((header == _NAMES) | (_NAMES < 0), axis=1)
    sides = tf.reduce_sum(header * _WEIGHTS, axis=-1) // _DIVISORS % _LIMITS + _ADDED
    sides = tf.minimum(sides, 2**32 - sides)  # a negative height of a BMP file says that its first row is at the top
    return tf.reduce_sum(tf.where(is_format[:, None], sides, 0), axis=0)
