"""Decodes the bytes of files to pixels. One black pixel replaces a file that cannot be read; the reason is kept."""

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from beit_jax.data.decoding import image_header
from beit_jax.data.decoding.array_pixels import decode_pixels, find_not_finite
from beit_jax.data.decoding.assertions import first_that_works, require
from beit_jax.data.decoding.bmp import decode_bmp
from beit_jax.data.decoding.channels import (
    check_channels,
    check_in_files,
    decode_channels,
    describe_channels,
    require_channels,
)
from beit_jax.data.decoding.file_bytes import starts_with
from beit_jax.data.decoding.gif import decode_gif
from beit_jax.data.decoding.jpeg import MOST_SCANS, count_scans, decode_jpeg
from beit_jax.data.decoding.label_png import decode_labels
from beit_jax.data.decoding.orientation import read_orientation, turn, turned_size
from beit_jax.data.decoding.plain_png import is_plain_png
from beit_jax.data.decoding.png_texts import MOST_TEXTS, count_texts
from beit_jax.data.decoding.rare_case import rare_case
from beit_jax.data.decoding.transparency import WHITE, Background, has_alpha, lay_on, parse_background
from beit_jax.data.features import ARRAY, FAULT, ID, LABEL_MAP, Features
from beit_jax.errors import UserError
from beit_jax.models.label_maps import IGNORE

SIGNATURES = b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"RIFF"


class Decoding(NamedTuple):
    """How files become pixels.

    Attributes:
      background: red, green and blue behind transparent pixels; None: transparency is dropped, as Pillow's
        `convert("RGB")` does.
      exif_transpose: whether images are turned as their EXIF orientation says.
      channels: of the pixels, see `decoding.channels`.
      max_value: the number in the file that means 1; 0: pixels are uint8.
    """

    background: Background = (WHITE, WHITE, WHITE)
    exif_transpose: bool = True
    channels: int = 3
    max_value: float = 0.0


def parse_decoding(
    op: str, background: Any, exif_transpose: Any, channels: int = 3, max_value: float = 0.0
) -> Decoding:
    """From the arguments of an op.

    Raises:
      UserError: one of them is wrong.
    """
    if not isinstance(exif_transpose, bool):
        raise UserError(f"{op}: found exif_transpose={exif_transpose!r}; expected True or False")
    check_channels(op, channels, max_value)
    return Decoding(parse_background(op, background), exif_transpose, channels, max_value)


RGB = Decoding()
AS_STORED = Decoding(background=None, exif_transpose=False)


def decode_image(encoded: tf.Tensor, decoding: Decoding) -> tf.Tensor:
    """`[h, w, c]` from the bytes of a file, uint8, or float32 with `decoding.max_value`; or TensorFlow's errors.

    Raises:
      UserError: no file has so many channels.
    """
    if decoding.channels == 3 and not decoding.max_value:
        return decode_rgb(encoded, decoding)
    check_in_files(decoding.channels)
    as_stored = decoding._replace(exif_transpose=False)
    with tf.control_dependencies([_require_cheap_other(encoded)]):
        numbers = decoding.channels, decoding.max_value, decoding.background
        image = decode_channels(tf.identity(encoded), *numbers, lambda encoded: decode_rgb(encoded, as_stored))
    return turn(image, read_orientation(encoded)) if decoding.exif_transpose else image


def _require_cheap_other(encoded: tf.Tensor) -> tf.Operation | None:
    """As `_require_cheap`, which is not for JPEG files: they have checks of their own."""
    is_cheap = tf.cond(tf.io.is_jpeg(encoded), lambda: True, lambda: _is_cheap(encoded))
    return require(is_cheap, "too many pixels or texts")


def decode_rgb(encoded: tf.Tensor, decoding: Decoding) -> tf.Tensor:
    """uint8 `[h, w, 3]` from the bytes of a JPEG, PNG, BMP, GIF (its first frame) or WebP file, or TensorFlow's errors.

    Fails for more than `image_header.MAX_PIXELS` pixels, `jpeg.MOST_SCANS` scans or `png_texts.MOST_TEXTS` texts before
    any of them is decoded.
    """
    image = tf.cond(
        is_plain_png(encoded),
        lambda: tf.io.decode_png(encoded, channels=3),
        lambda: _decode_any(encoded, decoding),
    )
    return tf.ensure_shape(image, [None, None, 3])


def _decode_any(encoded: tf.Tensor, decoding: Decoding) -> tf.Tensor:
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: decode_jpeg(encoded),
        lambda: _decode_other(encoded, decoding.background),
    )
    image = tf.ensure_shape(image, [None, None, 3])
    return turn(image, read_orientation(encoded)) if decoding.exif_transpose else image


@rare_case
def _decode_other(encoded: tf.Tensor, background: Background) -> tf.Tensor:
    with tf.control_dependencies([_require_cheap(encoded)]):
        is_bmp, is_gif = starts_with(encoded, b"BM"), starts_with(encoded, b"GIF8")
        decoders = [decode_bmp, decode_gif, _decode_png_or_webp]
        branches = [functools.partial(decoder, encoded, background) for decoder in decoders]
        return tf.switch_case(tf.where(is_bmp, 0, tf.where(is_gif, 1, 2)), branches)


def _decode_png_or_webp(encoded: tf.Tensor, background: Background) -> tf.Tensor:
    def decode(channels: int) -> tf.Tensor:
        return tf.io.decode_image(encoded, channels=channels, expand_animations=False)

    # A PNG file may hide its header behind what looks like another; TensorFlow would find it.
    has_size = require(tf.reduce_min(image_header.read_size(encoded)) > 0, "no header")
    with tf.control_dependencies([has_size]):
        return tf.cond(has_alpha(encoded), lambda: lay_on(background, decode(4)), lambda: decode(3))


def decode_pair(features: Features, decoding: Decoding) -> Features:
    """`image` and `label_map`, uint8 `[h, w, 3]` and `[h, w, 1]`, from their bytes.

    The label map tells which pixels it was drawn on: an image is turned unless the label map then has another size.
    A label map in colours, or of another size than its image, stops the input.
    """
    image = decode_image(features["image"], decoding._replace(exif_transpose=False))
    labels, is_labels = _decode_labels(features[LABEL_MAP])
    if decoding.exif_transpose:
        orientation = read_orientation(features["image"])
        is_turned = tf.reduce_all(turned_size(tf.shape(image)[:2], orientation) == tf.shape(labels)[:2])
        image = turn(image, tf.where(is_turned, orientation, 1))
    with tf.control_dependencies(_require_match(tf.shape(image)[:2], labels, is_labels, features)):
        return {"image": tf.identity(image), LABEL_MAP: tf.identity(labels)}


def decode_label_map(features: Features) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The label map of `decode_pair`, from bytes, or TensorFlow's errors; of the image only the header is read.

    Returns:
      uint8 `[h, w, 1]`; whether it holds labels, a scalar bool; height and width of the image, turned if the label map
      is, int32 `[2]`.
    """
    labels, is_labels = _decode_labels(features[LABEL_MAP])
    found, size = tf.shape(labels)[:2], tf.cast(image_header.read_size(features["image"]), tf.int32)
    turned = turned_size(size, read_orientation(features["image"]))
    is_right = tf.reduce_all(turned == found)
    return labels, is_labels, tf.where(is_right, found, size)


def _decode_labels(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.control_dependencies([_require_cheap(encoded)]):
        return decode_labels(tf.identity(encoded))


def _require_match(size: tf.Tensor, labels: tf.Tensor, is_labels: tf.Tensor, features: Features) -> list:
    """Requires labels, and as many as an image of that size, int32 `[2]`, has pixels."""
    name, found = features.get(ID, tf.constant("an image")), tf.shape(labels)
    holds_labels = require(is_labels, *describe_colours(name))
    return [holds_labels, require(tf.reduce_all(size == found[:2]), *describe_sizes(name, found, size))]


def describe_colours(name: Any) -> tuple[Any, ...]:
    """The parts of the message for a label map that holds no labels."""
    return (
        *("the label map of ", name, " is a PNG file of colours, or of numbers above 255; expected one number from 0 "),
        "to 255 per pixel: give each colour the number of its class (of ADE20K take the label maps of "
        "ADEChallengeData2016, which are not in tfds)",
    )


def describe_sizes(name: Any, found: Any, size: Any) -> tuple[Any, ...]:
    """The parts of the message for a label map of another size, height and width, than its image."""
    return (
        *("the label map of ", name, " has ", found[0], " x ", found[1], " pixels, its image ", size[0], " x "),
        *(size[1], "; expected the same: repair or remove the pair"),
    )


def decode_array(features: Features, decoding: Decoding = RGB) -> Features:
    """Features with the pixels of `ARRAY` as `image`, and `FAULT`, see `array_pixels`."""
    stored, fault = find_not_finite(features[ARRAY])
    others = {key: value for key, value in features.items() if key != ARRAY}
    return {**others, FAULT: fault, "image": decode_pixels(stored, decoding.channels, decoding.max_value)}


def replace_unreadable(features: Features, channels: int = 3) -> Features:
    """Encoded features with `FAULT`. Where that is not empty, the image is one black pixel, and its label is IGNORE.

    Of a pair, neither file is used if one of them cannot be read. Features that have `FAULT` already stay as they are,
    and arrays can always be read. A file with other channels than `channels`, where they do not become each other,
    cannot be read either.
    """
    if FAULT in features:
        return features
    if ARRAY in features:
        return {**features, FAULT: tf.constant("")}
    fault = _find_fault({key: features[key] for key in ("image", LABEL_MAP) if key in features}, channels)
    pixels = {
        "image": tf.zeros([1, 1, channels if channels in (2, 4) else 3], tf.uint8),
        LABEL_MAP: tf.fill([1, 1, 1], tf.constant(IGNORE, tf.uint8)),
    }
    encoded = {
        key: tf.where(fault == "", features[key], tf.io.encode_png(pixel))
        for key, pixel in pixels.items()
        if key in features
    }
    return {**features, **encoded, FAULT: fault}


def _find_fault(encoded: Features, channels: int) -> tf.Tensor:
    """Why the files cannot be read, a scalar string that is empty if they can."""
    no_fault = functools.partial(_no_fault, channels=channels)
    other_channels = [functools.partial(_fault_of_channels, channels=channels)] if channels in (2, 4) else []
    label_map_fault = [_fault_of_label_map] if LABEL_MAP in encoded else []
    return first_that_works(
        *(encoded, no_fault, *other_channels, *label_map_fault, _fault_of_size, _fault_of_scans),
        lambda encoded: _describe_fault(encoded["image"]),
    )


def _no_fault(encoded: Features, channels: int) -> tf.Tensor:
    """Fails if a file cannot be read."""
    right = require_channels(encoded["image"], channels)
    decoded = [decode_rgb(encoded["image"], AS_STORED)]
    if LABEL_MAP in encoded:
        decoded.append(_decode_labels(encoded[LABEL_MAP])[0])
    # The checks need the pixels; without them TensorFlow might remove the decoding, whose result is not used.
    needed = [require(tf.size(pixels) > 0, "no pixels") for pixels in decoded]
    with tf.control_dependencies(needed if right is None else [*needed, right]):
        return tf.identity("")


def _fault_of_channels(encoded: Features, channels: int) -> tf.Tensor:
    """Fails if the image cannot be read, or has the right channels."""
    with tf.control_dependencies([decode_rgb(encoded["image"], AS_STORED)]):
        return describe_channels(encoded["image"], channels)


def _fault_of_label_map(encoded: Features) -> tf.Tensor:
    """Fails if the image cannot be read either."""
    with tf.control_dependencies([decode_rgb(encoded["image"], AS_STORED)]):
        labels = encoded[LABEL_MAP]
        is_jpeg = tf.io.is_jpeg(labels)
        fault = tf.where(
            is_jpeg, "a JPEG file, whose compression changes labels; expected PNG", _describe_fault(labels)
        )
        return tf.strings.join(["its label map: ", fault])


def _fault_of_size(encoded: Features) -> tf.Tensor:
    """Fails if the image is not too large."""
    size = image_header.read_size(encoded["image"])
    is_fault = tf.reduce_prod(size) > image_header.MAX_PIXELS
    with tf.control_dependencies([require(is_fault, "not too many pixels")]):
        height, width = tf.unstack(tf.strings.as_string(size), num=2)
        return tf.strings.join([width, " x ", height, f" pixels, expected at most {image_header.MAX_PIXELS}"])


def _fault_of_scans(encoded: Features) -> tf.Tensor:
    """Fails if the image has not too many scans (JPEG) or texts (PNG)."""
    is_jpeg = tf.io.is_jpeg(encoded["image"])
    count = tf.cond(is_jpeg, lambda: count_scans(encoded["image"]), lambda: count_texts(encoded["image"]))
    most = tf.where(is_jpeg, MOST_SCANS, MOST_TEXTS)
    with tf.control_dependencies([require(count > most, "not too many scans or texts")]):
        count, most = tf.strings.as_string(count), tf.strings.as_string(most)
        return tf.strings.join([count, tf.where(is_jpeg, " scans", " compressed texts"), ", expected at most ", most])


def _describe_fault(encoded: tf.Tensor) -> tf.Tensor:
    """What the first bytes of a file tell about why it cannot be read."""
    known = [starts_with(encoded, start) for start in SIGNATURES]
    damaged = tf.where(
        tf.reduce_any(known), "damaged, cut short, or of a kind that is not supported", "not an image file"
    )
    return tf.where(encoded == "", "empty, or it cannot be opened", damaged)


def _require_cheap(encoded: tf.Tensor) -> tf.Operation | None:
    """Fails if an image of another format than JPEG has more pixels or texts than are tolerated."""
    return require(_is_cheap(encoded), "too many pixels or texts")


def _is_cheap(encoded: tf.Tensor) -> tf.Tensor:
    is_small = tf.reduce_prod(image_header.read_size(encoded)) <= image_header.MAX_PIXELS
    return is_small & (count_texts(encoded) <= MOST_TEXTS)
