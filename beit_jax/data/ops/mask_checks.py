"""What all masks share: checks of their settings, and the op that adds them."""

from collections.abc import Callable

import tensorflow as tf

from beit_jax.data.features import Features
from beit_jax.data.ops.registry import Op
from beit_jax.errors import UserError


def check_blocks(grid: tuple[int, int], min_block: int, most: int) -> None:
    """Raises UserError if the grid is empty, or if `min_block` is not between 1 and the largest block, `most`."""
    if min(grid) < 1:
        raise UserError(f"found a mask grid of {grid} (rows, columns); expected at least one of each")
    if not 0 < min_block <= most:
        raise UserError(f"found min_block {min_block} on a grid of {grid}; expected 1 to {most}, its largest block")


def check_count(grid: tuple[int, int], num_masked: int) -> None:
    """Raises UserError if `num_masked` is not between 1 and the number of patches of the grid."""
    if not 0 < num_masked <= grid[0] * grid[1]:
        raise UserError(f"found {num_masked} masked patches on a grid of {grid}; expected 1 to {grid[0] * grid[1]}")


def mask_op(make: Callable[..., tf.Tensor], grid: int | tuple[int, int], *settings: float) -> Op:
    """The op that adds the `mask` of a function such as `blockwise_masks`; a wrong setting is reported at once."""
    sides = (grid, grid) if isinstance(grid, int) else tuple(grid)
    make(tf.zeros([1, 2], tf.int64), sides, *settings)  # reports a wrong setting when the ops are parsed

    def op(features: Features, seeds: tf.Tensor) -> Features:
        return {**features, "mask": make(seeds, sides, *settings)}

    return op
