"""Which patches are hidden: boolean masks for a whole batch at once, from one seed per example.

A block rule asks only "how many cells of this rectangle are masked" and "mask this rectangle". So a mask is kept as a
few integers, several rows of the grid in each, where both are bit operations; and one step of the loop tries all
attempts at one block of every mask that is not finished, since a mask changes only when an attempt succeeds.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from beit_jax.data.ops import random_draws
from beit_jax.data.preprocessing import Features, Op, register
from beit_jax.errors import UserError

ATTEMPTS = 10
MIN_ASPECT = 0.3
BITS = 63  # of the signed integers that hold the rows
BITS_OF_BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(bool)

# Block number, rows [r] of the batch -> uniform numbers [4, r, attempts]: area, aspect, top, left.
Draw = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def target_area(uniform: tf.Tensor, min_block: int, cap: tf.Tensor) -> tf.Tensor:
    """Cells asked for, uniform between `min_block` and `cap`; the bounds change places once cap < min_block."""
    return min_block + (cap - min_block) * uniform


def block_sides(area: tf.Tensor, root_aspect: tf.Tensor, grid: tuple[int, int]) -> tf.Tensor:
    """Height and width in cells, float64 `[2, ...]`, of a block of `area` cells and aspect ratio root_aspect ** 2.

    Halves are rounded to the even side, and a side is at least 1 and at most that of the grid.
    """
    sides = tf.round(tf.sqrt(area) * tf.stack([root_aspect, 1 / root_aspect]))
    return tf.clip_by_value(sides, 1.0, _per_side(grid, sides))


def acceptable(sides: tf.Tensor, new: tf.Tensor, cap: tf.Tensor, grid: tuple[int, int]) -> tf.Tensor:
    """The official test of a block: both sides shorter than the grid's, and 0 < newly masked cells <= cap."""
    inside = tf.reduce_all(sides < _per_side(grid, sides), axis=0)
    return inside & (new > 0) & (new <= cap)


def _per_side(grid: tuple[int, int], like: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.constant(grid, like.dtype), [2] + [1] * (like.shape.rank - 1))


def _row_starts(grid: tuple[int, int]) -> np.ndarray:
    """int64 `[h + 1, words]`: entry r has the lowest bit of each of the first r rows set, where packed rows lie."""
    height, width = grid
    rows = BITS // width
    starts = np.zeros((height + 1, -(-height // rows)), np.int64)
    for row in range(height):
        starts[row + 1] = starts[row]
        starts[row + 1, row // rows] |= 1 << (width * (row % rows))
    return starts


def _rectangle(corner: tf.Tensor, sides: tf.Tensor, grid: tuple[int, int]) -> tf.Tensor:
    """Packed masks, int64 `[b, attempts, words]`, of blocks with these corners and sides, int64 `[2, b, attempts]`."""
    starts = tf.constant(_row_starts(grid))
    top, left = corner[0], corner[1]
    rows = tf.gather(starts, top + sides[0]) - tf.gather(starts, top)
    one = tf.ones_like(left)
    columns = tf.bitwise.left_shift(tf.bitwise.left_shift(one, sides[1]) - one, left)
    return rows * columns[..., None]


def _unpack(words: tf.Tensor, grid: tuple[int, int]) -> tf.Tensor:
    height, width = grid
    rows = BITS // width
    bits = tf.reshape(
        tf.gather(BITS_OF_BYTES, tf.cast(tf.bitcast(words, tf.uint8), tf.int32)), [-1, words.shape[1], 64]
    )
    return tf.reshape(bits[:, :, : rows * width], [-1, words.shape[1] * rows, width])[:, :height]


class _Rule(NamedTuple):
    grid: tuple[int, int]
    min_block: int
    budget: float  # what is left of it bounds the area of the next block
    again_until: int  # the largest count after which another block is tried
    root_aspect: Callable[[tf.Tensor], tf.Tensor]
    accept: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def _paint(rule: _Rule, draw: Draw, batch: tf.Tensor) -> tf.Tensor:
    """bool `[b, h, w]`: adds blocks to each mask until one is refused or the count is above `again_until`."""
    grid = rule.grid

    def one_block(block: tf.Tensor, words: tf.Tensor, count: tf.Tensor, rows: tf.Tensor) -> tuple:
        before = tf.gather(words, rows)
        area, aspect, *place = tf.unstack(draw(block, rows), num=4)
        cap = (rule.budget - tf.cast(tf.gather(count, rows), tf.float64))[:, None]
        sides = block_sides(target_area(area, rule.min_block, cap), rule.root_aspect(aspect), grid)
        corner = tf.floor(tf.stack(place) * (_per_side(grid, sides) - sides + 1))
        blocks = _rectangle(tf.cast(corner, tf.int64), tf.cast(sides, tf.int64), grid)
        overlap = tf.raw_ops.PopulationCount(x=tf.bitwise.bitwise_and(blocks, before[:, None]))
        new = sides[0] * sides[1] - tf.reduce_sum(tf.cast(overlap, tf.float64), -1)
        accepted = rule.accept(sides, new, cap)
        found = tf.where(tf.reduce_any(accepted, 1))[:, 0]
        chosen = tf.stack([found, tf.gather(tf.argmax(accepted, 1), found)], 1)
        painted = tf.bitwise.bitwise_or(tf.gather(before, found), tf.gather_nd(blocks, chosen))
        rows = tf.gather(rows, found)
        words = tf.tensor_scatter_nd_update(words, rows[:, None], painted)
        count = tf.tensor_scatter_nd_add(count, rows[:, None], tf.cast(tf.gather_nd(new, chosen), tf.int32))
        return block + 1, words, count, tf.boolean_mask(rows, tf.gather(count, rows) <= rule.again_until)

    empty = tf.zeros([batch, _row_starts(grid).shape[1]], tf.int64)
    start = (tf.constant(0), empty, tf.zeros([batch], tf.int32), tf.range(batch))
    shapes = (*(part.shape for part in start[:3]), tf.TensorShape([None]))
    _, words, _, _ = tf.while_loop(
        lambda *state: tf.size(state[3]) > 0, one_block, start, shape_invariants=shapes, parallel_iterations=1
    )
    return _unpack(words, grid)


def official_blocks(draw: Draw, batch: tf.Tensor, grid: tuple[int, int], num_masked: int, min_block: int) -> tf.Tensor:
    """The rule of `blockwise_masks` for given uniform numbers: `draw(block, rows)` is float64 `[4, r, ATTEMPTS]`."""
    rule = _Rule(
        grid,
        min_block,
        num_masked,
        num_masked - 1,
        root_aspect=lambda u: tf.exp((u - 0.5) * -math.log(MIN_ASPECT)),
        accept=lambda sides, new, cap: acceptable(sides, new, cap, grid),
    )
    return _paint(rule, draw, batch)


def blockwise_masks(
    seeds: tf.Tensor, grid: tuple[int, int] = (14, 14), num_masked: int = 75, min_block: int = 16
) -> tf.Tensor:
    """Blockwise masks as the official code draws them (unilm `beit/masking_generator.py`): bool `[b, h, w]`.

    `seeds` is integer `[b, 2]`; an example's mask depends on its own row alone. A block has a uniform area between
    `min_block` (`--min_mask_patches_per_block`) and what is left of `num_masked` (`--num_mask_patches`) cells, and a
    log-uniform aspect ratio in [0.3, 1/0.3]. It is kept if it is shorter than the grid on both sides and adds at least
    one cell and none above `num_masked`. Ten refusals in a row end the mask, so that it may hold a few cells less.
    """
    _check_blocks(grid, min_block)
    _check_count(grid, num_masked)
    return official_blocks(_drawn(seeds, ATTEMPTS), tf.shape(seeds)[0], grid, num_masked, min_block)


def algorithm1_masks(
    seeds: tf.Tensor, grid: tuple[int, int] = (14, 14), ratio: float = 0.4, min_block: int = 16
) -> tf.Tensor:
    """Algorithm 1 of the paper as printed: bool `[b, h, w]`; blocks are added until more than ratio * h * w are masked.

    Unlike `blockwise_masks` each block is kept, so that a mask overshoots, and the aspect ratio is uniform in
    [0.3, 1/0.3]. The paper does not say how its real numbers become cells: sides are rounded, cut to the grid, and
    a block covers `[top, top + height)`.
    """
    _check_blocks(grid, min_block)
    if not 0 < ratio < 1:
        raise UserError(f"algorithm1_mask: ratio {ratio} is not a share of the patches; give a number between 0 and 1")
    budget = ratio * grid[0] * grid[1]
    rule = _Rule(
        grid,
        min_block,
        budget,
        int(budget),
        root_aspect=lambda u: tf.sqrt(MIN_ASPECT + (1 / MIN_ASPECT - MIN_ASPECT) * u),
        accept=lambda sides, new, cap: tf.ones_like(new, tf.bool),
    )
    return _paint(rule, _drawn(seeds, 1), tf.shape(seeds)[0])


def _drawn(seeds: tf.Tensor, attempts: int) -> Draw:
    key = random_draws.keys(seeds)
    return lambda block, rows: random_draws.four_uniforms(tf.gather(key, rows), block, attempts)


def random_masks(seeds: tf.Tensor, grid: tuple[int, int] = (14, 14), num_masked: int = 75) -> tf.Tensor:
    """Exactly `num_masked` cells, all choices equally likely: bool `[b, h, w]` (the paper's ablation of blocks)."""
    _check_count(grid, num_masked)
    cells = grid[0] * grid[1]
    order = random_draws.words(random_draws.keys(seeds)[:, None], tf.range(cells)[None])
    rank = tf.argsort(tf.argsort(tf.bitcast(order, tf.int64)))
    return tf.reshape(rank < num_masked, [-1, *grid])


def no_masks(seeds: tf.Tensor, grid: tuple[int, int] = (14, 14)) -> tf.Tensor:
    """Nothing is hidden: bool `[b, h, w]` (the paper's ablation of masking)."""
    return tf.zeros([tf.shape(seeds)[0], *grid], tf.bool)


def _check_blocks(grid: tuple[int, int], min_block: int) -> None:
    if not 0 < grid[1] <= BITS or grid[0] < 1:
        raise UserError(f"found a mask grid of {grid} (rows, columns); expected 1 to {BITS} columns: change the grid")
    if not 0 < min_block <= grid[0] * grid[1]:
        raise UserError(f"found min_block {min_block} on a grid of {grid}; expected 1 to {grid[0] * grid[1]} patches")


def _check_count(grid: tuple[int, int], num_masked: int) -> None:
    if not 0 < num_masked <= grid[0] * grid[1]:
        raise UserError(f"found {num_masked} masked patches on a grid of {grid}; expected 1 to {grid[0] * grid[1]}")


def _mask_op(make: Callable[..., tf.Tensor], grid: int | tuple[int, int], *settings: float) -> Op:
    sides = (grid, grid) if isinstance(grid, int) else tuple(grid)
    make(tf.zeros([1, 2], tf.int64), sides, *settings)  # a bad setting is reported while the ops are read

    def op(features: Features, seeds: tf.Tensor) -> Features:
        return {**features, "mask": make(seeds, sides, *settings)}

    return op


@register("batch", random=True)
def blockwise_mask(num_masked: int = 75, min_block: int = 16, grid: int | tuple[int, int] = 14) -> Op:
    """Adds `mask`, bool `[b, h, w]`: see `blockwise_masks`. A whole number as `grid` is the side of a square one."""
    return _mask_op(blockwise_masks, grid, num_masked, min_block)


@register("batch", random=True)
def algorithm1_mask(ratio: float = 0.4, min_block: int = 16, grid: int | tuple[int, int] = 14) -> Op:
    """Adds `mask`, bool `[b, h, w]`: see `algorithm1_masks`."""
    return _mask_op(algorithm1_masks, grid, ratio, min_block)


@register("batch", random=True)
def random_mask(num_masked: int = 75, grid: int | tuple[int, int] = 14) -> Op:
    """Adds `mask`, bool `[b, h, w]`: see `random_masks`."""
    return _mask_op(random_masks, grid, num_masked)


@register("batch")
def no_mask(grid: int | tuple[int, int] = 14) -> Op:
    """Adds `mask`, bool `[b, h, w]`: see `no_masks`."""
    return _mask_op(no_masks, grid)
