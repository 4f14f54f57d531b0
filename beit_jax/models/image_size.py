"""Sizes of images in pixels: one number for a square, a pair (height, width) for a rectangle."""

import re

ImageSize = int | tuple[int, int]


def sides(size: ImageSize) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def simplest(height: int, width: int) -> ImageSize:
    """The inverse of `sides`: one number for a square."""
    return height if height == width else (height, width)


def in_words(size: ImageSize) -> str:
    """`224`, or `96x192`: height x width, as `parse` reads it."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def parse(text: str) -> ImageSize:
    """Reads `224`, `96x192` or `(96, 192)`.

    Raises:
      ValueError: the text is something else.
    """
    if match := re.fullmatch(r"\s*\(?\s*(-?\d+)\s*[x,]\s*(-?\d+)\s*\)?\s*", text):
        return simplest(int(match[1]), int(match[2]))
    return int(text)


def grid_of(size: ImageSize, patch: int) -> tuple[int, int]:
    """Rows and columns of whole patches of `patch` pixels a side."""
    height, width = sides(size)
    return height // patch, width // patch


def area(size: ImageSize) -> int:
    """Pixels of an image, or patches of a grid."""
    height, width = sides(size)
    return height * width
