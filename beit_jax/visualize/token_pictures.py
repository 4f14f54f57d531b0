"""What tokens look like: images to tokens and back, the codebook, and the most likely tokens of a masked patch."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from beit_jax.models.tokenizer import Tokenizer
from beit_jax.typing import Params
from beit_jax.visualize.images import to_bytes

MARGIN = 1  # equal tokens on each side of the one that is shown of the codebook
CODES_AT_ONCE = 64
SHEET_SIDE, MIN_CELL, MAX_CELL = 2304, 16, 48  # pixels


def tokens_of(tokenizer: Tokenizer, params: Params, images: np.ndarray) -> np.ndarray:
    """Images uint8 `[b, H, W, 3]` -> their tokens int32 `[b, g, g']`."""
    view = tokenizer.from_pixels(jnp.asarray(images, jnp.float32) / 255.0)
    return np.asarray(jax.jit(tokenizer.targets)(params, view))


def make_decoder(tokenizer: Tokenizer, params: Params) -> Callable[[np.ndarray], np.ndarray]:
    """The function from tokens int32 `[b, g, g']` to images float32 `[b, H, W, 3]` in [0, 1]."""
    decode = jax.jit(tokenizer.decode)
    return lambda tokens: np.asarray(decode(params, jnp.asarray(tokens, jnp.int32)))


def decode_codebook(
    tokenizer: Tokenizer, params: Params, report_done: Callable[[int], Any] = lambda count: None
) -> np.ndarray:
    """What each token decodes to among its like, uint8 `[v, s, s, 3]` with s pixels for a token.

    A grid of 3x3 positions holds the same token, and the square of the one in the middle is kept: alone, a token would
    be shown with the decoder's border around it. 64 tokens are decoded at a time.

    Args:
      tokenizer: one that can decode.
      params: its parameters.
      report_done: called with the number of tokens that were decoded since the last call.
    """
    decode, side, stride = make_decoder(tokenizer, params), 2 * MARGIN + 1, tokenizer.stride(tokenizer.section)
    squares = np.empty((tokenizer.vocab, stride, stride, 3), np.uint8)
    inside = slice(MARGIN * stride, (MARGIN + 1) * stride)
    for start in range(0, tokenizer.vocab, CODES_AT_ONCE):
        # The last ones are padded: another shape would be compiled anew.
        codes = np.minimum(np.arange(start, start + CODES_AT_ONCE), tokenizer.vocab - 1)
        images = decode(np.broadcast_to(codes[:, None, None], (CODES_AT_ONCE, side, side)))
        count = min(CODES_AT_ONCE, tokenizer.vocab - start)
        squares[start : start + count] = to_bytes(images[:count, inside, inside])
        report_done(count)
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
    scale = max(1, min(max(SHEET_SIDE // columns, MIN_CELL), MAX_CELL) // side)
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
    """The most likely tokens of one position and their probabilities, in falling order.

    Args:
      logits: `[v]`.
      count: how many, at most v.

    Returns:
      int `[count]` and float64 `[count]`.
    """
    weights = np.exp(logits.astype(np.float64) - logits.max())
    order = np.argsort(-weights, kind="stable")[:count]
    return order, weights[order] / weights.sum()


def decode_replaced(
    decode: Callable[[np.ndarray], np.ndarray], tokens: np.ndarray, position: tuple[int, int], codes: np.ndarray
) -> np.ndarray:
    """Images with one token after another at one position; the tokens of the other positions stay.

    Args:
      decode: of `make_decoder`.
      tokens: int32 `[g, g]`.
      position: row and column.
      codes: int `[k]`.

    Returns:
      float32 `[k, H, W, 3]` in [0, 1].
    """
    grids = np.repeat(tokens[None], len(codes), axis=0)
    grids[:, position[0], position[1]] = codes
    return decode(grids)
