"""Ops that decode, flip and scale pixels, which are uint8 from `decode` on and float32 once normalized."""

from collections.abc import Callable

import tensorflow as tf

from beit_jax.data import image_size
from beit_jax.data.assertions import first_that_works, require
from beit_jax.data.label_png import decode_labels
from beit_jax.data.registry import Features, Op, register
from beit_jax.data.sources import ID
from beit_jax.errors import UserError

FAULT = "_fault"  # why the image cannot be read, empty if it can; keys with a leading _ are for the pipeline
IS_LABELS = "_is_labels"
LABEL_MAP = "label_map"  # uint8 `[h, w, 1]`: the class of every pixel of the image
LEVELS = "_levels"  # there where images are to stay uint8
IGNORED = 255  # the label of pixels without a class
SIGNATURES = b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"RIFF"
STATISTICS = {
    "inception": (0.5, 0.5),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
MARGIN = 0.1
DCT = "INTEGER_ACCURATE"  # Pillow's inverse transform; TensorFlow's own default is faster and differs by a few levels


def decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """As `decode_rgb`, of JPEG files alone, and with few operations (see `first_that_works`)."""
    sides = tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64)
    few = sides[0] * sides[1] <= image_size.MAX_PIXELS
    with tf.control_dependencies([tf.raw_ops.Assert(condition=few, data=[sides])]):
        return tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT)


def decode_rgb(encoded: tf.Tensor) -> tf.Tensor:
    """uint8 `[h, w, 3]` from the bytes of a JPEG, PNG, BMP, GIF (its first frame) or WebP file, or TensorFlow's errors.

    Fails for more than `image_size.MAX_PIXELS` pixels before any is decoded.
    """
    with tf.control_dependencies([_check_pixels(encoded)]):
        image = tf.cond(
            tf.io.is_jpeg(encoded),
            lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT),
            lambda: tf.cond(
                tf.strings.substr(encoded, 0, 2) == "BM", lambda: _bmp(encoded), lambda: _decode_image(encoded)
            ),
        )
    return tf.ensure_shape(image, [None, None, 3])


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


@register()
def decode() -> Op:
    """Decodes `image` from file bytes to uint8 `[h, w, 3]`; what cannot be read is one black pixel, and marked.

    A `label_map` beside it becomes uint8 `[h, w, 1]`; of a pair, neither is used if one cannot be read. Label maps in
    colour or of another size than their image end the input.
    """

    def op(features: Features, seed: tf.Tensor) -> Features:
        if features["image"].dtype != tf.string:
            raise UserError("decode found an image that is decoded already; expected it once, as the first op")
        if LABEL_MAP not in features:
            return {**features, **unless_unreadable(features["image"], decode_jpeg, decode_rgb)}
        encoded = {key: features[key] for key in ("image", LABEL_MAP)}
        found = first_that_works(encoded, _decoded, _labels_undecoded, _too_large, _undecoded)
        is_labels = found.pop(IS_LABELS)
        with tf.control_dependencies(_check_pair(found, is_labels, features.get(ID, tf.constant("an image")))):
            found = {key: tf.identity(value) for key, value in found.items()}
        return {**features, **found}

    return op


def unless_unreadable(encoded: tf.Tensor, *ways: Callable[[tf.Tensor], tf.Tensor]) -> Features:
    """`image`, uint8 `[h, w, 3]`, by the first way of decoding that does not fail, and what `decode` notes of it.

    Where all fail it is one black pixel. Ways fail for more than `image_size.MAX_PIXELS` pixels.
    """

    def decoded(way: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[Features], Features]:
        return lambda encoded: {"image": way(encoded["image"]), FAULT: tf.constant("")}

    found = first_that_works({"image": encoded}, *map(decoded, ways), _too_large, _undecoded)
    return {**found, "image": tf.ensure_shape(found["image"], [None, None, 3])}


def _decoded(encoded: Features) -> Features:
    found = {"image": decode_rgb(encoded["image"]), FAULT: tf.constant("")}
    with tf.control_dependencies([_check_pixels(encoded[LABEL_MAP])]):
        found[LABEL_MAP], found[IS_LABELS] = decode_labels(tf.identity(encoded[LABEL_MAP]))
    return found


def _labels_undecoded(encoded: Features) -> Features:
    with tf.control_dependencies([decode_rgb(encoded["image"])]):
        return _without(encoded, tf.strings.join(["its label map: ", _fault(encoded[LABEL_MAP])]))


def _too_large(encoded: Features) -> Features:
    with tf.control_dependencies([_check_pixels(encoded["image"], too_many=True)]):
        height, width = tf.unstack(tf.strings.as_string(image_size.size(encoded["image"])), num=2)
        fault = tf.strings.join([width, " x ", height, f" pixels, expected at most {image_size.MAX_PIXELS}"])
        return _without(encoded, fault)


def _undecoded(encoded: Features) -> Features:
    return _without(encoded, _fault(encoded["image"]))


def _without(encoded: Features, fault: tf.Tensor) -> Features:
    found = {"image": tf.zeros([1, 1, 3], tf.uint8), FAULT: fault}
    if LABEL_MAP in encoded:
        found |= {LABEL_MAP: tf.fill([1, 1, 1], tf.constant(IGNORED, tf.uint8)), IS_LABELS: tf.constant(True)}
    return found


def _fault(encoded: tf.Tensor) -> tf.Tensor:
    """Why bytes cannot be decoded, as far as their start tells."""
    known = [tf.strings.substr(encoded, 0, len(start)) == start for start in SIGNATURES]
    damaged = tf.where(tf.reduce_any(known), "damaged, cut short, or of a kind that is not read", "no image file")
    return tf.where(encoded == "", "nothing in it, or it cannot be opened", damaged)


def _check_pixels(encoded: tf.Tensor, too_many: bool = False) -> tf.Operation | None:
    """Fails unless the image has as many pixels as are put up with, or more than that."""
    pixels = tf.reduce_prod(image_size.size(encoded))
    return require((pixels > image_size.MAX_PIXELS) == too_many, "so many pixels are not expected")


def _check_pair(found: Features, is_labels: tf.Tensor, name: tf.Tensor) -> list:
    of_labels = require(
        is_labels,
        *("the label map of ", name, " is a PNG file of colours or of 16 bits, expected one number of up to 8 bits "),
        "per pixel; take label maps of classes (of ADE20K those of ADEChallengeData2016, which are not in tfds)",
    )
    image, labels = tf.shape(found["image"]), tf.shape(found[LABEL_MAP])
    of_same_size = require(
        tf.reduce_all(image[:2] == labels[:2]),
        *("the label map of ", name, " has ", labels[0], " x ", labels[1], " pixels, its image ", image[0], " x "),
        *(image[1], "; expected the same: repair or remove the pair"),
    )
    return [of_labels, of_same_size]


@register(random=True)
def flip_lr(p: float = 0.5) -> Op:
    """Mirrors `image`, and a `tokenizer_image` or `label_map` beside it, left to right with probability `p`."""
    if not 0 <= p <= 1:
        raise UserError(f"flip_lr: found the probability {p}; expected a number between 0 and 1")

    def op(features: Features, seed: tf.Tensor) -> Features:
        axes = tf.ones([tf.cast(tf.random.stateless_uniform([], seed) < p, tf.int32)], tf.int32)  # [1] or none
        images = {key: features[key] for key in ("image", "tokenizer_image", LABEL_MAP) if key in features}
        # Twenty times as fast as a slice with a step of -1.
        return {**features, **{key: tf.reverse(image, axes) for key, image in images.items()}}

    return op


def unit_range(image: tf.Tensor) -> tf.Tensor:
    """float32 pixels in [0, 1] from uint8; float32 pixels as they are."""
    return tf.cast(image, tf.float32) / 255 if image.dtype == tf.uint8 else image


@register("any")
def normalize(mean: str | float | tuple = "inception", std: float | tuple | None = None) -> Op:
    """(pixels in [0, 1] - mean) / std on `image`, one number or one per channel; a name stands for both.

    "inception" is 0.5 and 0.5, the official default; "imagenet" the statistics of ImageNet-1k
    (`--imagenet_default_mean_and_std`).
    """
    if isinstance(mean, str):
        if mean not in STATISTICS or std is not None:
            raise UserError(f"normalize: found {mean!r}; expected {' or '.join(STATISTICS)}, or a mean and a std")
        mean, std = STATISTICS[mean]
    if std is None:
        raise UserError("normalize: found a mean without a std; give both, or the name of a pair")
    mean, std = tf.constant(mean, tf.float32), tf.constant(std, tf.float32)
    if any(value.shape not in ((), (3,)) for value in (mean, std)) or tf.reduce_any(std <= 0):
        raise UserError("normalize: expected one number or three for mean and std, and a std above 0")

    def op(features: Features, seed: tf.Tensor) -> Features:
        pixels = unit_range(features["image"])
        # For all pixels of a row: TensorFlow takes several times as long to go through three numbers again and again.
        row = [tf.shape(pixels)[-2], 3]
        pixels = (pixels - tf.broadcast_to(mean, row)) / tf.broadcast_to(std, row)
        return {**features, "image": pixels}

    return op


@register("any")
def map_pixels(key: str = "tokenizer_image") -> Op:
    """Squeezes pixels from [0, 1] to [0.1, 0.9], the input of OpenAI's dVAE (`dall_e/utils.py`)."""

    def op(features: Features, seed: tf.Tensor) -> Features:
        if key not in features:
            raise UserError(f"map_pixels: there is no '{key}'; the images are {', '.join(sorted(features))}")
        return {**features, key: (1 - 2 * MARGIN) * unit_range(features[key]) + MARGIN}

    return op


@register("batch")
def keep_levels() -> Op:
    """Leaves uint8 images as they are: a quarter of the bytes for those who scale them later (`tasks.on_device`)."""
    return lambda features, seeds: {**features, LEVELS: tf.constant(True)}


@register("any")
def keep(*names: str) -> Op:
    """Drops every feature that is not named."""
    if not names:
        raise UserError("keep: found no names; expected those of the features to keep, such as keep('image', 'label')")

    def op(features: Features, seed: tf.Tensor) -> Features:
        missing = [name for name in names if name not in features]
        if missing:
            raise UserError(f"keep: there is no '{missing[0]}'; the features are {', '.join(sorted(features))}")
        return {key: value for key, value in features.items() if key in names or key.startswith("_")}

    return op
