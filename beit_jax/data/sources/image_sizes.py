"""The sizes of some images, from their headers, without TensorFlow."""

import functools
import io
from collections.abc import Iterable, Sequence
from typing import BinaryIO

from PIL import Image

from beit_jax.data.sources.encoded import EncodedImages
from beit_jax.data.sources.listed_once import kept
from beit_jax.data.sources.tree import read_files
from beit_jax.errors import UserError
from beit_jax.runtime.urls import is_bucket

SAMPLE = 256  # images whose sizes are read
HEADER = 2**18  # bytes of an object that are read: photographs may begin with a small picture of themselves


def some_sizes(paths: Sequence[str]) -> list[tuple[int, int]]:
    """Width and height of some of the images.

    Raises:
      UserError: none of them can be read.
    """
    some = tuple(paths[:: -(-len(paths) // SAMPLE)])
    return _readable(_sizes_in_bucket(some) if is_bucket(paths[0]) else map(_size_of_file, some), paths[0])


@kept  # a command asks for the same images again, for each stage
def some_encoded_sizes(images: EncodedImages) -> list[tuple[int, int]]:
    """See `some_sizes`."""
    return _readable(map(_size_of, map(io.BytesIO, images.read_some(SAMPLE))), images.name(0))


def _readable(found: Iterable[tuple[int, int] | None], name: str) -> list[tuple[int, int]]:
    found = list(found)
    sizes = [size for size in found if size]  # training counts and names images that cannot be read
    if not sizes:
        raise UserError(f"no image of {len(found)} can be read, such as {name}; expected image files")
    return sizes


@functools.cache  # as `some_encoded_sizes`
def _sizes_in_bucket(paths: tuple[str, ...]) -> list[tuple[int, int] | None]:
    return [content and _size_of(io.BytesIO(content)) for content in read_files(paths, HEADER)]


@functools.cache  # as `some_encoded_sizes`
def _size_of_file(path: str) -> tuple[int, int] | None:
    return _size_of(path)


def _size_of(file: str | BinaryIO) -> tuple[int, int] | None:
    """Width and height of an image; None if it cannot be read."""
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
