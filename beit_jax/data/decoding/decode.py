"""Decodes the bytes of files to pixels. One black pixel replaces a file that cannot be read; the reason is kept."""

import tensorflow as tf

from beit_jax.data.decoding import image_header
from beit_jax.data.decoding.assertions import first_that_works, require
from beit_jax.data.decoding.label_png import decode_labels
from beit_jax.data.features import FAULT, ID, LABEL_MAP, Features
from beit_jax.models.label_maps import IGNORE

SIGNATURES = b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"RIFF"
DCT = "INTEGER_ACCURATE"  # Pillow's inverse transform; TensorFlow's own default is faster and differs by a few levels


def decode_rgb(encoded: tf.Tensor) -> tf.Tensor:
    """uint8 `[h, w, 3]` from the bytes of a JPEG, PNG, BMP, GIF (its first frame) or WebP file, or TensorFlow's errors.

    Fails for more than `image_header.MAX_PIXELS` pixels before any of them is decoded. BMP files need no such check:
    they are as large as their pixels.
    """
    image = tf.cond(tf.io.is_jpeg(encoded), lambda: _decode_jpeg(encoded), lambda: _decode_other(encoded))
    return tf.ensure_shape(image, [None, None, 3])


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    shape = tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64)
    is_small = shape[0] * shape[1] <= image_header.MAX_PIXELS
    with tf.control_dependencies([tf.raw_ops.Assert(condition=is_small, data=[shape])]):
        return tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT)


def _decode_other(encoded: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([_require_few_pixels(encoded)]):
        is_bmp = tf.strings.substr(encoded, 0, 2) == "BM"
        return tf.cond(is_bmp, lambda: _decode_bmp(encoded), lambda: _decode_image(encoded))


def _decode_bmp(encoded: tf.Tensor) -> tf.Tensor:
    """A BMP file. Its bytes may be indices of colours in a palette, which TensorFlow takes for grey levels."""
    fields = tf.io.decode_raw(tf.strings.substr(encoded, 2, 28), tf.int32)
    pixels, palette, bits = fields[2], fields[3] + 14, tf.bitwise.right_shift(fields[6], 16)

    def look_up() -> tf.Tensor:
        colours = tf.io.decode_raw(tf.strings.substr(encoded, palette, pixels - palette), tf.uint8)
        indices = tf.io.decode_bmp(encoded)[..., 0]
        return tf.gather(tf.reshape(colours, [-1, 4])[:, 2::-1], tf.cast(indices, tf.int32))  # blue, green, red, unused

    return tf.cond(bits == 8, look_up, lambda: _decode_image(encoded))


def _decode_image(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def decode_pair(features: Features) -> Features:
    """`image` and `label_map`, uint8 `[h, w, 3]` and `[h, w, 1]`, from their bytes.

    A label map in colour, or of another size than its image, stops the input.
    """
    image = decode_rgb(features["image"])
    labels, is_labels = _decode_labels(features[LABEL_MAP])
    with tf.control_dependencies(_require_match(image, labels, is_labels, features.get(ID, tf.constant("an image")))):
        return {"image": tf.identity(image), LABEL_MAP: tf.identity(labels)}


def _decode_labels(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.control_dependencies([_require_few_pixels(encoded)]):
        return decode_labels(tf.identity(encoded))


def _require_match(image: tf.Tensor, labels: tf.Tensor, is_labels: tf.Tensor, name: tf.Tensor) -> list:
    holds_labels = require(
        is_labels,
        *("the label map of ", name, " is a PNG file of colours or of 16 bits, expected one number of up to 8 bits "),
        "per pixel; take label maps of classes (of ADE20K those of ADEChallengeData2016, which are not in tfds)",
    )
    image, labels = tf.shape(image), tf.shape(labels)
    has_same_size = require(
        tf.reduce_all(image[:2] == labels[:2]),
        *("the label map of ", name, " has ", labels[0], " x ", labels[1], " pixels, its image ", image[0], " x "),
        *(image[1], "; expected the same: repair or remove the pair"),
    )
    return [holds_labels, has_same_size]


def replace_unreadable(features: Features) -> Features:
    """Encoded features with `FAULT`. Where that is not empty, the image is one black pixel, and its label is IGNORE.

    Of a pair, neither file is used if one of them cannot be read. Features that have `FAULT` already stay as they are.
    """
    if FAULT in features:
        return features
    fault = _find_fault({key: features[key] for key in ("image", LABEL_MAP) if key in features})
    pixels = {"image": tf.zeros([1, 1, 3], tf.uint8), LABEL_MAP: tf.fill([1, 1, 1], tf.constant(IGNORE, tf.uint8))}
    encoded = {
        key: tf.where(fault == "", features[key], tf.io.encode_png(pixel))
        for key, pixel in pixels.items()
        if key in features
    }
    return {**features, **encoded, FAULT: fault}


def _find_fault(encoded: Features) -> tf.Tensor:
    """Why the files cannot be read, a scalar string that is empty if they can."""
    label_map_fault = [_fault_of_label_map] if LABEL_MAP in encoded else []
    return first_that_works(
        encoded, _no_fault, *label_map_fault, _fault_of_size, lambda encoded: _describe_fault(encoded["image"])
    )


def _no_fault(encoded: Features) -> tf.Tensor:
    """Fails if a file cannot be read."""
    decoded = [decode_rgb(encoded["image"])]
    if LABEL_MAP in encoded:
        decoded.append(_decode_labels(encoded[LABEL_MAP])[0])
    # The checks need the pixels; without them TensorFlow might remove the decoding, whose result is not used.
    with tf.control_dependencies([require(tf.size(pixels) > 0, "no pixels") for pixels in decoded]):
        return tf.identity("")


def _fault_of_label_map(encoded: Features) -> tf.Tensor:
    """Fails if the image cannot be read either."""
    with tf.control_dependencies([decode_rgb(encoded["image"])]):
        return tf.strings.join(["its label map: ", _describe_fault(encoded[LABEL_MAP])])


def _fault_of_size(encoded: Features) -> tf.Tensor:
    """Fails if the image is not too large."""
    with tf.control_dependencies([_require_few_pixels(encoded["image"], too_many=True)]):
        height, width = tf.unstack(tf.strings.as_string(image_header.read_size(encoded["image"])), num=2)
        return tf.strings.join([width, " x ", height, f" pixels, expected at most {image_header.MAX_PIXELS}"])


def _describe_fault(encoded: tf.Tensor) -> tf.Tensor:
    """What the first bytes of a file tell about why it cannot be read."""
    known = [tf.strings.substr(encoded, 0, len(start)) == start for start in SIGNATURES]
    damaged = tf.where(
        tf.reduce_any(known), "damaged, cut short, or of a kind that is not supported", "not an image file"
    )
    return tf.where(encoded == "", "empty, or it cannot be opened", damaged)


def _require_few_pixels(encoded: tf.Tensor, too_many: bool = False) -> tf.Operation | None:
    """Fails if the image has more pixels than are tolerated; with `too_many`, if it has not."""
    pixels = tf.reduce_prod(image_header.read_size(encoded))
    return require((pixels > image_header.MAX_PIXELS) == too_many, "unexpected number of pixels")
