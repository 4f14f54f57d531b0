"""Checks of the settings of masks."""

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
