"""Relative position bias (BEiT paper, section 2.2; `RelativePositionBias` in the official `modeling_finetune.py`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from beit_jax.models.constrain import one_per_part

# Pairs that involve the class token, which has no place on the grid, own the last three rows of the table.
CLS_TO_PATCH, PATCH_TO_CLS, CLS_TO_CLS = -3, -2, -1


def table_rows(grid: tuple[int, int]) -> int:
    """R, the rows of the table of a grid: one for each offset between two patches and three for the class token."""
    height, width = grid
    return (2 * height - 1) * (2 * width - 1) + 3


def relative_position_index(grid: tuple[int, int]) -> np.ndarray:
    """The row of the table that each pair of query (first axis) and key (second axis) uses.

    Two patches share a row with all pairs at the same offset, query minus key, numbered row-major from the most
    negative offset. Token 0 is the class token; patches follow row-major.

    Args:
      grid: rows and columns of patches, whose product is n.

    Returns:
      int32 `[n+1, n+1]`.
    """
    height, width = grid
    ys, xs = np.divmod(np.arange(height * width), width)
    dy = ys[:, None] - ys[None, :] + height - 1
    dx = xs[:, None] - xs[None, :] + width - 1
    rows = table_rows(grid)
    index = np.pad(dy * (2 * width - 1) + dx, (1, 0))
    index[0, 1:] = rows + CLS_TO_PATCH
    index[1:, 0] = rows + PATCH_TO_CLS
    index[0, 0] = rows + CLS_TO_CLS
    return index.astype(np.int32)


class RelativePositionBias(nn.Module):
    """A learned term for each head and offset, added to the attention logits.

    Attributes:
      heads: number of attention heads h.
      grid: rows and columns of patches, whose product is n.
    """

    heads: int
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, rows: int = 1) -> jax.Array:
        """Looks the pairs up in the parameter `table` `[R, h]`, initially zero.

        Args:
          rows: b, of the batch to whose logits the bias will be added.

        Returns:
          float32 `[p, h, n+1, n+1]`, alike for the p parts that the mesh makes of the batch; see `one_per_part`.
        """
        table = self.param("table", nn.initializers.zeros, (table_rows(self.grid), self.heads), jnp.float32)
        return one_per_part(table, rows)[:, relative_position_index(self.grid)].transpose(0, 3, 1, 2)
