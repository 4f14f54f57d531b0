"""Multi-head self-attention as in BEiT (`Attention` in the official `modeling_finetune.py`)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.nn.initializers import Initializer

from beit_jax.models.relative_position import RelativePositionBias


class Attention(nn.Module):
    """Self-attention with one fused projection, biases for queries and values only, and a position bias.

    Heads are an axis of their own in every parameter (`qkv/kernel` `[d, 3, h, d/h]`, `q_bias` and `v_bias` `[h, d/h]`,
    `proj/kernel` `[h, d/h, d]`), so that tensor parallelism splits that axis and nothing else. The key has no bias: it
    would add the same to all logits of a query, which the softmax cancels.

    Attributes:
      heads: number of heads h, which divides the width d.
      grid: rows and columns of patches if this block owns a table of relative positions, else None.
      kernel_init: initializer of `qkv/kernel`.
      proj_init: initializer of `proj/kernel`.
      dtype: of the matrix products; logits and softmax are float32.
    """

    heads: int
    grid: tuple[int, int] | None
    kernel_init: Initializer
    proj_init: Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        """Mixes tokens.

        With the collection `intermediates` mutable, the attention weights float32 `[b, h, n, n]` are sown there as
        `weights`.

        Args:
          x: `[b, n, d]`.
          bias: float32 `[p, h, n, n]`, added to the logits beside the block's own; see `attention_weights`.

        Returns:
          `[b, n, d]` in `dtype`.
        """
        width = x.shape[-1]
        shape = (self.heads, width // self.heads)
        fused = nn.DenseGeneral((3, *shape), use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype, name="qkv")
        query, key, value = jnp.unstack(fused(x), axis=2)
        query = query + self._bias("q_bias", shape)
        value = value + self._bias("v_bias", shape)

        if self.grid is not None:
            own = RelativePositionBias(self.heads, self.grid, name="relative_position")(x.shape[0])
            bias = own if bias is None else bias + own
        weights = attention_weights(query, key, bias)
        self.sow("intermediates", "weights", weights)
        mixed = jnp.einsum("bhqk,bkhc->bqhc", weights.astype(self.dtype), value)
        return nn.DenseGeneral(width, axis=(-2, -1), kernel_init=self.proj_init, dtype=self.dtype, name="proj")(mixed)

    def _bias(self, name: str, shape: tuple[int, int]) -> jax.Array:
        return self.param(name, nn.initializers.zeros, shape, jnp.float32).astype(self.dtype)[None, None]


def attention_weights(query: jax.Array, key: jax.Array, bias: jax.Array | None) -> jax.Array:
    """softmax(q k^T / sqrt(d/h) + bias).

    Written out because `jax.nn.dot_product_attention` computes the same on its XLA path but cannot be differentiated in
    bfloat16 under strict dtype promotion, and its cuDNN path takes no bias for an odd number of tokens.

    Args:
      query: `[b, n, h, d/h]`.
      key: `[b, n, h, d/h]`.
      bias: `[p, h, n, n]`, one for each of p equal parts of the batch, or None.

    Returns:
      float32 `[b, h, n, n]`; rows, which belong to queries, sum to one.
    """
    logits = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    return jax.nn.softmax(logits if bias is None else _add(len(bias), logits, bias))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _add(parts: int, logits: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds `bias` `[p, h, n, n]` to the p equal parts of `logits` `[b, h, n, n]`."""
    total = rearrange(logits, "(p b) h q k -> p b h q k", p=parts) + bias[:, None]
    return rearrange(total, "p b h q k -> (p b) h q k")


def _add_forward(parts: int, logits: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return _add(parts, logits, bias), None


def _add_backward(parts: int, _: None, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The sum over the batch as a product with ones: XLA for CPU takes 40 times as long for its own sum over a leading
    # axis, and for accelerators it makes the one from the other.
    split = rearrange(slope, "(p b) h q k -> p b h q k", p=parts)
    ones = jnp.ones(split.shape[1], slope.dtype)
    return slope, jnp.einsum("pbhqk,b->phqk", split, ones, precision=jax.lax.Precision.HIGHEST)


_add.defvjp(_add_forward, _add_backward)
