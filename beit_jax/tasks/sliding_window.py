"""Classes of all pixels of images of any size, from a network of one input size (mmsegmentation's `slide_inference`).

Windows of the network's size cover the image. The logits of overlapping windows are averaged, the average is resized to
the label map's size, and the class with the largest logit is taken. Of several passes, at other scales or mirrored
(`aug_test`), the probabilities are averaged there.

Sizes differ between images, and shapes must not. So images lie at the top left of a canvas, which is as wide as the
longer side may be and as high as the shorter side may be: an image higher than wide lies on it transposed, and its
windows are turned back before the network sees them. A square canvas would be four times as large. Each step, from the
canvas to windows and from windows to the label map, is linear in the pixels and separable: a product with two matrices,
whose entries depend on the image's size. Neither the resized image nor the average at its size is ever stored, and
logits at the label map's size are stored for a few rows at a time. The logits of all windows are stored, as large as
the network gives them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.errors import UserError
from beit_jax.models.constrain import batch_sharded
from beit_jax.models.label_maps import IGNORE

ROWS = 64  # of the label map, computed at a time
EXACT = jax.lax.Precision.HIGHEST  # accelerators would round pixels and logits to bfloat16


class Windows(NamedTuple):
    """Windows over images: `stride` pixels from one to the next, the last moved back to end where the image does.

    An image smaller than a window has one, and lies at its start.

    Attributes:
      crop: side of a window.
      stride: at most `crop`.
      size: int32 `[b, 2]`, height and width of the images.
      largest: a bound on these.
    """

    crop: int
    stride: int
    size: jax.Array
    largest: tuple[int, int]

    def number(self) -> jax.Array:
        """int32 `[b, 2]`, of rows and of columns of windows."""
        return jnp.maximum(self.size - self.crop + self.stride - 1, 0) // self.stride + 1

    def most(self) -> tuple[int, int]:
        """A bound on `number`."""
        rows, columns = (max(side - self.crop + self.stride - 1, 0) // self.stride + 1 for side in self.largest)
        return rows, columns

    def start(self, index: jax.Array, axis: int) -> jax.Array:
        """The first pixels of the windows `index`, int32 `[b, m]`, along an axis, 0 down or 1 across."""
        return jnp.maximum(jnp.minimum(index * self.stride, self.size[:, axis, None] - self.crop), 0)


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
      image: float32 `[b, H, W, 3]`, normalised, each image at the top left and zeros beside and below it; an image
        higher than wide is transposed.
      size: int32 `[b, 2]`, height and width of the images, before that.
      label_size: int32 `[b, 2]`, height and width of the label maps.
      crop: side of a window.
      stride: from one window to the next, at most `crop`.
      label_side: side of the square canvas of label maps.
      ratios: the scales of the passes, in units of the images' size on the canvas. Images are resampled from the
        canvas: for more detail at a ratio above 1, put larger images there and divide all ratios.
      flip: whether there is a mirrored pass at each scale too.
      clamp_to_crop: whether a scale that would make the short side smaller than `crop` makes it `crop`. The official
        code does so with all its scales, of which the three smallest become one; with a single scale it leaves the rest
        of the window zero, as here without this. Images are enlarged to the canvas at most, or to a window if that is
        larger.

    Returns:
      int32 `[b, label_side, label_side]`, 255 outside of `label_size`.

    Raises:
      UserError: windows further apart than their side.
    """
    if not 0 < stride <= crop:
        raise UserError(f"found windows {stride} pixels apart, expected 1 to {crop}, the side of a window")
    size, label_size = jnp.maximum(size, 1), jnp.maximum(label_size, 1)
    transposed = size[:, 0] > size[:, 1]
    on_canvas = [jnp.where(transposed[:, None], jnp.flip(sides, 1), sides) for sides in (size, label_size)]
    flips = (False, True) if flip else (False,)
    blocks = -(-label_side // ROWS)
    passes = []
    for ratio in ratios:
        scaled, largest = scaled_size(on_canvas[0], image.shape[1:3], ratio, crop if clamp_to_crop else 0)
        windows = Windows(crop, stride, scaled, largest)
        logits = _all_logits(logits_of, windows, image, on_canvas[0], transposed, flips)

        def all_stitching(axis: int, cells: int, label_side: int, windows: Windows = windows) -> jax.Array:
            """`stitching` of every flip, `[b, f, label_side, g * cells]`."""
            return jnp.stack(
                [
                    stitching(windows, axis, cells, on_canvas[1], label_side, _is_mirrored(transposed, axis, flipped))
                    for flipped in flips
                ],
                axis=1,
            )

        passes.append(
            (
                rearrange(all_stitching(0, logits.shape[3], blocks * ROWS), "b f (n r) k -> n b f r k", r=ROWS),
                all_stitching(1, logits.shape[5], label_side),
                rearrange(logits, "b f gy h gx w c -> b f (gy h) (gx w) c"),
            )
        )
    classes = jax.lax.map(partial(_vote, [rest for _, *rest in passes]), [down for down, *_ in passes])
    classes = _turned(rearrange(classes, "n b r x -> b (n r) x")[:, :label_side], transposed)
    inside = jnp.arange(label_side)[None, None] < label_size[:, :, None]
    return jnp.where(inside[:, 0, :, None] & inside[:, 1, None, :], classes, IGNORE)


def _turned(x: jax.Array, transposed: jax.Array) -> jax.Array:
    """`[b, n, n, ...]` with its axes 1 and 2 exchanged where `transposed`, bool `[b]`."""
    return jnp.where(jnp.expand_dims(transposed, range(1, x.ndim)), jnp.swapaxes(x, 1, 2), x)


def _is_mirrored(transposed: jax.Array, axis: int, flipped: bool | jax.Array) -> jax.Array:
    """bool `[b, 1]`: whether a pass mirrors images along an axis of the canvas; mirroring is from left to right."""
    return (flipped & (transposed == (axis == 0)))[:, None]


def _vote(passes: Sequence[tuple[jax.Array, jax.Array]], down: Sequence[jax.Array]) -> jax.Array:
    """Classes int32 `[b, r, x]` of r rows of the label map, the most likely ones by the mean of all passes.

    Args:
      passes: of each, the matrices across `[b, f, x, w]` and the logits `[b, f, k, w, c]`.
      down: of each, the matrices that take its logits down to these rows, `[b, f, r, k]`.
    """
    votes = []
    for rows, (across, logits) in zip(down, passes, strict=True):
        tall = jnp.einsum("bfrk,bfkwc->bfrwc", rows, logits, precision=EXACT)
        votes.append(jnp.einsum("bfxw,bfrwc->bfrxc", across, tall, precision=EXACT))
    if len(votes) == 1 and votes[0].shape[1] == 1:
        total = votes[0]
    else:
        total = sum(jnp.sum(jax.nn.softmax(vote), axis=1, keepdims=True) for vote in votes)
    return jnp.argmax(total[:, 0], axis=-1).astype(jnp.int32)


def scaled_size(
    size: jax.Array, canvas: tuple[int, int], ratio: float, least: int
) -> tuple[jax.Array, tuple[int, int]]:
    """Sizes int32 `[b, 2]` times `ratio`, rounded, and a bound on them.

    Where the short side would be smaller than `least`, the factor is what makes it `least`, or as near to that as the
    canvas, or a window if that is larger, has room.
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
    transposed: jax.Array,
    flips: Sequence[bool],
) -> jax.Array:
    """Logits of all windows over the images resized from `size`, on the canvas, to `windows.size`.

    Returns:
      float32 `[b, f, gy, h, gx, w, c]`: for each of the `flips`, gy by gx maps of logits. The maps of windows that an
      image does not have are never read.
    """
    batch, crop = image.shape[0], windows.crop
    number = windows.number()
    most = jnp.max(number[:, 0] * number[:, 1])

    def sampling(index: jax.Array, axis: int, mirrored: jax.Array) -> jax.Array:
        """The matrix from the canvas's rows, or columns, to a window's, `[b, crop, H]`; zero beyond the image."""
        pixel = windows.start(index[:, None], axis) + jnp.arange(crop, dtype=jnp.int32)[None]
        length = windows.size[:, axis, None]
        source = source_position(jnp.where(mirrored, length - 1 - pixel, pixel), size[:, axis, None], length)
        return jnp.where((pixel < length)[..., None], hat(source, image.shape[1 + axis]), 0.0)

    def add(step: jax.Array, bank: jax.Array) -> jax.Array:
        flipped, index = step // most, step % most
        i, j = index // number[:, 1], index % number[:, 1]
        vertical, horizontal = (
            sampling(index, axis, _is_mirrored(transposed, axis, flipped == 1)) for axis, index in enumerate((i, j))
        )
        window = jnp.einsum("byh,bhwc->bywc", vertical, image, precision=EXACT)
        window = batch_sharded(jnp.einsum("bxw,bywc->byxc", horizontal, window, precision=EXACT))
        # An image with fewer windows than others repeats some; their logits are never read, or dropped.
        put = jax.vmap(lambda bank, i, j, logits: bank.at[flipped, i, :, j].set(logits, mode="drop"))
        return put(bank, i, j, _turned(logits_of(_turned(window, transposed)), transposed))

    h, w, c = jax.eval_shape(logits_of, jax.ShapeDtypeStruct((batch, crop, crop, image.shape[-1]), image.dtype)).shape[
        1:
    ]
    gy, gx = windows.most()
    bank = batch_sharded(jnp.zeros((batch, len(flips), gy, h, gx, w, c), jnp.float32))
    return jax.lax.fori_loop(0, len(flips) * most, add, bank)


def stitching(
    windows: Windows, axis: int, cells: int, label_size: jax.Array, label_side: int, mirrored: bool | jax.Array = False
) -> jax.Array:
    """The matrix from logits of windows to label pixels, along an axis: `[b, label_side, g * cells]`.

    A label pixel lies between two pixels of the image. Each of these is the mean over those of the g windows that cover
    it, and in each of these windows it lies between two cells of the logits.

    Args:
      windows: over the images.
      axis: 0 down, 1 across.
      cells: logits of a window along the axis.
      label_size: int32 `[b, 2]`, height and width of the label maps.
      label_side: side of their canvas.
      mirrored: whether the windows saw the images mirrored along the axis, one bool or `[b, 1]`.
    """
    size, label_size = windows.size[:, axis, None], label_size[:, axis, None]
    index = jnp.arange(windows.most()[axis], dtype=jnp.int32)[None]
    starts, exists = windows.start(index, axis), index < windows.number()[:, axis, None]
    pixel = jnp.broadcast_to(jnp.arange(label_side, dtype=jnp.int32)[None], (size.shape[0], label_side))
    position = source_position(jnp.where(mirrored, label_size - 1 - pixel, pixel), size, label_size)
    low = jnp.floor(position)
    fraction, low = position - low, low.astype(jnp.int32)
    total = jnp.zeros((), jnp.float32)
    for neighbour, weight in ((low, 1.0 - fraction), (jnp.minimum(low + 1, size - 1), fraction)):
        offset = neighbour[..., None] - starts[:, None]
        within = (offset >= 0) & (offset < windows.crop) & exists[:, None]
        each = (weight / jnp.sum(within, axis=-1, dtype=jnp.float32))[..., None, None]
        cell = hat(source_position(offset, jnp.int32(cells), jnp.int32(windows.crop)), cells)
        total = total + jnp.where(within[..., None], each * cell, 0.0)
    return rearrange(total, "b t g u -> b t (g u)")


def source_position(pixel: jax.Array, source: jax.Array, size: jax.Array) -> jax.Array:
    """Positions in a row of the length `source` of pixels of the row resized to `size` (align_corners=False)."""
    scale = source.astype(jnp.float32) / size.astype(jnp.float32)  # exactly 1 where nothing is resized
    last = source.astype(jnp.float32) - 1.0
    return jnp.clip((pixel.astype(jnp.float32) + 0.5) * scale - 0.5, 0.0, last)


def hat(position: jax.Array, length: int) -> jax.Array:
    """Weights `[..., length]` of linear interpolation at `position` `[...]`, in [0, length - 1]."""
    distance = position[..., None] - jnp.expand_dims(jnp.arange(length, dtype=jnp.float32), range(position.ndim))
    return jnp.maximum(1.0 - jnp.abs(distance), 0.0)
