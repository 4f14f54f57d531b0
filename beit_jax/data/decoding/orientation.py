"""The EXIF orientation of an image: how a viewer turns the pixels that are stored in a file."""

import tensorflow as tf

from beit_jax.data.decoding.file_bytes import part, split_once, starts_with
from beit_jax.data.decoding.rare_case import rare_case

WINDOW = 2**16  # bytes at the start of a JPEG file in which EXIF data is looked for; the standard puts it first
PLAIN, TABLE = b"\xff\xd8\xff\xe0\0\x10", b"\xff\xdb"  # a JFIF header with a table behind it: there is no EXIF data
ENTRY = 12  # bytes
# The entry of the orientation in EXIF data, without the value: tag 0x0112, type 3 (16 bits), one value.
LITTLE_ENDIAN = [0x12, 0x01, 3, 0, 1, 0, 0, 0]
BIG_ENDIAN = [0x01, 0x12, 0, 3, 0, 0, 0, 1]
# For orientations 0 to 8: which exchange the axes of the stored pixels, and which then reverse rows or columns.
TRANSPOSED = [False, False, False, False, False, True, True, True, True]
REVERSED = [
    [False, False, False, True, True, False, False, True, True],  # the order of the rows
    [False, False, True, True, False, False, True, True, False],  # the order of the columns
]


def read_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """int32 from 1 (nothing to turn) to 8, from the bytes of a JPEG, PNG or WebP file; 1 for all other bytes.

    Damaged EXIF data is ignored, and so are orientations in XMP and in the text of PNG files, which Pillow reads.
    """
    return tf.cond(tf.io.is_jpeg(encoded), lambda: read_jpeg_orientation(encoded), lambda: _read_other(encoded))


def read_jpeg_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """`read_orientation` of a JPEG file."""
    head = tf.strings.substr(encoded, 0, len(PLAIN) + 16)
    is_plain = starts_with(head, PLAIN) & (tf.strings.substr(head, -2, 2) == TABLE)
    return tf.cond(is_plain, lambda: 1, lambda: _search_jpeg(encoded))


@rare_case
def _search_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    before, exif = split_once(tf.strings.substr(encoded, 0, WINDOW), b"Exif\0\0")
    is_exif = part(before, tf.maximum(tf.strings.length(before) - 4, 0), 2) == b"\xff\xe1"
    return tf.cond(is_exif & (exif != b""), lambda: _orientation_in(exif), lambda: 1)


@rare_case
def _read_other(encoded: tf.Tensor) -> tf.Tensor:
    is_png, is_webp = starts_with(encoded, b"\x89PNG"), starts_with(encoded, b"RIFF")

    def search() -> tf.Tensor:
        _, exif = split_once(encoded, tf.where(is_png, b"eXIf", b"EXIF"))
        exif = part(exif, tf.where(is_webp, 4, 0), WINDOW)  # in WebP files its length is in front of it
        exif = tf.strings.regex_replace(exif, r"^(Exif\x00\x00){1,2}", "", replace_global=False)
        return tf.cond(exif != b"", lambda: _orientation_in(exif), lambda: 1)

    return tf.cond(is_png | is_webp, search, lambda: 1)


@rare_case
def _orientation_in(exif: tf.Tensor) -> tf.Tensor:
    """From EXIF data, which is a TIFF file whose first directory has the orientation among its entries."""
    data = tf.io.decode_raw(tf.strings.substr(exif, 0, WINDOW), tf.uint8)
    is_little = starts_with(exif, b"II*\0")
    size = tf.size(data, tf.int64)
    data = tf.concat([data, tf.zeros([ENTRY], tf.uint8)], 0)

    def number(start: tf.Tensor | int, count: int) -> tf.Tensor:
        start = tf.minimum(tf.cast(start, tf.int64), size)
        digits = tf.cast(data[start : start + count], tf.int64)
        weights = tf.constant([256**index for index in range(count)], tf.int64)
        return tf.reduce_sum(digits * tf.where(is_little, weights, weights[::-1]))

    start = number(4, 4)
    first = tf.minimum(start + 2, size)
    entries = tf.minimum(number(start, 2), (size - first) // ENTRY)
    table = tf.reshape(data[first : first + entries * ENTRY], [-1, ENTRY])
    wanted = tf.where(is_little, tf.constant(LITTLE_ENDIAN, tf.uint8), tf.constant(BIG_ENDIAN, tf.uint8))
    is_wanted = tf.reduce_all(table[:, :8] == wanted, axis=1) & (is_little | starts_with(exif, b"MM\0*"))
    values = tf.cast(tf.boolean_mask(table[:, 8:10], is_wanted), tf.int32)
    values = tf.reduce_sum(values * tf.where(is_little, [1, 256], [256, 1]), axis=1)
    value = tf.concat([[1], values], 0)[-1]
    return tf.where((value >= 1) & (value <= 8), value, 1)


def exchanges_axes(orientation: tf.Tensor) -> tf.Tensor:
    """Whether rows become columns, a scalar bool."""
    return tf.constant(TRANSPOSED)[orientation]


def turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Stored pixels `[h, w, c]` as they are to be seen, `[h, w, c]` or `[w, h, c]`, as in Pillow's `exif_transpose`."""

    turned = tf.cond(orientation == 1, lambda: image, lambda: _turn(image, orientation))
    return tf.ensure_shape(turned, [None, None, image.shape[-1]])


@rare_case
def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    seen = tf.cond(exchanges_axes(orientation), lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    axes = tf.where(tf.constant(REVERSED)[:, orientation])[:, 0]
    return tf.reverse(seen, tf.cast(axes, tf.int32))


def turned_size(size: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """int `[2]`, height and width as they are to be seen, from those that are stored."""
    return tf.where(exchanges_axes(orientation), size[::-1], size)


def stored_box(box: tf.Tensor, size: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Where a box (int32 top, left, height, width) of the turned image lies in the pixels that are stored.

    Args:
      box: of the turned image.
      size: int32 `[2]`, height and width of the stored pixels.
      orientation: of the file.
    """
    corner, sides = box[:2], box[2:]
    is_reversed = tf.constant(REVERSED)[:, orientation]
    corner = tf.where(is_reversed, turned_size(size, orientation) - corner - sides, corner)
    return tf.concat([turned_size(corner, orientation), turned_size(sides, orientation)], 0)
