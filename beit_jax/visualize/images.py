"""Picture files in and out of the commands that show what a model does with one image."""

import warnings
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from beit_jax import cli
from beit_jax.convert.picture import resize, to_rgb
from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import write_bytes
from beit_jax.runtime.paths import as_path, local_path
from beit_jax.runtime.png import encode_png

MIN_SIDE = 448  # of pictures that are written: smaller ones are enlarged by a whole number


def read_picture(path: str, preprocess: ConfigDict | None = None) -> Image.Image:
    """The picture in a file, in RGB, as the input of a model with a section `preprocess` decodes it.

    Without the section, it is turned as its camera says, and on white if it is transparent.

    Raises:
      UserError: there is no such file, or it is no picture that can be read.
    """
    file = as_path(path)
    if not file.is_file():
        found = "is a folder" if file.is_dir() else "does not exist"
        raise UserError(f"--image={path} {found}; expected the file of a picture")
    try:
        with warnings.catch_warnings(), Image.open(local_path(file)) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            decoding = (preprocess.background, preprocess.exif_transpose) if preprocess else ()
            return to_rgb(image, *decoding)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--image={path} cannot be read as a picture ({reason}); expected a JPEG or PNG") from error


def read_pixels(path: str, preprocess: ConfigDict) -> np.ndarray:
    """float32 `[h, w, c]`, of which 1 is white, for a model that sees other than RGB: of an array, or a grey picture.

    Raises:
      UserError: see `read_array` and `read_picture`.
    """
    if path.endswith(".npy") or preprocess.channels != 1 or preprocess.max_value:
        return read_array(path, preprocess)
    return np.asarray(read_picture(path, preprocess).convert("L"), np.float32)[..., None] / 255


def read_array(path: str, preprocess: ConfigDict) -> np.ndarray:
    """The pixels in a `.npy` file, float32 `[h, w, c]`, of which 1 is white, for a model that sees other than RGB.

    Raises:
      UserError: there is no such array, or one of other channels.
    """
    channels = preprocess.channels
    expected = f"expected a .npy file with one image [h, w, {channels}], which is what the model sees"
    try:
        pixels = np.load(local_path(path), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--image={path} cannot be read ({' '.join(str(error).split())}); {expected}") from error
    if getattr(pixels, "ndim", 0) != 3 or pixels.shape[-1] != channels:
        raise UserError(f"--image={path} has the shape {getattr(pixels, 'shape', 'of several arrays')}; {expected}")
    largest = preprocess.max_value or {"uint8": 255.0, "uint16": 65535.0}.get(pixels.dtype.name, 1.0)
    return pixels.astype(np.float32) / np.float32(largest)


def resize_array(pixels: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    """The central part of `[h, w, c]`, resized by a filter of Pillow, channel by channel, to `[*size, c]`."""
    box = central_box(pixels.shape[:2], size)
    filter_ = Image.Resampling[method.upper()]
    planes = [Image.fromarray(plane, "F") for plane in np.moveaxis(pixels, -1, 0)]
    return np.stack([np.asarray(resize(plane, (size[1], size[0]), filter_, box)) for plane in planes], axis=-1)


def central_box(picture: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest central part of a picture with the shape of another size.

    Args:
      picture: height and width of the picture.
      size: height and width of the other.

    Returns:
      left, top, right and bottom in pixels of the picture.
    """
    scale = min(picture[0] / size[0], picture[1] / size[1])
    height, width = min(size[0] * scale, picture[0]), min(size[1] * scale, picture[1])  # rounded up, they are outside
    top, left = (picture[0] - height) / 2, (picture[1] - width) / 2
    return left, top, left + width, top + height


def crop_and_resize(image: Image.Image, size: tuple[int, int], method: str) -> np.ndarray:
    """The central part, uint8 `[height, width, 3]`, resized by one of Pillow's filters, such as "bicubic"."""
    box = central_box((image.height, image.width), size)
    return np.asarray(resize(image, (size[1], size[0]), Image.Resampling[method.upper()], box))


def normalize(pixels: np.ndarray, preprocess: ConfigDict) -> np.ndarray:
    """Pixels uint8 `[..., 3]` as the encoder takes them, float32, by `mean` and `std` of a section `preprocess`."""
    mean, std = (np.asarray(preprocess[key], np.float32) for key in ("mean", "std"))
    return (pixels / np.float32(255) - mean) / std


def to_bytes(image: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8 of the same shape."""
    return (np.asarray(image, np.float32).clip(0, 1) * 255).round().astype(np.uint8)


def write_pictures(folder: str, pictures: Sequence[tuple[str, np.ndarray | bytes]]) -> None:
    """Writes pictures, uint8 `[h, w, 3]` or PNG files, by name into a folder, and prints their paths.

    Raises:
      UserError: the folder cannot be written.
    """
    target = cli.local_folder("out", folder)
    try:
        for name, picture in pictures:
            path = target / f"{name}.png"
            write_bytes(path, picture if isinstance(picture, bytes) else encode_png(picture))
            print(path)
    except OSError as error:
        raise UserError(f"--out={folder} cannot be written ({error.strerror or error}); choose a folder") from error
