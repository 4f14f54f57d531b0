"""Files to pixels, and what takes the place of files that cannot be read: one black pixel, and the reason."""

import tensorflow as tf

from beit_jax.data.decoding import image_header
from beit_jax.data.decoding.assertions import first_that_works, require
from beit_jax.data.decoding.label_png import decode_labels
from beit_jax.data.preprocessing import Features
from beit_jax.data.sources.source import ID

FAULT = "_fault"  # why the image cannot be read, empty if it can; keys with a leading _ are for the pipeline
LABEL_MAP = "label_map"  # uint8 `[h, w, 1]`: the class of every pixel of the image
IGNORED = 255  # the label of pixels without a class
SIGNATURES = b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"RIFF"
DCT = "INTEGER_ACCURATE"  # Pillow's inverse transform; TensorFlow's own default is faster and differs by a few levels


def decode_rgb(encoded: tf.Tensor) -> tf.Tensor:
    """uint8 `[h, w, 3]` from the bytes of a JPEG, PNG, BMP, GIF (its first frame) or WebP file, or TensorFlow's errors.

    Fails for more than `image_size.MAX_PIXELS` pixels before any is decoded; BMP files are as large as their pixels.
    """
    image = tf.cond(tf.io.is_jpeg(encoded), lambda: _jpeg(encoded), lambda: _other_formats(encoded))
    return tf.ensure_shape(image, [None, None, 3])


def _jpeg(encoded: tf.Tensor) -> tf.Tensor:
    sides = tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64)
    few = sides[0] * sides[1] <= image_header.MAX_PIXELS
    with tf.control_dependencies([tf.raw_ops.Assert(condition=few, data=[sides])]):
        return tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT)


def _other_formats(encoded: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([_check_pixels(encoded)]):
        is_bmp = tf.strings.substr(encoded, 0, 2) == "BM"
        return tf.cond(is_bmp, lambda: _bmp(encoded), lambda: _decode_image(encoded))


def _bmp(encoded: tf.Tensor) -> tf.Tensor:
    """A BMP file; its bytes may be places in a palette, which TensorFlow takes for grey levels."""
    fields = tf.io.decode_raw(tf.strings.substr(encoded, 2, 28), tf.int32)
    pixels, palette, bits = fields[2], fields[3] + 14, tf.bitwise.right_shift(fields[6], 16)

    def look_up() -> tf.Tensor:
        colours = tf.io.decode_raw(tf.strings.substr(encoded, palette, pixels - palette), tf.uint8)
        places = tf.io.decode_bmp(encoded)[..., 0]
        return tf.gather(tf.reshape(colours, [-1, 4])[:, 2::-1], tf.cast(places, tf.int32))  # blue, green, red, unused

    return tf.cond(bits == 8, look_up, lambda: _decode_image(encoded))


def _decode_image(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def decode_pair(features: Features) -> Features:
    """`image` and `label_map`, uint8 `[h, w, 3]` and `[h, w, 1]`, from their bytes.

    Label maps in colour or of another size than their image end the input.
    """
    image = decode_rgb(features["image"])
    labels, is_labels = _decode_labels(features[LABEL_MAP])
    with tf.control_dependencies(_check_pair(image, labels, is_labels, features.get(ID, tf.constant("an image")))):
        return {"image": tf.identity(image), LABEL_MAP: tf.identity(labels)}


def _decode_labels(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.control_dependencies([_check_pixels(encoded)]):
        return decode_labels(tf.identity(encoded))


def _check_pair(image: tf.Tensor, labels: tf.Tensor, is_labels: tf.Tensor, name: tf.Tensor) -> list:
    of_labels = require(
        is_labels,
        *("the label map of ", name, " is a PNG file of colours or of 16 bits, expected one number of up to 8 bits "),
        "per pixel; take label maps of classes (of ADE20K those of ADEChallengeData2016, which are not in tfds)",
    )
    image, labels = tf.shape(image), tf.shape(labels)
    of_same_size = require(
        tf.reduce_all(image[:2] == labels[:2]),
        *("the label map of ", name, " has ", labels[0], " x ", labels[1], " pixels, its image ", image[0], " x "),
        *(image[1], "; expected the same: repair or remove the pair"),
    )
    return [of_labels, of_same_size]


def marked(features: Features) -> Features:
    """`mended`, unless that has been done."""
    return features if FAULT in features else mended(features)


def mended(features: Features) -> Features:
    """Encoded features with `FAULT`; where that is not empty, the image is one black pixel, and its labels ignored.

    Of a pair, neither is used if one cannot be read.
    """
    fault = _fault_of({key: features[key] for key in ("image", LABEL_MAP) if key in features})
    stand_ins = {"image": tf.zeros([1, 1, 3], tf.uint8), LABEL_MAP: tf.fill([1, 1, 1], tf.constant(IGNORED, tf.uint8))}
    pixels = {
        key: tf.where(fault == "", features[key], tf.io.encode_png(stand_in))
        for key, stand_in in stand_ins.items()
        if key in features
    }
    return {**features, **pixels, FAULT: fault}


def _fault_of(encoded: Features) -> tf.Tensor:
    """Why the files cannot be read, a scalar string that is empty if they can."""
    of_labels = [_labels_alone] if LABEL_MAP in encoded else []
    return first_that_works(encoded, _none, *of_labels, _too_large, lambda encoded: _reason(encoded["image"]))


def _none(encoded: Features) -> tf.Tensor:
    decoded = [decode_rgb(encoded["image"])]
    if LABEL_MAP in encoded:
        decoded.append(_decode_labels(encoded[LABEL_MAP])[0])
    # Something must ask for pixels: what is only waited for may be optimised away.
    with tf.control_dependencies([require(tf.size(pixels) > 0, "no pixels") for pixels in decoded]):
        return tf.identity("")


def _labels_alone(encoded: Features) -> tf.Tensor:
    with tf.control_dependencies([decode_rgb(encoded["image"])]):
        return tf.strings.join(["its label map: ", _reason(encoded[LABEL_MAP])])


def _too_large(encoded: Features) -> tf.Tensor:
    with tf.control_dependencies([_check_pixels(encoded["image"], too_many=True)]):
        height, width = tf.unstack(tf.strings.as_string(image_header.size(encoded["image"])), num=2)
        return tf.strings.join([width, " x ", height, f" pixels, expected at most {image_header.MAX_PIXELS}"])


def _reason(encoded: tf.Tensor) -> tf.Tensor:
    """As far as the start of the bytes tells."""
    known = [tf.strings.substr(encoded, 0, len(start)) == start for start in SIGNATURES]
    damaged = tf.where(tf.reduce_any(known), "damaged, cut short, or of a kind that is not read", "no image file")
    return tf.where(encoded == "", "nothing in it, or it cannot be opened", damaged)


def _check_pixels(encoded: tf.Tensor, too_many: bool = False) -> tf.Operation | None:
    """Fails unless the image has as many pixels as are put up with, or more than that."""
    pixels = tf.reduce_prod(image_header.size(encoded))
    return require((pixels > image_header.MAX_PIXELS) == too_many, "so many pixels are not expected")
