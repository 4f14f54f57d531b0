"""Other masks than the released code draws: the paper's algorithm as printed, single patches, and none."""

import tensorflow as tf

from beit_jax.data.ops.mask import MIN_ASPECT, draws_of, grow_masks
from beit_jax.data.ops.mask_checks import check_blocks, check_count, mask_op
from beit_jax.data.ops.mask_fill import fill_masks
from beit_jax.data.ops.registry import Op, register
from beit_jax.errors import UserError


def algorithm1_masks(
    seeds: tf.Tensor, grid: tuple[int, int] = (14, 14), ratio: float = 0.4, min_block: int = 16
) -> tf.Tensor:
    """Algorithm 1 of the paper as printed: bool `[b, h, w]`, with more than ratio * h * w masked patches.

    Unlike in `blockwise_masks`, every block is accepted, so that a mask overshoots, and the aspect ratio is uniform in
    [0.3, 1/0.3]. The paper does not say how its real numbers become patches: here sides are rounded and clipped to the
    grid, and a block covers the rows `[top, top + height)`.
    """
    check_blocks(grid, min_block, grid[0] * grid[1])
    if not 0 < ratio < 1:
        raise UserError(f"algorithm1_mask: found the ratio {ratio}; expected a fraction of the patches between 0 and 1")
    budget = ratio * grid[0] * grid[1]
    return grow_masks(
        draws_of(seeds, attempts=1),
        tf.shape(seeds)[0],
        grid,
        min_block=min_block,
        budget=budget,
        enough=int(budget) + 1,
        root_aspect=lambda u: tf.sqrt(MIN_ASPECT + (1 / MIN_ASPECT - MIN_ASPECT) * u),
        accept=lambda sides, new, cap: tf.ones_like(new, tf.bool),
    )


def random_masks(seeds: tf.Tensor, grid: tuple[int, int] = (14, 14), num_masked: int = 75) -> tf.Tensor:
    """Exactly `num_masked` patches, all choices equally likely: bool `[b, h, w]` (the paper's ablation of blocks)."""
    check_count(grid, num_masked)
    return fill_masks(no_masks(seeds, grid), seeds, num_masked)


def no_masks(seeds: tf.Tensor, grid: tuple[int, int] = (14, 14)) -> tf.Tensor:
    """Nothing is masked: bool `[b, h, w]` (the paper's ablation of masking)."""
    return tf.zeros([tf.shape(seeds)[0], *grid], tf.bool)


@register("batch", random=True)
def algorithm1_mask(ratio: float = 0.4, min_block: int = 16, grid: int | tuple[int, int] = 14) -> Op:
    """Adds `mask`, bool `[b, h, w]`, see `algorithm1_masks`."""
    return mask_op(algorithm1_masks, grid, ratio, min_block)


@register("batch", random=True)
def random_mask(num_masked: int = 75, grid: int | tuple[int, int] = 14) -> Op:
    """Adds `mask`, bool `[b, h, w]`, see `random_masks`."""
    return mask_op(random_masks, grid, num_masked)


@register("batch")
def no_mask(grid: int | tuple[int, int] = 14) -> Op:
    """Adds `mask`, bool `[b, h, w]`, see `no_masks`."""
    return mask_op(no_masks, grid)
