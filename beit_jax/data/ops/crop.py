"""Ops that crop and resize. Pixels are uint8 before and after them, as in Pillow, or float32."""

import tensorflow as tf

from beit_jax.data.decoding.decode import decode_array, decode_rgb, parse_decoding, replace_unreadable
from beit_jax.data.decoding.jpeg import DCT, require_cheap
from beit_jax.data.decoding.orientation import read_jpeg_orientation, stored_box, turn, turned_size
from beit_jax.data.decoding.transparency import WHITE
from beit_jax.data.features import ARRAY, LABEL_MAP, TOKENIZER_IMAGE, Features
from beit_jax.data.ops import crop_box, resample
from beit_jax.data.ops.pixel_levels import columns_first
from beit_jax.data.ops.registry import Op, register
from beit_jax.data.ops.resample import check_levels, check_method, check_pixels, resize_columns
from beit_jax.data.size_limits import LONGEST
from beit_jax.errors import UserError
from beit_jax.models.image_size import ImageSize, sides

END_OF_JPEG = b"\xff\xd9"
MARGIN = 2  # pixels that are decoded around a box


def check_size(op: str, *sizes: ImageSize) -> None:
    """Raises UserError unless the sizes are whole numbers above 0, or pairs of them."""
    for size in sizes:
        numbers = size if isinstance(size, tuple) else (size, size)
        if len(numbers) != 2 or not all(isinstance(number, int) and number > 0 for number in numbers):
            raise UserError(
                f"{op}: found the size {size!r}; expected a whole number of pixels, at least 1, or (height, width)"
            )


@register()
def resize(size: ImageSize, method: str = "bicubic") -> Op:
    """Resizes `image` to `[*size, c]`; the aspect ratio is not kept. One number is the side of a square, everywhere."""
    check_size("resize", size)
    check_method(method)

    def op(features: Features, seed: tf.Tensor) -> Features:
        return {**features, "image": resample.resize(features["image"], *sides(size), method)}

    return op


@register()
def resize_small(size: ImageSize, method: str = "bicubic") -> Op:
    """Resizes `image` so that its shorter side is `size` pixels; the longer side is rounded down, as in torchvision.

    With (height, width), so that it just covers a rectangle of that size.

    If the longer side becomes more than `LONGEST` times as long, only the middle is computed: a row of 30,000 pixels
    would take gigabytes. `central_crop` shows the same pixels as without that.
    """
    check_size("resize_small", size)
    check_method(method)

    height, width = sides(size)

    def op(features: Features, seed: tf.Tensor) -> Features:
        shape = tf.shape(features["image"], tf.int64)[:2]
        if height == width:
            resized = height * shape // tf.reduce_min(shape)
        else:  # the side that decides gets its own size exactly
            by_height = shape[0] * width <= shape[1] * height
            resized = tf.where(by_height, shape * height // shape[0], shape * width // shape[1])
        # Multiples of 4 are cut off, so that `central_crop` rounds its corner as it would for the complete image.
        corner = 2 * (tf.maximum(resized - LONGEST * max(height, width), 0) // 4)
        box = tf.concat([corner, resized - 2 * corner], 0)
        return {**features, "image": resample.resize_part(features["image"], resized, box, method)}

    return op


@register()
def central_crop(size: ImageSize) -> Op:
    """The central `[*size, c]` of `image`, which must be at least that large; `resize_small` makes it so."""
    check_size("central_crop", size)

    def op(features: Features, seed: tf.Tensor) -> Features:
        image = features["image"]
        margin = tf.shape(image)[:2] - sides(size)
        # margin / 2, rounded half to even as in torchvision.
        corner = margin // 2 + tf.where((margin % 2 == 1) & ((margin // 2) % 2 == 1), 1, 0)
        return {**features, "image": tf.slice(image, [corner[0], corner[1], 0], [*sides(size), image.shape[2]])}

    return op


@register(random=True)
def random_resized_crop(
    size: ImageSize,
    scale_min: float = 0.08,
    scale_max: float = 1.0,
    ratio: tuple[float, float] = crop_box.RATIO,
    method: str = "bicubic",
) -> Op:
    """A random box of `image` (see `crop_box.box_from_draws`), resized to `[*size, c]`.

    `ratio` limits the aspect ratio (width / height) of the box in units of that of `size`.
    """
    check_size("random_resized_crop", size)
    crop_box.check_scale("random_resized_crop", scale_min, scale_max, ratio)
    check_method(method)

    def op(features: Features, seed: tf.Tensor) -> Features:
        box = crop_box.random_box(seed, features["image"], (scale_min, scale_max), crop_box.ratio_of(size, ratio))
        return {**features, "image": resample.resize(crop_box.crop(features["image"], box), *sides(size), method)}

    return op


@register(random=True)
def two_views(
    size: ImageSize,
    tokenizer_size: ImageSize,
    scale_min: float = 0.08,
    scale_max: float = 1.0,
    tokenizer_method: str = "lanczos",
) -> Op:
    """Two resizings of one random box, for masked image modelling (unilm `beit/transforms.py`).

    `image` becomes `[*size, c]` by bicubic and `tokenizer_image` `[*tokenizer_size, c]` by `tokenizer_method`: Lanczos
    in BEiT, bicubic in BEiT v2.
    """
    check_size("two_views", size, tokenizer_size)
    check_method(tokenizer_method)
    crop_box.check_scale("two_views", scale_min, scale_max)

    def op(features: Features, seed: tf.Tensor) -> Features:
        box = crop_box.random_box(seed, features["image"], (scale_min, scale_max), crop_box.ratio_of(size))
        cropped = crop_box.crop(features["image"], box)
        return _both_views(features, cropped, size, tokenizer_size, tokenizer_method)

    return op


@register()
def two_views_center(
    size: ImageSize, tokenizer_size: ImageSize, fraction: float = 0.875, tokenizer_method: str = "lanczos"
) -> Op:
    """`two_views` of the central box with the shape of `size`, for evaluation (`crop_box.central_box`).

    The default is that of the official evaluation of classifiers at 224 pixels (224 / 256).
    """
    check_size("two_views_center", size, tokenizer_size)
    check_method(tokenizer_method)
    if not 0 < fraction <= 1:
        raise UserError(f"two_views_center: found the fraction {fraction}; expected a number above 0 and at most 1")

    def op(features: Features, seed: tf.Tensor) -> Features:
        cropped = crop_box.crop(features["image"], crop_box.central_box(features["image"], fraction, size))
        return _both_views(features, cropped, size, tokenizer_size, tokenizer_method)

    return op


@register(random=True)
def decode_view(
    size: ImageSize,
    scale_min: float = 0.08,
    scale_max: float = 1.0,
    background: int | tuple[int, int, int] | None = WHITE,
    exif_transpose: bool = True,
) -> Op:
    """`decode` and the first of `two_views` in one op, which decodes only the box of a JPEG file that it crops.

    The training step makes the second view from the first one (`device_augment` of the config). Files of other formats,
    and files without the end of a JPEG file, are decoded completely, so that whether an image can be read does not
    depend on the box. `background` and `exif_transpose` are those of `decode`.
    """
    check_size("decode_view", size)
    decoding = parse_decoding("decode_view", background, exif_transpose)
    crop_box.check_scale("decode_view", scale_min, scale_max)
    scale, ratio = (scale_min, scale_max), crop_box.ratio_of(size)

    def op(features: Features, seed: tf.Tensor) -> Features:
        if ARRAY in features:
            features = decode_array(features)
            image = features["image"]
            return _one_view(features, crop_box.crop(image, crop_box.random_box(seed, image, scale, ratio)), size)
        if features["image"].dtype != tf.string or LABEL_MAP in features:
            raise UserError("decode_view: expected encoded images without label maps; use it instead of decode")
        features = replace_unreadable(features)
        encoded = features["image"]

        def decode_and_crop() -> tf.Tensor:
            image = decode_rgb(encoded, decoding)
            return crop_box.crop(image, crop_box.random_box(seed, image, scale, ratio))

        is_complete_jpeg = tf.io.is_jpeg(encoded) & (tf.strings.substr(encoded, -2, 2) == END_OF_JPEG)
        cropped = tf.cond(
            is_complete_jpeg,
            lambda: _decode_random_box(encoded, seed, scale, decoding.exif_transpose, ratio),
            decode_and_crop,
        )
        return _one_view(features, cropped, size)

    return op


def _decode_random_box(
    encoded: tf.Tensor,
    seed: tf.Tensor,
    scale: tuple[float, float],
    exif_transpose: bool,
    ratio: tuple[float, float] = crop_box.RATIO,
) -> tf.Tensor:
    """A random box of a JPEG file, or TensorFlow's errors.

    A margin around it is decoded too: the colours at the border of what is decoded depend on pixels beyond it.
    """
    shape = tf.io.extract_jpeg_shape(encoded)
    sides = shape[:2]
    orientation = read_jpeg_orientation(encoded) if exif_transpose else tf.constant(1)
    height, width = tf.unstack(turned_size(sides, orientation))
    box = stored_box(crop_box.random_box_within(seed, height, width, scale, ratio), sides, orientation)
    corner, end = tf.maximum(box[:2] - MARGIN, 0), tf.minimum(box[:2] + box[2:] + MARGIN, sides)
    window = tf.concat([corner, end - corner], 0)
    with tf.control_dependencies([require_cheap(encoded, shape)]):
        decoded = tf.io.decode_and_crop_jpeg(encoded, window, channels=3, dct_method=DCT)
    return turn(crop_box.crop(decoded, tf.concat([box[:2] - corner, box[2:]], 0)), orientation)


def _one_view(features: Features, cropped: tf.Tensor, size: ImageSize) -> Features:
    check_levels(cropped)
    return {**features, "image": resize_columns(columns_first(cropped), *sides(size), "bicubic")}


def _both_views(
    features: Features, cropped: tf.Tensor, size: ImageSize, tokenizer_size: ImageSize, method: str
) -> Features:
    check_pixels(cropped)
    columns = columns_first(cropped)
    return {
        **features,
        "image": resize_columns(columns, *sides(size), "bicubic"),
        TOKENIZER_IMAGE: resize_columns(columns, *sides(tokenizer_size), method),
    }
