"""Self-attention as BEiT has it: biases on queries and values but not on keys, and a bias by relative position."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.models.relative_position import RelativePositionBias


class Attention(nn.Module):
    """Multi-head self-attention (official `modeling_finetune.Attention`).

    Attributes:
      heads: h; the width of a head is d / h.
      kernel_init: of the fused product for queries, keys and values.
      proj_init: of the output product.
      grid: patch grid of a table of relative positions of its own; None: no such table.
      dtype: of the products; the softmax is float32.
    """

    heads: int
    kernel_init: nn.initializers.Initializer
    proj_init: nn.initializers.Initializer
    grid: tuple[int, int] | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None) -> jax.Array:
        """
        Args:
          x: `[b, n, d]`.
          bias: `[1, h, n, n]` to add to the logits, such as one that all blocks share; or None.

        Returns:
          `[b, n, d]`.
        """
        width, head_width = x.shape[-1], x.shape[-1] // self.heads
        # One product for all three. Heads have an axis of their own, so that they can be split over devices.
        fused = nn.DenseGeneral(
            (3, self.heads, head_width), use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype, name="qkv"
        )
        q, k, v = rearrange(fused(x), "b n s h c -> s b n h c")
        zeros, shape = nn.initializers.zeros, (self.heads, head_width)
        q_bias = self.param("q_bias", zeros, shape, jnp.float32).astype(self.dtype)[None, None]
        v_bias = self.param("v_bias", zeros, shape, jnp.float32).astype(self.dtype)[None, None]
        if self.grid is not None:
            own = RelativePositionBias(self.heads, self.grid, name="relative_position")()
            bias = own if bias is None else own + bias
        out = jax.nn.dot_product_attention(q + q_bias, k, v + v_bias, bias=bias)
        return nn.DenseGeneral(width, axis=(-2, -1), kernel_init=self.proj_init, dtype=self.dtype, name="proj")(out)
