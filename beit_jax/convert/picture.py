"""How Pillow's images become RGB: as viewers show them, and as the op `decode` of the input makes them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from beit_jax.data.decoding.array_pixels import check_pixels, white
from beit_jax.data.size_limits import LONGEST, MOST_BETWEEN
from beit_jax.errors import UserError

Background = int | tuple[int, int, int] | None
WHITE = 255
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
ORIENTATION = 0x0112  # tag of EXIF data
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image, background: Background = WHITE, exif_transpose: bool = True) -> Image.Image:
    """An image of any mode, in RGB.

    Args:
      image: as Pillow opens it.
      background: what is seen through transparent pixels, a grey level or (red, green, blue); None drops transparency.
      exif_transpose: whether the image is turned as its EXIF orientation says.
    """
    bits = _stored_bits(image)
    image.load()  # what cannot be read fails here
    turn = TURNS.get(_orientation(image)) if exif_transpose else None
    if turn is not None:
        info, image = image.info, image.transpose(turn)
        image.info = info
    alpha = None if background is None else _alpha(image, bits)
    if image.mode.startswith("I"):  # of numbers of 16 bits the upper eight count; Pillow would clip them to white
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if alpha is None:
        return image.convert("RGB")
    colour = (background,) * 3 if isinstance(background, int) else tuple(background)
    ground = Image.new("RGBA", image.size, (*colour, 255))
    seen = image.convert("RGBA")
    seen.putalpha(alpha)
    return Image.alpha_composite(ground, seen).convert("RGB")


def to_planes(image: Image.Image | np.ndarray, section: Mapping[str, Any]) -> tuple[list[Image.Image], float]:
    """An image as Pillow resizes it, in RGB, grey, or a plane for each channel of an array, and the number of white.

    Args:
      image: as Pillow opens it, or uint8, uint16 or float32 `[h, w, c]`.
      section: `preprocess` of a config, see `preprocessing.preprocess_section`.

    Raises:
      UserError: the image does not have the channels of the section, or no file has.
    """
    channels, max_value = section.get("channels", 3), section.get("max_value", 0)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[-1] != channels:
            raise UserError(
                f"found an image of shape {image.shape}; expected [h, w, {channels}], as the model sees them"
            )
        check_pixels(image.dtype, channels)
        planes = np.moveaxis(image, -1, 0)
        if image.dtype == np.uint8 and not max_value:  # resized to whole numbers, as files of 8 bits
            return [Image.fromarray(np.ascontiguousarray(plane)) for plane in planes], WHITE
        return [Image.fromarray(plane.astype(np.float32)) for plane in planes], white(image.dtype, max_value) or 1
    if channels not in (1, 3) or max_value:
        raise UserError(
            f"the model sees images of {channels} channels, or of more than 8 bits, and Pillow's are RGB of 8; give "
            f"arrays [h, w, {channels}]"
        )
    image = to_rgb(image, section["background"], section["exif_transpose"])
    return [image.convert("L") if channels == 1 else image], WHITE


def resize(
    image: Image.Image,
    size: tuple[int, int],
    method: Image.Resampling,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """An image, or a box of it, with another width and height: the pixels of Pillow 9.5 to 12, whichever is installed.

    They resize columns first, as the op of the input does. Pillow 13 begins with rows where that is cheaper, which
    changes sharp edges by up to 13 levels. Here only images so tall that columns would take gigabytes begin with rows.
    """
    left, top, right, bottom = box or (0, 0, *image.size)
    if size[0] * image.height > MOST_BETWEEN:
        rows = image.resize((image.width, size[1]), method, (0, top, image.width, bottom))
        return rows.resize(size, method, (left, 0, right, size[1]))
    columns = image.resize((size[0], image.height), method, (left, 0, right, image.height))
    return columns.resize(size, method, (0, top, size[0], bottom))


def resized_centre(
    image: Image.Image, shape: tuple[int, int], size: tuple[int, int], method: Image.Resampling
) -> Image.Image:
    """The centre, `size` high and wide, of an image that is resized; of a long one no more is computed."""
    box = size[::-1]
    corner = [round((side - part) / 2) for side, part in zip(shape, box, strict=True)]
    if max(shape) > LONGEST * min(shape):
        scales = [side / new for side, new in zip(image.size, shape, strict=True)]
        start = [scale * first for scale, first in zip(scales, corner, strict=True)]
        ends = zip(scales, corner, box, image.size, strict=True)
        end = [min(scale * (first + part), side) for scale, first, part, side in ends]
        return resize(image, box, method, (*start, *end))
    return resize(image, shape, method).crop((*corner, corner[0] + box[0], corner[1] + box[1]))


def _stored_bits(image: Image.Image) -> int:
    """Bits of a level in a PNG file, in which a transparent level is given; 8 for an image that is loaded already."""
    modes = [tile[3] for tile in image.tile] if image.format == "PNG" else []
    name, _, bits = str(modes[0] if modes else "").partition(";")
    return int(bits.removesuffix("B")) if name in ("L", "I", "RGB") and bits else 8


def _alpha(image: Image.Image, bits: int) -> Image.Image | None:
    """What is not transparent, in mode L; None: everything is opaque.

    Pillow compares levels of 8 bits with a transparent level of as many bits as the file has.
    """
    key = image.info.get("transparency")
    if bits == 8 or image.mode == "P" or key is None:
        has_alpha = image.mode in WITH_ALPHA or key is not None
        return image.convert("RGBA").getchannel("A") if has_alpha else None
    levels, key = np.asarray(image).astype(np.int64), np.asarray(key)
    if bits < 8:
        key = key * (255 // (2**bits - 1))
    elif image.mode == "RGB":  # Pillow has dropped the lower eight bits of the levels
        key = key >> 8
    is_transparent = (levels == key).reshape(*levels.shape[:2], -1).all(axis=-1)
    return Image.fromarray(np.where(is_transparent, 0, 255).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """That of the EXIF data; Pillow would also read it from XMP, which viewers ignore, and fail on damaged data."""
    try:
        exif = image.getexif() if image.format == "TIFF" else Image.Exif()
        exif.load(image.info.get("exif", b""))
        return exif.get(ORIENTATION, 1)
    except Exception:  # Pillow fails in many ways
        return 1
