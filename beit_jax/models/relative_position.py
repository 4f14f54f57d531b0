"""Bias of the attention by relative position, with rows of its own for the class token."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def table_rows(grid: tuple[int, int]) -> int:
    """Rows of the table: one for each offset between two patches, and three for the class token."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def relative_position_index(grid: tuple[int, int]) -> np.ndarray:
    """Which row of the table each pair of tokens uses, int32 `[n + 1, n + 1]`: query by row, key by column.

    Sequence position 0 is the class token. Patches a and b, at (ya, xa) and (yb, xb), use the row of their offset
    (ya - yb, xa - xb), counted from the most negative one. The last three rows are class to patch, patch to class, and
    class to itself.

    Args:
      grid: height and width of the patch grid.

    >>> relative_position_index((14, 14))[[0, 0, 1, 1, 2], [0, 1, 0, 2, 1]].tolist()
    [731, 729, 730, 363, 365]
    """
    height, width = grid
    y, x = np.divmod(np.arange(height * width), width)
    offset_y = y[:, None] - y[None, :] + height - 1
    offset_x = x[:, None] - x[None, :] + width - 1
    rows = table_rows(grid)
    index = np.empty((1 + height * width,) * 2, np.int32)
    index[1:, 1:] = offset_y * (2 * width - 1) + offset_x
    index[0, 1:] = rows - 3
    index[1:, 0] = rows - 2
    index[0, 0] = rows - 1
    return index


class RelativePositionBias(nn.Module):
    """A learned table `[r, h]`, zero at first, looked up for every pair of tokens.

    Attributes:
      heads: h.
      grid: height and width of the patch grid.
    """

    heads: int
    grid: tuple[int, int]

    @nn.compact
    def __call__(self) -> jax.Array:
        """The bias, float32 `[1, h, n + 1, n + 1]`."""
        table = self.param("table", nn.initializers.zeros, (table_rows(self.grid), self.heads), jnp.float32)
        return jnp.moveaxis(table[relative_position_index(self.grid)], -1, 0)[None]
