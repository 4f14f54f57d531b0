"""Classes of all pixels of images of any size, from a network of one input size (mmsegmentation's `slide_inference`).

Windows of the network's size cover the image, the logits of overlapping ones are averaged, the average is resized to
the label map's size and the largest logit wins. Of several passes, at other scales or mirrored (`aug_test`), the
probabilities are averaged there.

Sizes differ between images and shapes must not: images lie at the top left of a canvas, and the steps between canvas
and windows, and between windows and label map, are linear in the pixels and separable, so that each is a product with
two matrices, whose entries depend on the image's size. Neither the resized image nor the average at its size ever
exists, and logits at the label map's size exist for a few rows at a time. What is kept is the logits of all windows, as
large as the network gives them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.evals.segmentation import IGNORE
from beit_jax.models.constrain import batch_sharded

ROWS = 64  # rows of the label map that are made at a time
EXACT = jax.lax.Precision.HIGHEST  # accelerators would round pixels and logits to bfloat16


class Windows(NamedTuple):
    """Windows of side `crop` along one side of an image, each `stride` after the one before, the last moved back.

    An image smaller than a window has one, and lies at its start.
    """

    crop: int
    stride: int

    def number(self, size: jax.Array) -> jax.Array:
        """How many windows cover each of the lengths `size`, an int or int32 `[b]`."""
        beyond = size - self.crop + self.stride - 1
        return (max(beyond, 0) if isinstance(beyond, int) else jnp.maximum(beyond, 0)) // self.stride + 1

    def start(self, index: jax.Array, size: jax.Array) -> jax.Array:
        """The first pixel of the windows `index`."""
        return jnp.maximum(jnp.minimum(index * self.stride, size - self.crop), 0)


def predict(
    logits_of: Callable[[jax.Array], jax.Array],
    image: jax.Array,
    size: jax.Array,
    label_size: jax.Array,
    *,
    crop: int,
    stride: int,
    label_side: int,
    ratios: Sequence[float] = (1.0,),
    flip: bool = False,
    clamp_to_crop: bool = False,
) -> jax.Array:
    """Classes of pixels at the size of the label maps.

    Args:
      logits_of: the network, `[b, crop, crop, 3]` -> float32 `[b, h, w, c]`, h and w at most `crop`.
      image: float32 `[b, H, W, 3]`, normalised, each image at the top left and zeros beside and below it.
      size: int32 `[b, 2]`, height and width of the images on the canvas.
      label_size: int32 `[b, 2]`, height and width of the label maps.
      crop: side of a window.
      stride: from one window to the next, at most `crop`.
      label_side: side of the square canvas of label maps.
      ratios: the scales at which images are seen, in units of their size on the canvas. They are resampled from the
        canvas: to see more detail at a ratio above 1, put larger images there and divide all ratios.
      flip: whether they are seen mirrored too.
      clamp_to_crop: whether a scale that would make the short side smaller than `crop` makes it `crop`, as the official
        code does with all its scales, of which the three smallest become one; else the rest of the window is zero, as
        with a single scale. It never enlarges images beyond the canvas.

    Returns:
      int32 `[b, label_side, label_side]`, 255 outside of `label_size`.
    """
    size, label_size = jnp.maximum(size, 1), jnp.maximum(label_size, 1)
    windows, flips = Windows(crop, stride), (False, True) if flip else (False,)
    blocks = -(-label_side // ROWS)
    banks, rows, columns = [], [], []
    for ratio in ratios:
        scaled, largest = scaled_size(size, image.shape[1:3], ratio, crop if clamp_to_crop else 0)
        bank = _all_logits(logits_of, windows, image, size, scaled, largest, flips)
        cells = (bank.shape[2] // windows.number(largest[0]), bank.shape[3] // windows.number(largest[1]))
        down = stitching(windows, scaled[:, 0], largest[0], cells[0], label_size[:, 0], blocks * ROWS)
        across = [
            stitching(windows, scaled[:, 1], largest[1], cells[1], label_size[:, 1], label_side, mirrored)
            for mirrored in flips
        ]
        banks.append(bank)
        rows.append(rearrange(down, "b (n r) k -> n b r k", r=ROWS))
        columns.append(jnp.stack(across, axis=1))

    def classes(block: list[jax.Array]) -> jax.Array:
        """Of ROWS rows, int32 `[b, ROWS, label_side]`."""
        votes = []
        for bank, down, across in zip(banks, block, columns, strict=True):
            tall = jnp.einsum("brk,bfkwc->bfrwc", down, bank, precision=EXACT)
            logits = jnp.einsum("bfxw,bfrwc->bfrxc", across, tall, precision=EXACT)
            votes.append(logits[:, 0] if len(ratios) * len(flips) == 1 else jnp.sum(jax.nn.softmax(logits), axis=1))
        return jnp.argmax(sum(votes[1:], votes[0]), axis=-1).astype(jnp.int32)

    found = rearrange(jax.lax.map(classes, rows), "n b r x -> b (n r) x")[:, :label_side]
    inside = jnp.arange(label_side)[None, None] < label_size[:, :, None]
    return jnp.where(inside[:, 0, :, None] & inside[:, 1, None, :], found, IGNORE)


def scaled_size(
    size: jax.Array, canvas: tuple[int, int], ratio: float, least: int
) -> tuple[jax.Array, tuple[int, int]]:
    """Sizes int32 `[b, 2]` times `ratio`, rounded, or what brings the short side to `least`; and their bound.

    Raising to `least` goes as far as the canvas, or a window, has room.
    """
    room = [max(side, least) if least else 0 for side in canvas]
    largest = tuple(max(int(ratio * side + 0.5), other, 1) for side, other in zip(canvas, room, strict=True))
    lengths = size.astype(jnp.float32)
    factor = jnp.full((size.shape[0],), ratio, jnp.float32)
    if least:
        fitting = jnp.min(jnp.asarray([room], jnp.float32) / lengths, axis=1)
        factor = jnp.maximum(factor, jnp.minimum(least / jnp.min(lengths, axis=1), fitting))
    scaled = jnp.floor(lengths * factor[:, None] + 0.5).astype(jnp.int32)
    return jnp.clip(scaled, 1, jnp.asarray([largest], jnp.int32)), largest


def _all_logits(
    logits_of: Callable[[jax.Array], jax.Array],
    windows: Windows,
    image: jax.Array,
    size: jax.Array,
    scaled: jax.Array,
    largest: tuple[int, int],
    flips: Sequence[bool],
) -> jax.Array:
    """Logits of all windows of the images resized to `scaled`, as many as the image of most windows has.

    Returns:
      `[b, f, gy h, gx w, c]`: for each of the `flips`, gy by gx maps of logits, windows that do not exist being zero.
    """
    batch, crop = image.shape[0], windows.crop
    down, across = windows.number(scaled[:, 0]), windows.number(scaled[:, 1])
    most = jnp.max(down * across)

    def sampling(start: jax.Array, axis: int, mirrored: jax.Array) -> jax.Array:
        """Rows or columns of a window out of the canvas's, `[b, crop, H]`; zero beyond the image."""
        pixel = start[:, None] + jnp.arange(crop)[None]
        length = scaled[:, axis, None]
        source = jnp.where(mirrored, length - 1 - pixel, pixel)
        weights = hat(source_position(source, size[:, axis, None], length), image.shape[1 + axis])
        return jnp.where((pixel < length)[..., None], weights, 0.0)

    def add(step: jax.Array, bank: jax.Array) -> jax.Array:
        mirrored, index = step // most, step % most
        i, j = index // across, index % across
        y, x = windows.start(i, scaled[:, 0]), windows.start(j, scaled[:, 1])
        vertical, horizontal = sampling(y, 0, jnp.bool_(False)), sampling(x, 1, mirrored == 1)
        window = jnp.einsum("byh,bhwc->bywc", vertical, image, precision=EXACT)
        window = batch_sharded(jnp.einsum("bxw,bywc->byxc", horizontal, window, precision=EXACT))
        # Windows after an image's last one have a row of their own, outside of the bank, and are dropped.
        put = jax.vmap(lambda bank, i, j, logits: bank.at[mirrored, i, :, j].set(logits, mode="drop"))
        return put(bank, i, j, logits_of(window))

    shape = jax.eval_shape(logits_of, jax.ShapeDtypeStruct((batch, crop, crop, 3), image.dtype)).shape
    grid = tuple(windows.number(side) for side in largest)
    bank = jnp.zeros((batch, len(flips), grid[0], shape[1], grid[1], shape[2], shape[3]), jnp.float32)
    bank = jax.lax.fori_loop(0, len(flips) * most, add, batch_sharded(bank))
    return rearrange(bank, "b f gy h gx w c -> b f (gy h) (gx w) c")


def stitching(
    windows: Windows,
    size: jax.Array,
    largest: int,
    cells: int,
    label_size: jax.Array,
    label_side: int,
    mirrored: bool = False,
) -> jax.Array:
    """What takes logits of windows along one side of the images to label pixels, `[b, label_side, g * cells]`.

    Each label pixel lies between two of the image's; each of these is the mean over the g windows that it lies in; and
    in each of these between two cells of the logits.

    Args:
      windows: of the side.
      size: int32 `[b]`, lengths of the images that the windows cover.
      largest: the largest of these.
      cells: logits of a window along the side.
      label_size: int32 `[b]`, lengths of the label maps.
      label_side: of their canvas.
      mirrored: whether the windows saw the images mirrored along this side.
    """
    index = jnp.arange(windows.number(largest), dtype=jnp.int32)[None]
    starts = windows.start(index, size[:, None])
    exists = index < windows.number(size)[:, None]
    pixel = jnp.broadcast_to(jnp.arange(label_side, dtype=jnp.int32)[None], (size.shape[0], label_side))
    if mirrored:
        pixel = label_size[:, None] - 1 - pixel
    position = source_position(pixel, size[:, None], label_size[:, None])
    low = jnp.floor(position)
    share, low = position - low, low.astype(jnp.int32)
    total = jnp.zeros((), jnp.float32)
    for neighbour, weight in ((low, 1.0 - share), (jnp.minimum(low + 1, size[:, None] - 1), share)):
        offset = neighbour[..., None] - starts[:, None]
        within = (offset >= 0) & (offset < windows.crop) & exists[:, None]
        each = weight / jnp.sum(within, axis=-1, dtype=jnp.float32)
        cell = source_position(offset, jnp.int32(cells), jnp.int32(windows.crop))
        total = total + jnp.where(within[..., None], each[..., None, None] * hat(cell, cells), 0.0)
    return rearrange(total, "b t g u -> b t (g u)")


def source_position(pixel: jax.Array, source: jax.Array, size: jax.Array) -> jax.Array:
    """Where pixels of a row resized from the length `source` to `size` lie in the source (align_corners=False)."""
    scale = source.astype(jnp.float32) / size.astype(jnp.float32)  # exactly 1 where nothing is resized
    last = source.astype(jnp.float32) - 1.0
    return jnp.clip((pixel.astype(jnp.float32) + 0.5) * scale - 0.5, 0.0, last)


def hat(position: jax.Array, length: int) -> jax.Array:
    """Weights `[..., length]` of linear interpolation at `position` `[...]`, in [0, length - 1]."""
    distance = position[..., None] - jnp.expand_dims(jnp.arange(length, dtype=jnp.float32), range(position.ndim))
    return jnp.maximum(1.0 - jnp.abs(distance), 0.0)
