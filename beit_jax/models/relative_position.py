"""Relative position bias (BEiT paper, section 2.2; `RelativePositionBias` in the official `modeling_finetune.py`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from beit_jax.models.xla_workarounds import copy_per_shard

# The class token has no position on the grid. The last three rows of the table are for pairs with the class token.
CLS_TO_PATCH, PATCH_TO_CLS, CLS_TO_CLS = -3, -2, -1


def table_rows(grid: tuple[int, int]) -> int:
    """R, the number of rows of a grid's table: one for each offset between two patches, three for the class token."""
    height, width = grid
    return (2 * height - 1) * (2 * width - 1) + 3


def relative_position_index(grid: tuple[int, int]) -> np.ndarray:
    """The row of the table for each pair of a query (first axis) and a key (second axis), int32 `[n+1, n+1]`.

    The offset of a pair is the position of the query minus that of the key. Pairs with the same offset share a row of
    the table. These rows are sorted by vertical offset, then by horizontal offset, from the most negative one. Token 0
    is the class token; the n patches follow in row-major order.
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
    """A learned number for each of h `heads` and each offset on the `grid` of n patches, added to the attention logits.

    The parameter `table` `[R, h]` is zero at first.
    """

    heads: int
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, batch: int = 1) -> jax.Array:
        """The bias, float32 `[s, h, n+1, n+1]`, for the attention logits of `batch` examples.

        If a mesh splits the batch into s shards, each shard has a copy (see `copy_per_shard`); otherwise s is 1.
        """
        table = self.param("table", nn.initializers.zeros, (table_rows(self.grid), self.heads), jnp.float32)
        return copy_per_shard(table, batch)[:, relative_position_index(self.grid)].transpose(0, 3, 1, 2)
