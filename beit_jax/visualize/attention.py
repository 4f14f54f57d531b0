"""Attention maps for reference points, and the mean attention distance of each head.

The maps are those of the paper's figure of self-attention; the mean distance is that of the ViT paper (arXiv
2010.11929, appendix D.7). Both leave out the class token, which has no position in the image: weights on it are
dropped, and those on the patches divided by their sum, so that heads which attend to it much still count in means over
heads.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from matplotlib import colormaps

from beit_jax.errors import UserError
from beit_jax.models import vit

COLOURS = "inferno"  # perceptually uniform: steps of equal weight look equal
BACKGROUND = (0.08, 0.24)  # of white: the greys of black and white in the image below a map
LEAST_TOP = 4  # times uniform attention: with less, noise around it would fill the scale
SCALE = f"lightest: max, at least {LEAST_TOP} x uniform"
FRAME = ((4, 0), (3, 255), (1, 0))  # pixels around a patch and their grey: white between black shows on any picture


def attention_weights(encoder: vit.Encoder, params: Any, images: np.ndarray) -> np.ndarray:
    """The attention weights of all blocks.

    Args:
      encoder: the network.
      params: its parameters.
      images: `[b, H, W, 3]`, normalised.

    Returns:
      float32 `[L, b, h, n+1, n+1]`, query before key, the class token first; rows sum to one. For B/16 these are
      22 MB an image at 224x224 pixels, and 1.5 GB at 640x640.
    """

    @jax.jit
    def weights(params: Any, images: jax.Array) -> jax.Array:
        _, state = encoder.apply({"params": params}, images, mutable=["intermediates"])
        (sown,) = state["intermediates"]["blocks"]["attn"]["weights"]
        return sown

    return np.asarray(weights(params, images))


def between_patches(weights: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Weights `[..., n+1, n+1]` -> `[..., gh, gw, gh, gw]`: row and column of the query, then those of the key.

    Without the class token, and divided by the sum that is left: each map `[gh, gw]` sums to one.
    """
    patches = weights[..., 1:, 1:]
    patches = patches / patches.sum(axis=-1, keepdims=True)
    return patches.reshape(*patches.shape[:-2], *grid, *grid)


def mean_distance(weights: np.ndarray, grid: tuple[int, int], patch: int) -> np.ndarray:
    """The mean distance in pixels between the centres of a patch and of those that it attends to.

    Args:
      weights: `[L, b, h, n+1, n+1]`, of `attention_weights`.
      grid: rows and columns of patches.
      patch: side of a patch in pixels.

    Returns:
      float64 `[L, h]`: the mean over queries and images of the distance, weighted as in `between_patches`.
    """
    indices = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1).reshape(-1, 2)
    distances = patch * np.linalg.norm(indices[:, None] - indices[None], axis=-1)
    means = []
    for layer in weights:  # one at a time, since a copy of all would be as large as they are
        patches = layer[..., 1:, 1:].astype(np.float64)
        means.append(((patches * distances).sum(axis=-1) / patches.sum(axis=-1)).mean(axis=(0, 2)))
    return np.stack(means)


def overlay(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map on top of an image: each patch has one colour, from black for 0 to the lightest for the top of the scale.

    The top is the map's maximum, and at least `LEAST_TOP` times uniform attention, so that a map which is nearly
    uniform looks flat. The image is grey, dark and of low contrast, and fades where attention rises, with the fourth
    power of what is left to the top: all colour, and all that is bright, is attention.

    Args:
      image: uint8 `[H, W, 3]`, sides that are multiples of the map's.
      values: `[gh, gw]`, not negative, of sum 1; the patch of row r and column c covers the pixels
        `[r H/gh, (r+1) H/gh) x [c W/gw, (c+1) W/gw)`.

    Returns:
      uint8 `[H, W, 3]`.
    """
    (height, width), (rows, columns) = image.shape[:2], values.shape
    if height % rows or width % columns:
        raise ValueError(f"found an image of {height}x{width} pixels, expected multiples of the map's {rows}x{columns}")
    top = max(float(values.max()), LEAST_TOP / values.size)
    relative = (values / top).repeat(height // rows, axis=0).repeat(width // columns, axis=1)
    black, white = BACKGROUND
    grey = black + (white - black) * image.mean(axis=-1, keepdims=True) / 255
    colours = colormaps[COLOURS](relative)[..., :3] + (1 - relative[..., None]) ** 4 * grey
    return (255 * colours).round().astype(np.uint8)


def strength(values: np.ndarray) -> str:
    """The maximum of a map of sum 1 in words, beside what uniform attention would give: `max 3.1% (uniform 0.51%)`."""
    peak, uniform = (f"{100 * part:.{2 if part < 0.0995 else 3}g}%" for part in (values.max(), 1 / values.size))
    return f"max {peak} (uniform {uniform})"


def outline(picture: np.ndarray, patch: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """A picture uint8 `[H, W, 3]` with a frame around the patch of a row and a column, whose own pixels stay."""
    (height, width), out = (side // patches for side, patches in zip(picture.shape, grid)), picture.copy()
    top, left = patch[0] * height, patch[1] * width
    for margin, grey in FRAME:
        out[max(top - margin, 0) : top + height + margin, max(left - margin, 0) : left + width + margin] = grey
    inside = slice(top, top + height), slice(left, left + width)
    out[inside] = picture[inside]
    return out


def patch_at(point: tuple[float, float], box: tuple[float, float, float, float], grid: tuple[int, int]) -> Any:
    """Row and column of the patch on which a point lies.

    Args:
      point: x and y in pixels of the picture, from its top left corner.
      box: left, top, right and bottom of the part that the model sees, in the same pixels.
      grid: rows and columns of patches.

    Raises:
      UserError: the point lies outside of that part.
    """
    (x, y), (left, top, right, bottom) = point, box
    if not (left <= x < right and top <= y < bottom):
        raise UserError(
            f"the point {x:g},{y:g} is outside of what the model sees; expected x from {left:g} to {right:g} and y "
            f"from {top:g} to {bottom:g}"
        )
    return int((y - top) / (bottom - top) * grid[0]), int((x - left) / (right - left) * grid[1])


def salient_patches(image: np.ndarray, grid: tuple[int, int], count: int = 4) -> Sequence[tuple[int, int]]:
    """Patches with much contrast that lie apart, as reference points; chosen by the image alone, for all models alike.

    The contrast of a patch is the standard deviation of the grey levels of it and its neighbours. The first patch is
    the one with most contrast; each of the next has the largest product of contrast and distance to the chosen ones.
    The outermost eighth along each side is left out, since distance alone would lead there.

    Args:
      image: uint8 `[H, W, 3]`, sides that are multiples of the grid's.
      grid: rows and columns of patches.
      count: how many at most.

    Returns:
      rows and columns.
    """
    rows, columns = grid
    grey = image.astype(np.float64).mean(axis=-1)
    patches = grey.reshape(rows, len(grey) // rows, columns, -1)
    moments = [np.pad((patches**power).mean(axis=(1, 3)), 1, mode="edge") for power in (1, 2)]
    around = [sum(m[i : i + rows, j : j + columns] for i in range(3) for j in range(3)) / 9 for m in moments]
    indices = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    to_border = np.minimum(indices, np.array(grid) - 1 - indices)
    contrast = np.sqrt(np.maximum(around[1] - around[0] ** 2, 0.0)) + 1e-6
    contrast *= (to_border >= np.array(grid) // 8).all(axis=-1)
    chosen, nearest = [], np.ones(grid)
    for _ in range(min(count, rows * columns)):
        best = tuple(int(index) for index in np.unravel_index(np.argmax(contrast * nearest), grid))
        distances = np.linalg.norm(indices - np.array(best), axis=-1)
        nearest = np.minimum(nearest, distances) if chosen else distances
        chosen.append(best)
    return chosen
