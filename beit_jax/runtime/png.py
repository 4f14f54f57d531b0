"""Images as the bytes of a PNG file."""

import io

import numpy as np
from PIL import Image


def encode_png(image: np.ndarray) -> bytes:
    """The PNG file of an image, uint8 `[h, w, 3]`."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="png")
    return content.getvalue()
