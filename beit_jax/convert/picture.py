"""How Pillow's images become RGB: as viewers show them, and as the op `decode` of the input makes them."""

import numpy as np
from PIL import Image, ImageOps

Background = int | tuple[int, int, int] | None
WHITE = 255
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def to_rgb(image: Image.Image, background: Background = WHITE, exif_transpose: bool = True) -> Image.Image:
    """An image of any mode, in RGB.

    Args:
      image: as Pillow opens it.
      background: what is seen through transparent pixels, a grey level or (red, green, blue); None drops transparency.
      exif_transpose: whether the image is turned as its EXIF orientation says.
    """
    if exif_transpose:
        image = _turn(image)
    if image.mode.startswith("I"):  # of numbers of 16 bits the upper eight count; Pillow would clip them to white
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if background is None or not (image.mode in WITH_ALPHA or "transparency" in image.info):
        return image.convert("RGB")
    colour = (background,) * 3 if isinstance(background, int) else tuple(background)
    ground = Image.new("RGBA", image.size, (*colour, 255))
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def _turn(image: Image.Image) -> Image.Image:
    image.load()  # what cannot be read fails here
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data, on which Pillow fails in many ways, and which viewers ignore
        return image
