"""Blockwise masks, for a whole batch at once, each from the seed of its own example (BEiT paper, section 2.3).

A block mask grows block by block. One step of the loop draws ten rectangles for every mask of the batch, and adds to
each mask the first of its rectangles that the rule accepts.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from beit_jax.data.ops import random_draws
from beit_jax.data.ops.mask_checks import check_blocks, check_count, mask_op
from beit_jax.data.ops.mask_fill import fill_masks
from beit_jax.data.ops.registry import Op, register

ATTEMPTS = 10
MIN_ASPECT = 0.3

# Number of the block -> uniform numbers, float64 [4, b, attempts]: area, aspect ratio, top, left.
Draw = Callable[[tf.Tensor], tf.Tensor]
# (sides float64 [2, b, attempts], newly masked patches [b, attempts], cap [b, 1]) -> bool [b, attempts]. The cap of a
# mask is the number of patches that it may still add.
Accept = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def target_area(uniform: tf.Tensor, min_block: int, cap: tf.Tensor) -> tf.Tensor:
    """The wanted area of a block, uniform between `min_block` and `cap`; in a nearly full mask, `cap` is smaller."""
    return min_block + (cap - min_block) * uniform


def block_sides(area: tf.Tensor, root_aspect: tf.Tensor, grid: tuple[int, int]) -> tf.Tensor:
    """Height and width in patches, float64 `[2, ...]`, of a block of `area` patches and aspect ratio root_aspect ** 2.

    Sides are rounded, x.5 to the even number. A side is at least 1 and at most that of the grid.
    """
    height, width = (tf.round(tf.sqrt(area) * root) for root in (root_aspect, 1 / root_aspect))
    return tf.stack([tf.clip_by_value(height, 1, grid[0]), tf.clip_by_value(width, 1, grid[1])])


def acceptable(sides: tf.Tensor, new: tf.Tensor, cap: tf.Tensor, grid: tuple[int, int]) -> tf.Tensor:
    """The official test of a block: both sides are shorter than the grid's, and 0 < newly masked patches <= cap."""
    height, width = tf.unstack(sides)
    return (height < grid[0]) & (width < grid[1]) & (new > 0) & (new <= cap)


def grow_masks(
    draw: Draw,
    batch: tf.Tensor,
    grid: tuple[int, int],
    *,
    min_block: int,
    budget: float,
    enough: int,
    root_aspect: Callable[[tf.Tensor], tf.Tensor],
    accept: Accept,
) -> tf.Tensor:
    """bool `[b, h, w]`: adds blocks to each mask until `enough` patches are masked or no attempt is accepted.

    Args:
      draw: the random numbers.
      batch: number of masks.
      grid: rows and columns of patches.
      min_block: one bound of the area of a block, in patches. The other bound is the cap: `budget` minus the patches
        that are masked already.
      budget: the number of patches that the rule aims at.
      enough: a mask is finished when it has this many masked patches.
      root_aspect: from a uniform number to the square root of a block's aspect ratio, height / width.
      accept: says which attempts the rule accepts. The first accepted attempt is added to the mask.
    """

    def add_block(block: tf.Tensor, mask: tf.Tensor, unfinished: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        area, aspect, top, left = tf.unstack(draw(block), num=4)
        cap = budget - tf.cast(_count(mask), tf.float64)[:, None]
        sides = block_sides(target_area(area, min_block, cap), root_aspect(aspect), grid)
        in_rows = _between(tf.floor(top * (grid[0] - sides[0] + 1)), sides[0], grid[0])
        in_columns = _between(tf.floor(left * (grid[1] - sides[1] + 1)), sides[1], grid[1])
        parts = (tf.cast(part, tf.float32) for part in (in_rows, mask, in_columns))
        overlap = tf.cast(tf.einsum("bnh,bhw,bnw->bn", *parts), tf.float64)  # n: attempts
        accepted = accept(sides, sides[0] * sides[1] - overlap, cap) & unfinished[:, None]
        grows, first = tf.reduce_any(accepted, 1), tf.argmax(accepted, 1)
        rows, columns = (tf.gather(part, first, batch_dims=1) for part in (in_rows, in_columns))
        mask |= rows[:, :, None] & columns[:, None, :] & grows[:, None, None]
        return block + 1, mask, grows & (_count(mask) < enough)

    start = (tf.constant(0), tf.zeros([batch, *grid], tf.bool), tf.ones([batch], tf.bool))
    return tf.while_loop(lambda block, mask, unfinished: tf.reduce_any(unfinished), add_block, start)[1]


def _between(start: tf.Tensor, length: tf.Tensor | int, size: int) -> tf.Tensor:
    """bool `[b, attempts, size]`: which of `size` rows or columns lie from `start` to before `start + length`."""
    line = tf.range(size, dtype=start.dtype)
    return (line >= start[..., None]) & (line < (start + length)[..., None])


def _count(mask: tf.Tensor) -> tf.Tensor:
    return tf.math.count_nonzero(mask, axis=[1, 2], dtype=tf.int32)


def official_blocks(draw: Draw, batch: tf.Tensor, grid: tuple[int, int], num_masked: int, min_block: int) -> tf.Tensor:
    """The rule of `blockwise_masks` for given uniform numbers: `draw(block)` is float64 `[4, b, ATTEMPTS]`."""
    return grow_masks(
        draw,
        batch,
        grid,
        min_block=min_block,
        budget=num_masked,
        enough=num_masked,
        # Aspect ratios are log-uniform in [MIN_ASPECT, 1 / MIN_ASPECT].
        root_aspect=lambda u: tf.exp((u - 0.5) * -math.log(MIN_ASPECT)),
        accept=lambda sides, new, cap: acceptable(sides, new, cap, grid),
    )


def _one_patch(draw: Draw, grid: tuple[int, int]) -> tf.Tensor:
    """bool `[b, h, w]`: the patch at the top left of each mask's first attempt at a block of one patch."""
    _, _, top, left = tf.unstack(draw(tf.constant(0))[..., :1], num=4)
    rows, columns = (_between(tf.floor(start * size), 1, size) for start, size in zip((top, left), grid, strict=True))
    return rows[:, 0, :, None] & columns[:, 0, None, :]


def blockwise_masks(
    seeds: tf.Tensor, grid: tuple[int, int] = (14, 14), num_masked: int = 75, min_block: int = 16, exact: bool = False
) -> tf.Tensor:
    """Blockwise masks as the official code draws them (unilm `beit/masking_generator.py`): bool `[b, h, w]`.

    The mask of an example depends on its own row of the integer `seeds` `[b, 2]` alone. A block has a uniform area
    between `min_block` (`--min_mask_patches_per_block`) and what is left of `num_masked` (`--num_mask_patches`), and a
    log-uniform aspect ratio in [0.3, 1/0.3]. It is accepted if both of its sides are shorter than the grid's, it masks
    at least one new patch, and the mask then has at most `num_masked` patches. A mask ends when ten attempts at a block
    are refused; it may have a few patches less than `num_masked`. Where the first ten are, as may happen on a small
    grid, the official mask is empty, and its loss a mean of nothing: here it has one patch.
    With `exact`, random patches are added until a mask has `num_masked`, as in BEiT v2 (unilm `beit2/`).
    """
    check_blocks(grid, min_block, max((grid[0] - 1) * (grid[1] - 1), 1))
    check_count(grid, num_masked)
    draw = draws_of(seeds, ATTEMPTS)
    masks = official_blocks(draw, tf.shape(seeds)[0], grid, num_masked, min_block)
    if exact:
        return fill_masks(masks, seeds, num_masked, first=2**32)  # beyond the numbers of all blocks
    return masks | _one_patch(draw, grid) & (_count(masks) == 0)[:, None, None]


def draws_of(seeds: tf.Tensor, attempts: int) -> Draw:
    """Uniform numbers for each block, from integer `seeds` `[b, 2]`."""
    keys = random_draws.keys(seeds)
    return lambda block: random_draws.four_uniforms(keys, block, attempts)


@register("batch", random=True)
def blockwise_mask(
    num_masked: int = 75, min_block: int = 16, grid: int | tuple[int, int] = 14, exact: bool = False
) -> Op:
    """Adds `mask`, bool `[b, h, w]`, see `blockwise_masks`; one number as `grid` is the side of a square grid."""
    return mask_op(blockwise_masks, grid, num_masked, min_block, exact)
