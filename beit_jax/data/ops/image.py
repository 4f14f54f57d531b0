"""Ops that decode, flip and scale pixels. Pixels are uint8 after `decode` and float32 once they are normalized."""

import tensorflow as tf

from beit_jax.data.decoding.decode import decode_array, decode_image, decode_pair, parse_decoding, replace_unreadable
from beit_jax.data.decoding.transparency import WHITE
from beit_jax.data.features import ARRAY, KEEP_LEVELS, LABEL_MAP, TOKENIZER_IMAGE, Features
from beit_jax.data.ops.registry import Op, register
from beit_jax.errors import UserError
from beit_jax.models.dvae_sizes import EPSILON
from beit_jax.models.pixel_statistics import STATISTICS


@register()
def decode(
    background: int | tuple[int, int, int] | None = WHITE,
    exif_transpose: bool = True,
    *,
    channels: int = 3,
    max_value: float = 0.0,
) -> Op:
    """Decodes `image` from the bytes of a file to uint8 `[h, w, c]`, and `label_map`, if there is one, to `[h, w, 1]`.

    Of a data set of arrays, `image` is what `decoding.array_pixels` makes of the array.
    See `decoding.decode` for what happens to files that cannot be read, and to label maps that do not match.

    Args:
      background: what is seen through transparent pixels, a grey level or (red, green, blue) in levels from 0 to 255;
        None drops transparency, as the released code does, whose pixels may then have any colour.
      exif_transpose: whether images are turned as their EXIF orientation says; the released code does not turn them.
      channels: c, which `data.channels` of a config sets.
      max_value: the number that means 1, of float32 pixels, which `data.max_value` sets; 0: pixels are uint8.
    """
    decoding = parse_decoding("decode", background, exif_transpose, channels, max_value)

    def op(features: Features, seed: tf.Tensor) -> Features:
        if ARRAY in features:
            return decode_array(features, decoding)
        if features["image"].dtype != tf.string:
            raise UserError("decode found an image that is decoded already; expected it once, as the first op")
        features = replace_unreadable(features, channels)
        if LABEL_MAP in features:
            return {**features, **decode_pair(features, decoding)}
        return {**features, "image": decode_image(features["image"], decoding)}

    return op


@register(random=True)
def flip_lr(p: float = 0.5) -> Op:
    """Mirrors `image`, and a `tokenizer_image` or `label_map` beside it, left to right with probability `p`."""
    if not 0 <= p <= 1:
        raise UserError(f"flip_lr: found the probability {p}; expected a number between 0 and 1")

    def op(features: Features, seed: tf.Tensor) -> Features:
        axes = tf.ones([tf.cast(tf.random.stateless_uniform([], seed) < p, tf.int32)], tf.int32)  # [1] or none
        images = {key: features[key] for key in ("image", TOKENIZER_IMAGE, LABEL_MAP) if key in features}
        # tf.reverse is twenty times as fast as a slice with a step of -1.
        return {**features, **{key: tf.reverse(image, axes) for key, image in images.items()}}

    return op


def named_or_pair(op: str, statistics: str | tuple) -> tuple:
    """Mean and standard deviation, given by a name or as they are.

    Raises:
      UserError: the name is unknown, or there are no two of them.
    """
    if isinstance(statistics, str) and statistics in STATISTICS:
        return STATISTICS[statistics]
    if isinstance(statistics, tuple | list) and len(statistics) == 2:
        return tuple(statistics)
    raise UserError(f"{op}: found {statistics!r}; expected {' or '.join(STATISTICS)}, or a mean and a std")


def unit_range(image: tf.Tensor) -> tf.Tensor:
    """float32 pixels in [0, 1] from uint8 pixels; float32 pixels stay as they are."""
    return tf.cast(image, tf.float32) / 255 if image.dtype == tf.uint8 else image


@register("any")
def normalize(mean: str | float | tuple = "inception", std: float | tuple | None = None) -> Op:
    """(pixels in [0, 1] - mean) / std of `image`.

    Args:
      mean: one number, one number per channel, or both statistics: a pair, or the name of one, where "inception" is 0.5
        and 0.5, the official default, and "imagenet" are those of ImageNet-1k (`--imagenet_default_mean_and_std`).
        Configs write `normalize(statistics)`, see `config.statistics`.
      std: one number or one number per channel; None with both statistics.
    """
    if std is None and not isinstance(mean, int | float):
        mean, std = named_or_pair("normalize", mean)
        mean, std = (value[0] if len(set(value)) == 1 else value for value in (mean, std))  # of any number of channels
    if std is None:
        raise UserError("normalize: found a mean without a std; give both, or the name of a pair")
    mean, std = tf.constant(mean, tf.float32), tf.constant(std, tf.float32)
    if any(value.shape.rank > 1 for value in (mean, std)) or tf.reduce_any(std <= 0):
        raise UserError("normalize: expected one number, or one of each channel, for mean and std, and a std above 0")

    def op(features: Features, seed: tf.Tensor) -> Features:
        pixels = unit_range(features["image"])
        channels = pixels.shape[-1]
        for value in (mean, std):
            if value.shape not in ((), (channels,)):
                raise UserError(
                    f"normalize: found numbers for {value.shape[0]} channels, and images of {channels}: give as many "
                    "(python -m beit_jax.measure_statistics measures them), or data.channels"
                )
        # Repeated for all pixels of a row: TensorFlow takes several times as long to broadcast three numbers.
        row = [tf.shape(pixels)[-2], channels]
        pixels = (pixels - tf.broadcast_to(mean, row)) / tf.broadcast_to(std, row)
        return {**features, "image": pixels}

    return op


@register("any")
def map_pixels(key: str = TOKENIZER_IMAGE) -> Op:
    """Squeezes pixels from [0, 1] to [0.1, 0.9], the input of OpenAI's dVAE (`dall_e/utils.py`)."""

    def op(features: Features, seed: tf.Tensor) -> Features:
        if key not in features:
            raise UserError(f"map_pixels: there is no '{key}'; the images are {', '.join(sorted(features))}")
        pixels = unit_range(features[key])
        if features[key].dtype != tf.uint8:
            pixels = tf.clip_by_value(pixels, 0.0, 1.0)  # a dVAE has no likelihood for others
        return {**features, key: (1 - 2 * EPSILON) * pixels + EPSILON}

    return op


@register("batch")
def keep_levels() -> Op:
    """Keeps images uint8, a quarter of the bytes of float32; the training step scales them (`tasks.device_augment`)."""
    return lambda features, seeds: {**features, KEEP_LEVELS: tf.constant(True)}


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
