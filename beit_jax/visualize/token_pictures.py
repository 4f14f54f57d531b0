"""What tokens look like: images to tokens and back, the codebook, and what a model expects in masked places."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from beit_jax.models import dvae

AROUND = 1  # tokens on each side of the one that is shown of the codebook
CODES_AT_ONCE = 64
SHEET_SIDE, LEAST_CELL, LARGEST_CELL = 2304, 16, 48  # pixels


def tokens_of(net: dvae.DiscreteVAE, params: Any, images: np.ndarray) -> np.ndarray:
    """Images uint8 `[b, H, W, 3]` -> their likeliest tokens int32 `[b, g, g]`."""
    pixels = dvae.map_pixels(jnp.asarray(images, jnp.float32) / 255.0)
    return np.asarray(jax.jit(lambda p, x: net.apply({"params": p}, x, method=net.tokens))(params, pixels))


def decoder(net: dvae.DiscreteVAE, params: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The function from tokens int32 `[b, g, g]` to images float32 `[b, H, W, 3]` in [0, 1]."""

    @jax.jit
    def decode(params: Any, tokens: jax.Array) -> jax.Array:
        return dvae.reconstruction(net.apply({"params": params}, tokens, method=net.decode_tokens))

    return lambda tokens: np.asarray(decode(params, jnp.asarray(tokens, jnp.int32)))


def codebook(net: dvae.DiscreteVAE, params: Any, done: Callable[[int], Any] = lambda count: None) -> np.ndarray:
    """What each token decodes to among its like, uint8 `[v, s, s, 3]` with s pixels for a token.

    A grid of 3x3 positions holds the same token, and the square of the one in the middle is kept: alone, a token would
    be shown with the decoder's border around it. 64 tokens are decoded at a time.

    Args:
      net: the tokenizer.
      params: its parameters.
      done: told how many more tokens are done.
    """
    decode, side, stride = decoder(net, params), 2 * AROUND + 1, 2 ** (net.groups - 1)
    squares = np.empty((net.vocab, stride, stride, 3), np.uint8)
    inside = slice(AROUND * stride, (AROUND + 1) * stride)
    for start in range(0, net.vocab, CODES_AT_ONCE):
        # The last ones are filled up: another shape would be compiled anew.
        codes = np.minimum(np.arange(start, start + CODES_AT_ONCE), net.vocab - 1)
        images = decode(np.broadcast_to(codes[:, None, None], (CODES_AT_ONCE, side, side)))
        count = min(CODES_AT_ONCE, net.vocab - start)
        squares[start : start + count] = as_bytes(images[:count, inside, inside])
        done(count)
    return squares


def sheet_columns(codes: int) -> int:
    """Squares in a row of the contact sheet: a power of two, so that rows begin with round numbers."""
    return 2 ** math.ceil(math.log2(math.sqrt(codes)))


def contact_sheet(squares: np.ndarray, gap: int = 2) -> np.ndarray:
    """All squares of a codebook, row-major, with the number of the first in each row.

    Args:
      squares: uint8 `[v, s, s, 3]`.
      gap: white pixels between them.

    Returns:
      uint8 `[h, w, 3]`.
    """
    count, side = squares.shape[:2]
    columns = sheet_columns(count)
    rows = -(-count // columns)
    scale = max(1, min(max(SHEET_SIDE // columns, LEAST_CELL), LARGEST_CELL) // side)
    cell, margin = side * scale + gap, 8 * len(str(count)) + 6
    sheet = np.full((rows * cell + gap, margin + columns * cell + gap, 3), 255, np.uint8)
    for code, square in enumerate(squares):
        top, left = (code // columns) * cell + gap, margin + (code % columns) * cell + gap
        sheet[top : top + cell - gap, left : left + cell - gap] = square.repeat(scale, axis=0).repeat(scale, axis=1)
    image = Image.fromarray(sheet)
    draw = ImageDraw.Draw(image)
    for row in range(0, rows, max(1, -(-12 // cell))):
        middle = row * cell + gap + (cell - gap) / 2
        draw.text((margin - 4, middle), str(row * columns), fill=(60, 60, 60), anchor="rm")
    return np.asarray(image)


def top_tokens(logits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest tokens of one position and their probabilities, in falling order.

    Args:
      logits: `[v]`.
      count: how many, at most v.

    Returns:
      int `[count]` and float64 `[count]`.
    """
    shares = np.exp(logits.astype(np.float64) - logits.max())
    order = np.argsort(-shares, kind="stable")[:count]
    return order, shares[order] / shares.sum()


def in_place(
    decode: Callable[[np.ndarray], np.ndarray], tokens: np.ndarray, position: tuple[int, int], codes: np.ndarray
) -> np.ndarray:
    """Images with one token after another in one place, the others as they are.

    Args:
      decode: of `decoder`.
      tokens: int32 `[g, g]`.
      position: row and column of that place.
      codes: int `[k]`.

    Returns:
      float32 `[k, H, W, 3]` in [0, 1].
    """
    grids = np.repeat(tokens[None], len(codes), axis=0)
    grids[:, position[0], position[1]] = codes
    return decode(grids)


def as_bytes(image: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8 of the same shape."""
    return (np.asarray(image, np.float32).clip(0, 1) * 255).round().astype(np.uint8)
